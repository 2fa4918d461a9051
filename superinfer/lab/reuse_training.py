"""Training of the reuse model with torch: examples from traces, the network, and its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from superinfer.errors import ConfigError
from superinfer.memory.orders.belady import NEVER, next_uses
from superinfer.memory.reuse.features import FEATURES
from superinfer.memory.reuse.history import History
from superinfer.memory.reuse.model import CLIP, FORMAT, HEADS, WIDTH
from superinfer.memory.reuse.trails import GAPS
from superinfer.outputs import replacing
from superinfer.request import Request

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

EDGES_S: Final = (10.0, 20.0, 35.0, 55.0, 75.0, 100.0, 140.0, 200.0, 300.0, 450.0, 600.0)
HIDDEN: Final = 48
DROPOUT: Final = 0.3
EPOCHS: Final = 20
BATCH: Final = 128
LEARNING_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 1e-3


@dataclass(slots=True, frozen=True)
class Examples:
    """Stretches of blocks at their uses, one row for those whose next use is the same."""

    features: Floats
    gaps: Floats
    blocks: Floats
    """How many blocks a row stands for."""
    survived: Floats
    """1 in every bin that was seen to pass without a use."""
    used: Floats
    """1 in the bin of the next use, if it was seen."""


def examples(requests: Sequence[Request], edges_s: Sequence[float]) -> Examples:
    """What the requests show; what comes after the last one is unknown."""
    history, uses = History(), next_uses(requests)
    features: list[list[float]] = []
    gaps: list[list[float]] = []
    spans: list[tuple[float, int, float]] = []
    for request, coming in zip(requests, uses, strict=True):
        if not coming:
            continue
        visit = history.visit(request, request.arrival_s)
        for row, start in enumerate(visit.starts):
            for blocks, position in _runs(coming[start : visit.stops[row]]):
                features.append(visit.features_of(row))
                gaps.append(visit.gaps_of(row))
                later = requests[position].arrival_s if position < NEVER else np.inf
                spans.append((request.arrival_s, blocks, later - request.arrival_s))
    if not spans:
        raise ConfigError("train-reuse: expected requests with hash_ids")
    used_s, blocks_of, gap_s = (np.array(column) for column in zip(*spans, strict=True))
    survived, used = _outcomes(gap_s, requests[-1].arrival_s - used_s, np.array(edges_s))
    arrays = (np.array(part, np.float32) for part in (features, gaps, blocks_of, survived, used))
    return Examples(*arrays)


def _runs(positions: list[int]) -> Iterable[tuple[int, int]]:
    """Lengths of equal neighbours, and what they are equal to."""
    start = 0
    for stop in range(1, len(positions) + 1):
        if stop == len(positions) or positions[stop] != positions[start]:
            yield stop - start, positions[start]
            start = stop


def _outcomes(
    gap_s: NDArray[Any], seen_s: NDArray[Any], edges_s: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which bins passed without a use, and in which one it was, as far as the trace shows."""
    bins = np.arange(len(edges_s))[None]
    bin_of_use = np.searchsorted(edges_s, gap_s)[:, None]
    survived = (bins < bin_of_use) & (edges_s[None] <= seen_s[:, None])
    used = (bins == bin_of_use) & (gap_s <= seen_s)[:, None]
    return survived, used


def train(traces: Sequence[Sequence[Request]], source: str, seed: int = 0) -> dict[str, Any]:
    """Fit a model to the requests of some traces; returns the arrays of its file."""
    torch = _torch()
    torch.manual_seed(seed)
    parts = [examples(requests, EDGES_S) for requests in traces]
    data = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Examples.__dataclass_fields__
    }
    mean = data["features"].mean(axis=0)
    scale = data["features"].std(axis=0) + np.float32(1e-3)
    data["features"] = np.clip((data["features"] - mean) / scale, -CLIP, CLIP)
    # By their blocks, a few prompts of hundreds would be most of what there is to learn from.
    data["weights"] = np.sqrt(data.pop("blocks"))
    weights = _fit(torch, data, seed)
    about = {"format": np.array(FORMAT), "source": np.array(source)}
    edges = np.array(EDGES_S)
    return {**about, "edges_s": edges, "mean": mean, "scale": scale, **weights}


def write_weights(path: Path, arrays: dict[str, Any]) -> None:
    """Write what `train` returned, whole or not at all."""
    with replacing(path) as staged, staged.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ConfigError(
            "train-reuse: needs torch; install it with: pip install 'superinfer[train]'"
        ) from None
    torch.set_num_threads(1)
    return torch


def _fit(torch: Any, data: dict[str, Floats], seed: int) -> dict[str, Floats]:
    rows = {name: torch.from_numpy(array) for name, array in data.items()}
    weights = _initial(torch)
    optimizer = torch.optim.AdamW(weights.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    random = np.random.default_rng(seed)
    count = len(rows["weights"])
    for _ in range(EPOCHS):
        for chosen in np.array_split(random.permutation(count), max(1, count // BATCH)):
            optimizer.zero_grad()
            _loss(torch, weights, {name: row[chosen] for name, row in rows.items()}).backward()
            optimizer.step()
        schedule.step()
    return {name: array.detach().numpy() for name, array in weights.items()}


def _initial(torch: Any) -> dict[str, torch.Tensor]:
    """Uniform within one over the root of the inputs; vectors of their own begin at 0."""
    shapes = {
        "embed": (1, WIDTH),
        "query": (len(FEATURES), WIDTH),
        "key": (WIDTH, WIDTH),
        "value": (WIDTH, WIDTH),
        "hidden": (len(FEATURES) + WIDTH, HIDDEN),
        "deep": (HIDDEN, HIDDEN),
        "out": (HIDDEN, len(EDGES_S)),
    }
    found: dict[str, torch.Tensor] = {}
    for name, (inputs, outputs) in shapes.items():
        bound = inputs**-0.5
        found[f"w_{name}"] = torch.empty(inputs, outputs).uniform_(-bound, bound)
        found[f"b_{name}"] = torch.empty(outputs).uniform_(-bound, bound)
    found["p_place"] = torch.zeros(GAPS, WIDTH)
    found["p_null"] = torch.zeros(WIDTH)
    for tensor in found.values():
        tensor.requires_grad_()
    return found


def _logits(torch: Any, w: dict[str, torch.Tensor], features: Any, gaps: Any) -> Any:
    """The network of `superinfer.memory.reuse.model`, with dropout."""
    rows, size = len(features), WIDTH // HEADS
    events = torch.relu(gaps[:, :, None] * w["w_embed"] + w["b_embed"] + w["p_place"])
    events = torch.cat([w["p_null"].expand(rows, 1, WIDTH), events], 1)
    keys = (events @ w["w_key"] + w["b_key"]).view(rows, -1, HEADS, size).transpose(1, 2)
    drawn = (events @ w["w_value"] + w["b_value"]).view(rows, -1, HEADS, size).transpose(1, 2)
    query = (features @ w["w_query"] + w["b_query"]).view(rows, HEADS, size, 1)
    scores = (keys @ query)[..., 0] / size**0.5
    absent = torch.cat([torch.zeros(rows, 1, dtype=torch.bool), gaps <= 0.0], 1)
    share = scores.masked_fill(absent[:, None], -1e9).softmax(-1)
    context = (share[:, :, None] @ drawn).reshape(rows, WIDTH)
    hidden = torch.relu(torch.cat([features, context], 1) @ w["w_hidden"] + w["b_hidden"])
    hidden = torch.dropout(hidden, DROPOUT, True)
    hidden = torch.relu(hidden @ w["w_deep"] + w["b_deep"])
    hidden = torch.dropout(hidden, DROPOUT, True)
    return hidden @ w["w_out"] + w["b_out"]


def _loss(torch: Any, weights: dict[str, torch.Tensor], rows: dict[str, Any]) -> Any:
    """Weighted mean of the negative log-likelihoods of the outcomes."""
    logits = _logits(torch, weights, rows["features"], rows["gaps"])
    softplus = torch.nn.functional.softplus
    losses = softplus(logits) * rows["survived"] + softplus(-logits) * rows["used"]
    return (losses.sum(1) * rows["weights"]).sum() / rows["weights"].sum()
