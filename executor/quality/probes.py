"""Harder tests for keys of few bits: outlier channels, and what to remember from far back."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from executor.models.base import Model
from executor.quality.evaluation import Form, Walk, picked
from superinfer.errors import ConfigError

OUTLIER_FACTOR = 12.0
OUTLIER_PAIRS = 2
PASSAGE, CUE = 64, 8
"""Bytes of a passage that comes again, and how many of them come before it can be recognised."""
PAIRS = 4


# -- outlier channels -----------------------------------------------------------------------------


def with_outliers(source: Path, target: Path) -> Path:
    """Write the Llama in `source` to `target` with channels of K that are far larger; `target`.

    In each KV head two rotated pairs of channels (i, i + D/2), drawn at random, become 12 times as
    large in K and 12 times smaller in the queries of its group. Scores stay what they are, as both
    channels of a pair are only turned into each other. Weights are written as float32, in which
    the function stays the same but for rounding. ConfigError for a model that norms its heads or
    has other names.
    """
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    found = 0
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            weights = {name: w.float() for name, w in load_file(path).items()}
            found += _scale_all(weights, config)
            save_file(weights, target / path.name, metadata={"format": "pt"})
        elif path.is_file():
            shutil.copyfile(path, target / path.name)
    if not found:
        raise ConfigError(f"no q_proj and k_proj in {source}: cannot put outlier channels there")
    types = dict.fromkeys(("dtype", "torch_dtype"), "float32")
    (target / "config.json").write_text(json.dumps(config | types), encoding="utf-8")
    return target


def _scale_all(weights: dict[str, Tensor], config: dict[str, Any]) -> int:
    """Scale the projections in place; how many there were."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads", heads))
    if any("q_norm" in name for name in weights):
        raise ConfigError("outlier channels need heads that are not normed")
    found = 0
    for name, weight in weights.items():
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:
                layer = int(name.split("layers.")[1].split(".")[0])
                factors = _factors(len(weight) // count, kv_heads, layer)
                if part == "q_proj":
                    factors = (1 / factors).repeat_interleave(heads // kv_heads, dim=0)
                weight.mul_(factors.reshape(-1, *(1,) * (weight.dim() - 1)))
                found += 1
    return found


def _factors(head_dim: int, kv_heads: int, layer: int) -> Tensor:
    """[kv_heads, head_dim]: the factor of each channel of K, drawn anew for each layer."""
    random = np.random.default_rng((0, layer))
    factors = torch.ones(kv_heads, head_dim)
    for head in range(kv_heads):
        pairs = torch.from_numpy(random.choice(head_dim // 2, OUTLIER_PAIRS, replace=False))
        factors[head, pairs] = factors[head, pairs + head_dim // 2] = OUTLIER_FACTOR
    return factors


# -- recall ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recall:
    """What a model remembers from `distance_tokens` back."""

    distance_tokens: int
    passage_first_bits: float
    """Bits per byte of a passage where it stands first, behind its first 8 bytes."""
    passage_again_bits: float
    """The same bytes where the passage comes again."""
    pair_bytes_right: float
    """Share of the bytes of a value that are the likeliest, after its key."""
    pair_bytes_guessed: float
    """The same where key and value never stood in the text."""


@dataclass(frozen=True)
class RecallText:
    """Windows [count, tokens + 1], and the columns of what is predicted in them."""

    passages: Tensor
    pairs: Tensor
    strangers: Tensor
    """As `pairs`, with other keys and values in front."""
    value: slice
    """Columns of the value asked for."""
    distance_tokens: int


def recall_text(
    filler: Sequence[int], count: int, distance_tokens: int, block_tokens: int
) -> RecallText:
    """Passages of `filler` that come again `distance_tokens` later, and keys with values.

    `distance_tokens` is a multiple of the tokens of a block. A key is asked for whose value stood
    at the very front, among others, that far back.
    """
    random = np.random.default_rng(0)
    length = distance_tokens + PASSAGE
    starts = np.linspace(0, len(filler) - length - 1, count).astype(int)
    passages: list[list[int]] = []
    known: list[list[int]] = []
    unknown: list[list[int]] = []
    for start in starts:
        text = list(filler[start : start + distance_tokens])
        passages.append([*text, *text[: PASSAGE + 1]])
        pairs, others = _pairs(random), _pairs(random)
        asked = pairs[int(random.integers(PAIRS))]
        room = -(-(distance_tokens + len(asked)) // block_tokens) * block_tokens + 1 - len(asked)
        for rows, shown in ((known, pairs), (unknown, others)):
            listed = [byte for pair in shown for byte in pair]
            rows.append([*listed, *filler[start : start + room - len(listed)], *asked])
    stop = len(known[0]) - 2  # A full stop and the end of the line are no part of the value.
    return RecallText(
        torch.tensor(passages),
        torch.tensor(known),
        torch.tensor(unknown),
        slice(stop - _NAME_BYTES, stop),
        distance_tokens,
    )


_NAME_BYTES = 6


def _pairs(random: np.random.Generator) -> list[bytes]:
    """Lines that give a made-up name another one."""
    names = [_name(random) for _ in range(2 * PAIRS)]
    return [
        f"The king of {key} was {value}.\n".encode()
        for key, value in zip(names[::2], names[1::2], strict=True)
    ]


def _name(random: np.random.Generator) -> str:
    letters = [str(random.choice(list(kind))) for kind in ("bdfgklmnprstz", "aeiou") * 3]
    return "".join(letters).capitalize()


def recall(model: Model, form: Form, text: RecallText) -> Recall:
    """What the model remembers with blocks of a form."""
    nats, _ = _predictions(model, form, text.passages)
    # Column i of the predictions is token i + 1.
    first = nats[:, CUE - 1 : PASSAGE - 1]
    behind = text.distance_tokens
    again = nats[:, behind + CUE - 1 : behind + PASSAGE - 1]
    asked = slice(text.value.start - 1, text.value.stop - 1)
    right = [_predictions(model, form, rows)[1][:, asked] for rows in (text.pairs, text.strangers)]
    return Recall(
        text.distance_tokens,
        float(first.mean()) / math.log(2),
        float(again.mean()) / math.log(2),
        *(float(hits.float().mean()) for hits in right),
    )


def _predictions(model: Model, form: Form, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each token but the first, and whether it was the likeliest [windows, tokens]."""
    targets = windows[:, 1:].to(model.device)
    nats, hits = [], []
    for start, logits in Walk(model, form, windows[:, :-1]).logits():
        wanted = targets[:, start : start + logits.shape[1]]
        nats.append(-picked(logits.log_softmax(-1), wanted))
        hits.append(logits.argmax(-1) == wanted)
    return torch.cat(nats, 1), torch.cat(hits, 1)
