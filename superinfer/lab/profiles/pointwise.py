"""Norms, rope, activation and embedding out of Vidur's tables, by the width they work on.

These kernels stream their rows through memory, so the number of values per token decides, not the
model. A model that Vidur did not run takes the table of the same width, or the line between the
nearest narrower and wider one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from superinfer.costs import ModelShape
from superinfer.errors import ConfigError, InputError
from superinfer.lab.profiles.fits import (
    Array,
    Fitted,
    Points,
    continued,
    fit_curve,
    fit_table,
    scaled_above_floor,
)
from superinfer.lab.profiles.measurements import POINTWISE_OPS, Measurements, VidurTable

if TYPE_CHECKING:
    import pandas as pd

END_TOKENS = 32768
"""Where every table of tokens ends, measured so far or continued."""
STREAMING_ROWS, STREAMING_WEIGHTS = 16, 2**26
"""A GEMM of at most so many rows and at least so many weights (128 MiB) is bound by memory."""

LAUNCHES: Mapping[str, int] = {"norm": 2, "rope_write": 1, "activation": 1, "embed": 1}
"""Kernels that vLLM launches in a layer; it adds the residual inside the norm."""

Sizes = ModelShape | VidurTable


def gated(sizes: Sizes) -> bool:
    """Whether the MLP has a gate; Vidur measured no other."""
    return not isinstance(sizes, ModelShape) or sizes.gated_mlp


def streaming_kernels(shape: ModelShape) -> tuple[str, ...]:
    """Those that a model has: none rotates learned positions, experts bring their activation."""
    absent = {"rope_write": shape.learned_positions, "activation": bool(shape.experts)}
    return tuple(kernel for kernel in POINTWISE_OPS if not absent.get(kernel))


_WIDTHS: Mapping[str, Callable[[Sizes, int], int]] = {
    "norm": lambda sizes, tp: sizes.hidden,
    "rope_write": lambda sizes, tp: (
        (sizes.heads // tp + max(1, sizes.kv_heads // tp)) * sizes.head_dim
    ),
    "activation": lambda sizes, tp: (
        # Without a gate one row is read instead of two for one that is written.
        sizes.intermediate // tp if gated(sizes) else 2 * sizes.intermediate // (3 * tp)
    ),
    "embed": lambda sizes, tp: sizes.hidden,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One Vidur table at one tensor-parallel degree, and its share in a kernel."""

    model: str
    tp: int
    share: float
    stretch: float = 1.0
    """By how much wider the rows are: the time above that of one token is multiplied."""

    def seconds(self, points: Points) -> Array:
        """Its part of the kernel's time, by what was measured."""
        stretched: Array = points.y
        if self.stretch != 1.0:
            stretched = points.y[0] + (points.y - points.y[0]) * self.stretch
        return stretched * self.share


def same_layers(data: Measurements, shape: ModelShape, tp: int) -> VidurTable | None:
    """Vidur's table of these layers at this degree, the one with the closest vocabulary."""
    tables = [table for table in data.vidur() if table.is_like(shape) and tp in table.degrees()]
    return min(tables, key=lambda table: abs(table.vocab - shape.vocab), default=None)


def pieces(data: Measurements, shape: ModelShape, tp: int, kernel: str) -> tuple[Piece, ...]:
    """The tables that make up a kernel: those of its width, or of the widths beside it; outside all
    of them the nearest one, stretched. ConfigError where Vidur ran nothing.
    """
    same = same_layers(data, shape, tp)
    if kernel == "rope_write" and shape.qk_norm:
        plain = pieces(data, replace(shape, qk_norm=False), tp, kernel)
        return tuple(replace(part, share=2.0 * part.share) for part in plain)
    if same is not None and gated(shape):
        return (Piece(same.name, tp, 1.0),)
    wanted = _WIDTHS[kernel](shape, tp)
    measured = sorted(
        # Of equal widths the nearest degree, then the first name.
        (_WIDTHS[kernel](table, degree), abs(degree - tp), table.name, degree)
        for table in data.vidur()
        for degree in table.degrees()
    )
    below = [entry for entry in measured if entry[0] <= wanted]
    above = [entry for entry in measured if entry[0] >= wanted]
    if not measured:
        raise ConfigError(f"{data.device}: expected a vidur/{data.files.vidur}/*/mlp.csv.gz")
    if not below or not above:
        end = measured[0] if not below else next(e for e in measured if e[0] == measured[-1][0])
        return (Piece(end[2], end[3], 1.0, wanted / end[0]),)
    low = next(entry for entry in below if entry[0] == below[-1][0])
    high = above[0]
    if low[0] == high[0]:
        return (Piece(low[2], low[3], 1.0),)
    share = (wanted - low[0]) / (high[0] - low[0])
    return Piece(low[2], low[3], 1.0 - share), Piece(high[2], high[3], share)


def piece_points(data: Measurements, parts: tuple[Piece, ...], kernel: str) -> Points:
    """Seconds by tokens of the pieces, weighted, at the counts that all of them have."""
    tables = {table.name: table for table in data.vidur()}
    missing = [part.model for part in parts if part.model not in tables]
    if missing:
        raise InputError(
            f"expected {missing[0]}/mlp.csv.gz", file=str(data.folder / "vidur" / data.files.vidur)
        )
    found = [tables[part.model].points(POINTWISE_OPS[kernel], part.tp) for part in parts]
    tokens = found[0].x
    for points in found[1:]:
        tokens = np.intersect1d(tokens, points.x)
    seconds = sum(
        part.seconds(points)[np.isin(points.x, tokens)]
        for part, points in zip(parts, found, strict=True)
    )
    return Points(tokens, np.asarray(seconds, dtype=float))


def fit_pointwise(
    data: Measurements, parts: tuple[Piece, ...], kernel: str
) -> tuple[Fitted, float]:
    """The table of a kernel, and the tokens up to which it was measured.

    A table that was measured less far goes on in a line to `END_TOKENS`. For a device that Vidur
    lacks it is the stand-in's, scaled by the ratio of bandwidths.
    """
    points = piece_points(data, parts, kernel)
    if data.files.replayed:
        points = replayed(data, parts, kernel, points)
    fitted = fit_table(points, "tokens")
    if points.x[-1] < END_TOKENS:
        fitted = continued(fitted, points, END_TOKENS)
    if data.files.scaled_from:
        ratio = streaming_ratio(data.on(data.files.scaled_from), data)
        fitted = fitted.reshaped(scaled_above_floor(fitted.curve, ratio))
    return fitted, float(points.x[-1])


def replayed(data: Measurements, parts: tuple[Piece, ...], kernel: str, points: Points) -> Points:
    """The same kernel inside a CUDA graph: one token takes as long as the device's shortest GEMM,
    once for each kernel that vLLM launches, and everything is shorter by the same.
    """
    launches = LAUNCHES[kernel] * sum(part.share for part in parts)
    least_s = launches * 1e-3 * float(data.gemm().latency.min())
    excess_s = max(0.0, float(points.y[0]) - least_s)
    return Points(points.x, np.maximum(points.y - excess_s, min(least_s, float(points.y[0]))))


def streaming_ratio(before: Measurements, after: Measurements) -> float:
    """Seconds on one device over those on another, for GEMM that stream their weights: median."""
    was, is_now = (_streaming(data) for data in (before, after))
    ratio: float = (is_now / was).dropna().median()
    return float(f"{ratio:.4g}")


def _streaming(data: Measurements) -> pd.Series[float]:
    table = data.gemm()
    large = table.n * table.k >= STREAMING_WEIGHTS
    rows = table[large & (table.m <= STREAMING_ROWS)]
    return rows.set_index(["m", "n", "k"]).latency


def scaling_error(data: Measurements, parts: tuple[Piece, ...], kernel: str) -> float:
    """How far the same scaling, from the A100 to the stand-in, misses what was measured there."""
    old, stand_in = data.on("a100-80g"), data.on(data.files.scaled_from)
    truth = piece_points(stand_in, parts, kernel)
    curve = fit_curve(piece_points(old, parts, kernel))
    scaled = scaled_above_floor(curve, streaming_ratio(old, stand_in))
    ours = np.array([scaled.at(x) for x in truth.x])
    return float(np.mean(np.abs(ours / truth.y - 1.0)))
