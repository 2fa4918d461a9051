"""GEMM, attention and all-reduce of a model fitted on the measurements of one device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from superinfer.costs import ModelShape
from superinfer.costs.profile import Kernel
from superinfer.costs.tables import Grid
from superinfer.errors import InputError
from superinfer.lab.profiles.fits import (
    Array,
    Fitted,
    Points,
    causal_features,
    decode_grid,
    fit_regimes,
    fit_smooth,
    fit_stairs,
    fit_table,
    relative_fit,
    rounded,
    thirds,
    through,
    without_repeats,
)
from superinfer.lab.profiles.measurements import GEMM_OPS, Measurements
from superinfer.lab.profiles.pointwise import same_layers

CUSTOM_ALL_REDUCE_BYTES = 8 * 2**20
"""vLLM's own all-reduce serves smaller messages, NCCL the rest: the time jumps there."""
Entry = dict[str, float]

DENSE_COUNTS = 50
"""Token counts from which scatter, not the gaps between them, limits a GEMM table."""


@dataclass(frozen=True, slots=True)
class GemmShape:
    """Columns n and depth k of a matrix product; its rows are the tokens."""

    n: int
    k: int


def gemm_shapes(shape: ModelShape, tp: int) -> dict[str, GemmShape]:
    """The matrix products of one layer, and the LM head, on one of `tp` GPUs."""
    query = shape.gpu_heads(tp) * shape.head_dim
    key = shape.gpu_kv_heads(tp) * shape.head_dim
    inner = shape.intermediate // tp
    return {
        "gemm_qkv": GemmShape(query + 2 * key, shape.hidden),
        "gemm_o": GemmShape(shape.hidden, query),
        "gemm_gate_up": GemmShape(2 * inner, shape.hidden),
        "gemm_down": GemmShape(shape.hidden, inner),
        "gemm_lm_head": GemmShape(shape.vocab // tp, shape.hidden),
    }


class GemmTable:
    """aiconfigurator's GEMM of one device: seconds over m at measured and other (n, k).

    A sparse table (the A100's, 21 counts) is read between two neighbouring shapes and rises in
    stairs; a dense one (Hopper's, 74 counts, each bimodal by about 15 %) is read through four and
    smoothed.
    """

    def __init__(self, data: Measurements) -> None:
        self.data, rows = data, data.gemm()
        self.cube = rows.pivot_table(index="m", columns=["n", "k"], values="latency") * 1e-3
        self.axes = {axis: np.array(sorted(rows[axis].unique()), dtype=float) for axis in "nk"}
        self.dense = len(self.cube) >= DENSE_COUNTS

    def measured(self, gemm: GemmShape) -> bool:
        """Whether this very shape was measured."""
        return (gemm.n, gemm.k) in self.cube.columns

    def points(self, gemm: GemmShape) -> Points:
        """Seconds over m, by lines in n, then in k, between measured shapes."""
        return self._read(gemm, self.axes["n"], self.axes["k"])

    def fit(self, gemm: GemmShape) -> Fitted:
        """The table of one kernel."""
        points = self.points(gemm)
        if self.dense:
            return fit_table(without_repeats(points), "tokens", fit_smooth)
        return fit_table(points, "tokens", fit_stairs)

    def shape_error(self, gemm: GemmShape) -> float:
        """Mean error of reading the measured shapes around an unmeasured one as if unmeasured."""
        errors: list[float] = []
        for axis, value in (("n", gemm.n), ("k", gemm.k)):
            if value not in self.axes[axis]:
                errors += [self._left_out(gemm, axis, x) for x in self._around(axis, value)]
        return float(np.mean(errors))

    def _around(self, axis: str, x: float) -> Array:
        points = self.axes[axis]
        high = int(np.clip(np.searchsorted(points, x), 1, len(points) - 1))
        return points[high - 1 : high + 1] if x < points[-1] else points[-1:]

    def _left_out(self, gemm: GemmShape, axis: str, at: float) -> float:
        """The error at one measured value of an axis when that is left out."""
        n, k = (
            int(at) if axis == name else value for name, value in (("n", gemm.n), ("k", gemm.k))
        )
        truth = self.points(GemmShape(n, k)).y
        rest = {
            name: points[points != at] if name == axis else points
            for name, points in self.axes.items()
        }
        ours = self._read(GemmShape(n, k), rest["n"], rest["k"]).y
        return float(np.mean(np.abs(ours / truth - 1.0)))

    def _read(self, gemm: GemmShape, widths: Array, depths: Array) -> Points:
        per_side = 2 if self.dense else 1

        def at_width(width: float) -> Array:
            return through(depths, gemm.k, lambda depth: self._at(width, depth), per_side)

        return Points(self.cube.index.to_numpy(float), through(widths, gemm.n, at_width, per_side))

    def _at(self, n: float, k: float) -> Array:
        if not self.measured(GemmShape(int(n), int(k))):
            raise InputError(
                f"gemm_perf: expected n {n:.0f}, k {k:.0f} among the shapes",
                file=str(self.data.folder),
            )
        return np.asarray(self.cube[int(n), int(k)], dtype=float)


def fit_gemm(table: GemmTable, shape: ModelShape, tp: int, kernel: str) -> tuple[Fitted, Entry]:
    """A matrix product with what its `fit` entry says beyond the held-out error.

    Vidur's own table for layers on devices whose profiles use it and that it measured, else
    aiconfigurator's.
    """
    gemm = gemm_shapes(shape, tp)[kernel]
    vidur = same_layers(table.data, shape, tp) if table.data.files.vidur_gemm else None
    extra: Entry = {}
    if vidur is not None and kernel in GEMM_OPS:
        fitted = fit_table(vidur.points(GEMM_OPS[kernel], tp), "tokens")
    else:
        fitted = table.fit(gemm)
        # Without a shape a sparse table is read from much farther away than the kernel itself.
        if table.dense and not table.measured(gemm):
            extra["shape_mape"] = round(table.shape_error(gemm), 4)
    if kernel in GEMM_OPS:
        difference = source_difference(table, shape, tp, kernel, fitted)
        extra |= {} if difference is None else {"other_source_mape": round(difference, 4)}
    return fitted, extra


def source_difference(
    table: GemmTable, shape: ModelShape, tp: int, kernel: str, fitted: Fitted
) -> float | None:
    """Mean difference of a fitted layer GEMM from the source that it was not fitted on.

    That is aiconfigurator's curve for a fit on Vidur and the other way round; None where Vidur has
    not measured these layers on this device.
    """
    vidur = None if table.data.files.scaled_from else same_layers(table.data, shape, tp)
    if vidur is None:
        return None
    if table.data.files.vidur_gemm:
        other = table.points(gemm_shapes(shape, tp)[kernel])
    else:
        other = vidur.points(GEMM_OPS[kernel], tp)
    ours = np.array([fitted.curve.at(x) for x in other.x])
    return float(np.mean(np.abs(ours / other.y - 1.0)))


def fit_all_reduce(data: Measurements, tp: int) -> Fitted:
    """All-reduce of `tp` GPUs over bytes, with the jump at `CUSTOM_ALL_REDUCE_BYTES`."""
    return fit_regimes(data.all_reduce(tp), "bytes", CUSTOM_ALL_REDUCE_BYTES)


def fit_decode(data: Measurements, shape: ModelShape, tp: int) -> tuple[Fitted, float]:
    """Decode attention over (sequences, mean context), and the largest total context measured."""
    table = data.attention("generation", shape, tp)
    table = table.assign(context=table.step + table.isl)
    cells = table.pivot(index="batch_size", columns="context", values="latency") * 1e-3
    rows, columns = cells.index.to_numpy(float), cells.columns.to_numpy(float)
    values = cells.to_numpy(float)
    fitted = fit_cells(rows, columns, values, ("sequences", "context_tokens"))
    measured = np.isfinite(values)
    return fitted, float(np.max(np.where(measured, np.outer(rows, columns), 0.0)))


def fit_cells(rows: Array, columns: Array, values: Array, axes: tuple[str, str]) -> Fitted:
    """A table over two axes, whose holes are at the ends of rows, with its held-out errors."""
    errors: list[float] = []
    for held in thirds(len(rows)):
        grid = decode_grid(rows[~held], columns, values[~held])
        errors += _cell_errors(grid, rows[held], columns, values[held])
    for held in thirds(len(columns)):
        grid = decode_grid(rows, columns[~held], values[:, ~held])
        errors += _cell_errors(grid, rows, columns[held], values[:, held])
    final = decode_grid(rows, columns, values)
    kernel = Kernel(dict(zip(axes, (final.rows, final.columns), strict=True)), final.seconds)
    return Fitted(kernel, np.array(errors), int(np.isfinite(values).sum()))


def _cell_errors(grid: Grid, rows: Array, columns: Array, values: Array) -> list[float]:
    return [
        abs(grid.at(n, c) / values[i, j] - 1.0)
        for i, n in enumerate(rows)
        for j, c in enumerate(columns)
        if np.isfinite(values[i, j])
    ]


def fit_prefill(data: Measurements, shape: ModelShape, tp: int) -> tuple[Fitted, float]:
    """The `causal_linear` model of whole prompts, and the longest prompt measured."""
    table = data.attention("context", shape, tp).sort_values(["batch_size", "isl"])
    batch, isl = table.batch_size.to_numpy(float), table.isl.to_numpy(float)
    features = causal_features(batch, isl, np.zeros(len(isl)))
    seconds = table.latency.to_numpy(float) * 1e-3
    names = ("floor_s", "per_sequence_s", "per_token_s", "per_pair_s", "per_key_s")
    values = rounded(relative_fit(features, seconds), digits=5)
    kernel = Kernel({}, None, "causal_linear", dict(zip(names, values, strict=True)))
    return Fitted(kernel, _held_out(features, seconds), len(seconds)), float(isl.max())


def context_form_error(data: Measurements) -> float | None:
    """Held-out mean error of the same form on an older kernel, chunks of 64 to 4,096 tokens.

    None for a device on which chunks with earlier context were not measured.
    """
    table = data.legacy_prefill()
    if table is None:
        return None
    chunk, context = table.prefill_chunk_size.to_numpy(float), table.kv_cache_size.to_numpy(float)
    features = causal_features(np.ones(len(chunk)), chunk, context)[:, [0, 2, 3, 4]]
    seconds = table["time_stats.attn_prefill.median"].to_numpy(float) * 1e-3
    return float(np.mean(_held_out(features, seconds)))


def _held_out(features: Array, seconds: Array) -> Array:
    errors: list[float] = []
    for held in thirds(len(seconds)):
        found = relative_fit(features[~held], seconds[~held])
        errors += np.abs(features[held] @ found / seconds[held] - 1.0).tolist()
    return np.array(errors)
