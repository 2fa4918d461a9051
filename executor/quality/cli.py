"""`superinfer-exec quality`: what fewer bits for keys and values cost, on a real model."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from executor.options import JsonAlone, OwnDevice
from executor.shipped import HELDOUT, TINY, documents
from superinfer.costs.shapes import load_shape
from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.outputs import check_writable
from traces.printing import print_out, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from executor.models.base import Model
    from superinfer.costs.profile import Profile

Report = dict[str, Any]

LEGEND = """\
Against 16 bits everywhere. Blocks have 16 bits while they are the newest. "K per token" is naive
and for comparison. Outliers: two pairs of channels of each KV head made 12 times as large in K."""
RECALL_WINDOWS = 8
PREDICTIONS = 2
"""Copies of the predictions of all windows that are held at once, in float32."""
RECALL_LEGEND = """\
Bits per byte of a passage where it stands first and again; how many bytes of a value are predicted
right after its key, and without the key and the value ever having stood in the text."""


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


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("quality")(quality)


def quality(
    model: Annotated[
        Path, typer.Option(help="Folder of a Llama.", show_default="the shipped one")
    ] = TINY,
    text: Annotated[
        Path,
        typer.Option(help="Text that it was not trained on.", show_default="the shipped one's"),
    ] = HELDOUT,
    device: OwnDevice = None,
    windows: Annotated[int, typer.Option(min=2, help="Windows of text.")] = 16,
    length: Annotated[int, typer.Option(min=64, help="Tokens of a window.")] = 512,
    distance: Annotated[int, typer.Option(min=128, help="Tokens that recall looks back.")] = 1024,
    decode: Annotated[bool, typer.Option("--decode", help="Token by token, as decodes.")] = False,
    as_json: JsonAlone = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", "--out", metavar="FILE", help="Profile that takes the figures."
        ),
    ] = None,
) -> None:
    """Measure what 8 and 4 bits for keys and values cost in quality."""
    settings = Settings(_folder(model), text, _device(device), windows, length, distance, decode)
    if out is not None:
        check_writable(out, file=True)
        _check_profile(out, settings.model)
    report = measure(settings)
    if out is not None:
        write_figures(report, out)
    if as_json:
        print_out(json.dumps(report, indent=1))
        return
    for legend, table in ((LEGEND, _differences(report)), (RECALL_LEGEND, _recalls(report))):
        print_table(table)
        print_out(legend)


def _folder(model: Path) -> Path:
    """Where the weights are of a model in which outlier channels can be made."""
    from executor.models.config import read_config

    config, folder = read_config(model)
    if folder is None:
        raise ConfigError(f"--model {model}: expected a folder with weights, found a preset")
    if config.family not in {"llama", "mixtral"} or config.qk_norm:
        raise ConfigError(f"--model {model}: expected a Llama without norms of its heads")
    return folder


def _device(name: str | None) -> str:
    from executor.device import default_device, find_device

    if name is None:
        return default_device()
    if name not in {"cpu", "cuda"}:
        raise ConfigError(f"--device {name}: expected cpu or cuda")
    if name == "cuda":
        find_device(name)  # complains where there is none
    return name


def measure(settings: Settings) -> Report:
    """Every form on the model as it is and on the same with outlier channels."""
    import torch

    tokens = _tokens(settings)
    plain = _measure_one(settings, settings.model, tokens)
    with tempfile.TemporaryDirectory(prefix="superinfer-quality-") as folder:
        from executor.quality.probes import with_outliers

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
    from executor.models.tokenizer import FileTokenizer

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
    import torch

    from executor.models import load_model
    from executor.quality.evaluation import EXACT, FORMS, NAIVE, Baseline, windows_of
    from executor.quality.probes import recall, recall_text

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
    from executor.device import memory_bytes

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


def figures(report: Report) -> Report:
    """The `quality` of a profile: per precision, on the model as it is."""
    keys = ("kl", "perplexity_change", "same_top1")
    forms = report["plain"]["forms"]
    return {bits: {key: forms[f"{bits} bits"][key] for key in keys} for bits in ("8", "4")}


def write_figures(report: Report, path: Path) -> None:
    """Put the figures into a profile that is there, or write a file that has them alone."""
    from superinfer.costs.profile_file import write_profile

    profile = _profile_at(path)
    if profile is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"quality": figures(report)}, indent=1) + "\n", "utf-8")
        return
    source = f"quality: superinfer-exec quality on {report['model']}"
    others = [text for text in profile.sources if not text.startswith("quality: ")]
    write_profile(
        replace(profile, quality=figures(report), sources=[*others, source]),
        path,
    )


def _profile_at(path: Path) -> Profile | None:
    """The profile that is to take the figures; None where there is none, or a file that has such
    figures alone. Raises InputError for another file.
    """
    from superinfer.costs import load_profile

    if not path.exists() or _has_figures_alone(path):
        return None
    return load_profile(path)


def _has_figures_alone(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and list(found) == ["quality"]


def _check_profile(path: Path, measured: Path) -> None:
    """Before the work: raise for what is no profile; say so where one is to get the figures of a
    model of another shape than its own.
    """
    profile = _profile_at(path)
    if profile is None:
        return
    for note in profile.notes:  # what is ignored is not written back
        print(f"warning: {note}", file=sys.stderr)
    with suppress(SuperInferError):  # a profile of a model that is at no hand
        shape, other = load_shape(measured), load_shape(profile.model)
        if (shape.layers, shape.hidden) != (other.layers, other.hidden):
            text = f"a profile of {profile.model}; these figures are of {measured.name}"
            print(f"warning: {path}: {text}", file=sys.stderr)


def _differences(report: Report) -> Table:
    table = _table("keys and values", "perplexity", "+/-", "KL", "same top 1")
    for kind in ("plain", "outliers"):
        bits = report[kind]["bits_per_token"]
        table.add_row(f"{kind}: {bits:.3f} bits per token", "", "", "", "")
        for name, found in report[kind]["forms"].items():
            table.add_row(
                f"  {name}",
                f"{found['perplexity_change']:+.3%}",
                f"{found['perplexity_error']:.3%}",
                f"{found['kl']:.1e}",
                f"{found['same_top1']:.2%}",
            )
    return table


def _recalls(report: Report) -> Table:
    far = f"{report['distance_tokens']} tokens back"
    table = _table(far, "passage, first", "again", "values right", "guessed")
    for kind in ("plain", "outliers"):
        for name, found in report[kind]["recall"].items():
            table.add_row(
                f"{kind}: {name}",
                f"{found['passage_first_bits']:.2f}",
                f"{found['passage_again_bits']:.2f}",
                f"{found['pair_bytes_right']:.0%}",
                f"{found['pair_bytes_guessed']:.0%}",
            )
    return table


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table
