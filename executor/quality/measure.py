"""The whole measurement: every form of blocks on a model, as it is and with outlier channels."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from executor.device import memory_bytes
from executor.models import Model, load_model
from executor.models.tokenizer import FileTokenizer
from executor.quality.evaluation import EXACT, FORMS, NAIVE, Baseline, windows_of
from executor.quality.probes import recall, recall_text, with_outliers
from executor.shipped import HELDOUT, TINY, documents
from superinfer.costs.shapes import load_shape
from superinfer.errors import ConfigError, InputError

Report = dict[str, Any]
RECALL_WINDOWS = 8
PREDICTIONS = 2
"""Copies of the predictions of all windows that are held at once, in float32."""


@dataclass(frozen=True)
class Settings:
    """How much is measured, and of what."""

    model: Path = TINY
    text: Path = HELDOUT
    device: str = "cpu"
    windows: int = 16
    length: int = 512
    distance: int = 1024
    """Tokens; how far back recall looks."""
    by_decode: bool = False


def measure(settings: Settings) -> Report:
    """Every form on the model as it is and on the same with outlier channels."""
    tokens = _tokens(settings)
    plain = _measure_one(settings, settings.model, tokens)
    with tempfile.TemporaryDirectory(prefix="superinfer-quality-") as folder:
        changed = with_outliers(settings.model, Path(folder))
        outliers = _measure_one(settings, changed, tokens)
    return {
        "model": settings.model.name,
        "device": settings.device,
        "windows": settings.windows,
        "length_tokens": settings.length,
        "distance_tokens": settings.distance,
        "attention": "decode" if settings.by_decode else "prefill",
        "versions": {"torch": torch.__version__},
        "plain": plain,
        "outliers": outliers,
    }


def _tokens(settings: Settings) -> list[int]:
    """The text as bytes for a byte-level model, else by the model's own tokenizer."""
    text, vocab = _read(settings.text), load_shape(settings.model / "config.json").vocab
    if vocab < 300:
        return [token for part in documents(text) for token in part]
    return FileTokenizer(settings.model / "tokenizer.json", vocab).encode(text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except ValueError as error:
        raise InputError(f"expected UTF-8: {error}", file=str(path)) from None


def _measure_one(settings: Settings, source: Path, tokens: list[int]) -> Report:
    dtype = torch.float32 if settings.device == "cpu" else torch.bfloat16
    model = load_model(source, device=settings.device, dtype=dtype)
    _check(settings, model, len(tokens))
    _check_windows(settings, model, len(tokens))
    windows = windows_of(tokens, settings.windows, settings.length)
    baseline = Baseline(model, windows, settings.by_decode)
    block, rows = model.layout.block_tokens, min(RECALL_WINDOWS, settings.windows)
    text = recall_text(tokens, rows, settings.distance, block)
    remembered = (EXACT, *FORMS[:2], NAIVE)
    return {
        "bits_per_token": float(baseline.nats().mean()) / math.log(2),
        "forms": {form.name: asdict(baseline.difference(form)) for form in FORMS},
        "recall": {form.name: asdict(recall(model, form, text)) for form in remembered},
    }


def _check(settings: Settings, model: Model, tokens: int) -> None:
    block = model.layout.block_tokens
    for name, value in (("length", settings.length), ("distance", settings.distance)):
        if value % block:
            raise ConfigError(f"--{name} {value}: expected whole blocks of {block} tokens")
        if value + 4 * block > min(tokens, model.max_model_len):
            raise ConfigError(
                f"--{name} {value}: the text has {tokens} tokens and the model a context of "
                f"{model.max_model_len}"
            )


def _check_windows(settings: Settings, model: Model, tokens: int) -> None:
    """There are no more windows than places in the text, and what a step says of all fits."""
    places = tokens - settings.length
    if settings.windows > places:
        raise ConfigError(
            f"--windows {settings.windows}: the text has {tokens} tokens, room for {places} "
            f"windows of {settings.length}"
        )
    kept = settings.windows * settings.length
    held = kept * (PREDICTIONS * 4 * model.vocab + _kv_bytes(model))
    room = memory_bytes(model.device)
    if held > room:
        raise ConfigError(
            f"--windows {settings.windows}: their predictions, keys and values take "
            f"{held / 2**30:.1f} GiB, and the device has {room / 2**30:.1f}"
        )


def _kv_bytes(model: Model) -> int:
    """Of one token, in the three precisions in which a walk has room for it."""
    layout = model.layout
    return sum(layout.block_bytes.values()) // layout.block_tokens
