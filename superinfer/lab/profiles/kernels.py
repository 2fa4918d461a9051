"""GEMM, attention and all-reduce of a model fitted on the measurements of one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import pandas as pd

CUSTOM_ALL_REDUCE_BYTES = 8 * 2**20
"""vLLM's own all-reduce serves smaller messages, NCCL the rest: the time jumps there."""
Entry = dict[str, float]

GRAPH_ROWS = 512
"""vLLM captures graphs of up to so many sequences."""
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
    mlp = {
        "gemm_gate_up": GemmShape((2 if shape.gated_mlp else 1) * inner, shape.hidden),
        "gemm_down": GemmShape(shape.hidden, inner),
    }
    router = {"moe_route": GemmShape(shape.experts, shape.hidden)}
    return {
        "gemm_qkv": GemmShape(query + 2 * key, shape.hidden),
        "gemm_o": GemmShape(shape.hidden, query),
        **(router if shape.experts else mlp),
        "gemm_lm_head": GemmShape(shape.vocab // tp, shape.hidden),
    }


def gemm_dtype(shape: ModelShape, kernel: str) -> str:
    """Of the weights of a matrix product; the LM head and a router keep 16 bits (empty)."""
    return "" if kernel in ("gemm_lm_head", "moe_route") else shape.weight_dtype


class GemmTable:
    """aiconfigurator's GEMM of one device: seconds over m at measured and other (n, k).

    A sparse table (the A100's, 21 counts) is read between two neighbouring shapes and rises in
    stairs; a dense one (Hopper's, 74 counts, each bimodal by about 15 %) is read through four and
    smoothed.
    """

    def __init__(self, data: Measurements, dtype: str = "") -> None:
        self.data, self.dtype, rows = data, dtype, data.gemm(dtype)
        self.cube = rows.pivot_table(index="m", columns=["n", "k"], values="latency") * 1e-3
        self.axes = {axis: np.array(sorted(rows[axis].unique()), dtype=float) for axis in "nk"}
        self.dense = len(self.cube) >= DENSE_COUNTS

    def measured(self, gemm: GemmShape) -> bool:
        """Whether this very shape was measured."""
        return (gemm.n, gemm.k) in self.cube.columns

    def outside(self, gemm: GemmShape) -> bool:
        """Whether a side of the matrix is over twice or under half of all measured: `shape_mape`
        does not tell about that.
        """
        sides = (("n", gemm.n), ("k", gemm.k))
        return any(not self.axes[axis][0] / 2 <= x <= self.axes[axis][-1] * 2 for axis, x in sides)

    def points(self, gemm: GemmShape) -> Points:
        """Seconds over m, by lines in n, then in k, between measured shapes."""
        return self._read(gemm, self.axes["n"], self.axes["k"])

    def fit(self, gemm: GemmShape) -> Fitted:
        """The table of one kernel."""
        points = self.points(gemm)
        if self.dense:
            kept = padded(points) if self.dtype else points
            return fit_table(without_repeats(kept), "tokens", fit_smooth)
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


def padded(points: Points) -> Points:
    """Without the counts just past a multiple of 16, up to `GRAPH_ROWS`: nobody runs them.

    Steps of so few rows are replayed from graphs whose sizes are multiples of 8. GEMM of 8-bit
    weights take up to twice as long for one row more than a full tile.
    """
    past = (points.x > 16) & (points.x % 16 == 1) & (points.x <= GRAPH_ROWS + 1)
    return Points(points.x[~past], points.y[~past])


def fit_gemm(table: GemmTable, shape: ModelShape, tp: int, kernel: str) -> tuple[Fitted, Entry]:
    """A matrix product with what its `fit` entry says beyond the held-out error.

    Vidur's own table for layers on devices whose profiles use it and that it measured, else
    aiconfigurator's.
    """
    gemm = gemm_shapes(shape, tp)[kernel]
    use_vidur = table.data.files.vidur_gemm and not table.dtype
    vidur = same_layers(table.data, shape, tp) if use_vidur else None
    extra: Entry = {}
    if vidur is not None and kernel in GEMM_OPS:
        fitted = fit_table(vidur.points(GEMM_OPS[kernel], tp), "tokens")
    else:
        fitted = table.fit(gemm)
        # Without a shape a sparse table is read from much farther away than the kernel itself.
        if table.dense and not table.measured(gemm):
            extra["shape_mape"] = round(table.shape_error(gemm), 4)
    if kernel in GEMM_OPS and not table.dtype:
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


def attention_rows(
    data: Measurements, phase: str, shape: ModelShape, tp: int
) -> tuple[pd.DataFrame, str]:
    """Attention of the model's heads on one of `tp` GPUs, and what stands in for it (or nothing).

    Where these heads were not measured it is the nearest combination, its time above the shortest
    multiplied by the ratio of what bounds it: bytes of the cache for decodes, arithmetic for
    prompts.
    """
    table = data.attention(phase, shape.kv_dtype)
    columns = ["num_heads", "num_key_value_heads", "head_dim"]
    wanted = np.array([shape.gpu_heads(tp), shape.gpu_kv_heads(tp), shape.head_dim], dtype=float)
    rows, nearest = _nearest(table, columns, wanted)
    if (nearest == wanted).all():
        return rows, ""
    heads, kv_heads, head_dim = (int(value) for value in nearest)
    ratios = wanted / nearest
    ratio = float(ratios[2] * (ratios[1] if phase == "generation" else ratios[0]))
    floor = rows.latency.min()
    scaled = rows.assign(latency=floor + (rows.latency - floor) * ratio)
    return scaled, (
        f"{heads} query and {kv_heads} KV heads of {head_dim}, scaled by {ratio:.4g} above "
        f"{1e3 * floor:.3g} us: {wanted[0]:.0f} and {wanted[1]:.0f} of {wanted[2]:.0f} were not "
        "measured"
    )


def _nearest(table: pd.DataFrame, columns: list[str], wanted: Array) -> tuple[pd.DataFrame, Array]:
    """The rows whose sizes are the fewest octaves away from those wanted, and these sizes."""
    measured = table[columns].drop_duplicates()
    octaves = np.abs(np.log2(measured.to_numpy(float) / wanted)).sum(axis=1)
    nearest = measured.iloc[int(octaves.argmin())]
    return table[(table[columns] == nearest).all(axis=1)], nearest.to_numpy(float)


def fit_experts(data: Measurements, shape: ModelShape, tp: int) -> tuple[Fitted, str]:
    """A layer's experts over tokens, split over `tp` GPUs; and what stands in for them, or nothing.

    Where no layer of these sizes was measured it is the nearest one, its time above the shortest
    multiplied by the ratio of the bytes of all experts.
    """
    table = data.experts(shape.weight_dtype)
    columns = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size"]
    sizes = (shape.hidden, shape.intermediate, shape.experts_per_token, shape.experts, tp)
    wanted = np.array(sizes, dtype=float)
    rows, nearest = _nearest(table, columns, wanted)
    rows = rows[rows.distribution == max(rows.distribution)]  # power_law_1.2 where there is one
    seconds = rows.groupby("num_tokens").latency.median() * 1e-3
    points = Points(seconds.index.to_numpy(float), seconds.to_numpy(float))
    if (nearest == wanted).all():
        return fit_table(points, "tokens"), ""
    near = dict(zip(columns, (int(value) for value in nearest), strict=True))
    weights = near["hidden_size"] * near["inter_size"] * near["num_experts"] / near["moe_tp_size"]
    ratio = shape.hidden * shape.intermediate * shape.experts / tp / weights
    floor = points.y.min()
    found = ", ".join(f"{name} {value}" for name, value in near.items())
    scaled = Points(points.x, floor + (points.y - floor) * ratio)
    return fit_table(scaled, "tokens"), f"{found}, scaled by {ratio:.4g} above its shortest time"


def fit_decode(data: Measurements, shape: ModelShape, tp: int) -> tuple[Fitted, float]:
    """Decode attention over (sequences, mean context), and the largest total context measured."""
    table, _ = attention_rows(data, "generation", shape, tp)
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
    table = attention_rows(data, "context", shape, tp)[0].sort_values(["batch_size", "isl"])
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
