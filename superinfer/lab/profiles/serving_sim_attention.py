"""Attention from LLMServingSim's tables: chunks, decodes alone and beside them, uneven contexts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from superinfer.costs import ModelShape
from superinfer.costs.profile import Kernel
from superinfer.costs.tables import Grid
from superinfer.errors import InputError
from superinfer.lab.profiles.fits import Array, Fitted, causal_features, relative_fit, rounded
from superinfer.lab.profiles.kernels import Entry, fit_cells
from superinfer.lab.profiles.serving_sim_tables import LEAST_COUNTS, Tables
from superinfer.lab.profiles.skew import Skews, skew_kernels

if TYPE_CHECKING:
    import pandas as pd

SERVED_CONTEXT = 256
"""Tokens that a decode in service has at least."""
_CHUNK_ROWS = (4096.0, 8192.0, 16384.0, 32768.0)
"""Chunks that the table has rows for beyond what was measured, in tokens."""

Fits = dict[str, tuple[Fitted, Entry]]
"""Kernels by name, with what their entry says beside the errors."""


class _Batches(NamedTuple):
    """Rows of the attention table, with `seconds`, by what was in the batch."""

    chunks: pd.DataFrame
    """Chunks alone."""
    decodes: pd.DataFrame
    """Decodes alone."""
    both: pd.DataFrame
    least: pd.DataFrame
    """Of `both`, decodes beside the shortest chunk, which reads no context before it."""


def attention(tables: Tables, shape: ModelShape, tp: int) -> Fits:
    """Every kernel of attention; InputError where too little was measured."""
    batches = _batches(tables)
    alone = _cells(batches.chunks, "prefill_chunk", "kv_prefill")
    prefill = fit_cells(*alone, ("chunk_tokens", "context_tokens"))
    axes = ("sequences", "context_tokens")
    decodes = fit_cells(*_cells(batches.decodes, "n_decode", "kv_decode"), axes)
    beside = fit_cells(*_cells(batches.least, "n_decode", "kv_decode"), axes)
    for what, each in (("chunks", prefill), ("decodes", decodes), ("mixed", beside)):
        if not np.isfinite(np.array(each.kernel.seconds)).all():
            expected = f"expected rows of {what} without holes at small contexts"
            raise InputError(expected, file=str(tables.path("attention")))
    tables.ranges["attention_prefill"] = {"chunk_tokens": [1, int(alone[0][-1])]}
    return {
        "attention_prefill": (_longer(prefill, alone), {}),
        "attention_decode_16": (decodes, {}),
        "attention_mixed_16": _unequal(tables, beside),
        "attention_idle": (_idle(batches.both, prefill, beside), {}),
        **_uneven(tables, decodes, shape.gpu_kv_heads(tp)),
    }


# -- inside ---------------------------------------------------------------------------------------


def _batches(tables: Tables) -> _Batches:
    table = tables.read("attention", "prefill_chunk kv_prefill n_decode kv_decode time_us")
    table = table.assign(seconds=table.time_us * 1e-6)
    idle = ((table.prefill_chunk == 0) & (table.n_decode == 0)).to_numpy()
    if idle.any():
        expected = "expected a prefill_chunk or n_decode above 0"
        line = int(np.argmax(idle)) + 2
        raise InputError(expected, file=str(tables.path("attention")), line=line)
    both = table[(table.prefill_chunk > 0) & (table.n_decode > 0)]
    least = both[(both.prefill_chunk == both.prefill_chunk.min()) & (both.kv_prefill == 0)]
    found = _Batches(table[table.n_decode == 0], table[table.prefill_chunk == 0], both, least)
    for rows, one, other, what in (
        (found.chunks, "prefill_chunk", "kv_prefill", "chunks alone (n_decode 0)"),
        (found.decodes, "n_decode", "kv_decode", "decodes alone (prefill_chunk 0)"),
        (found.least, "n_decode", "kv_decode", "decodes beside the shortest chunk"),
    ):
        _require_cells(tables, rows, one, other, what)
    return found


def _require_cells(tables: Tables, rows: pd.DataFrame, one: str, other: str, what: str) -> None:
    for axis in (one, other):
        wanted = f"{what} at {LEAST_COUNTS} or more values of {axis}"
        tables.require(rows[axis].nunique(), "attention", wanted)


def _cells(table: pd.DataFrame, rows: str, columns: str) -> tuple[Array, Array, Array]:
    """Seconds over two axes; a hole between measured points of a row lies on their line."""
    cells = table.pivot_table(index=rows, columns=columns, values="seconds")
    cells = cells.interpolate(axis=1, method="index", limit_area="inside")
    return cells.index.to_numpy(float), cells.columns.to_numpy(float), cells.to_numpy(float)


def _idle(both: pd.DataFrame, prefill: Fitted, mixed: Fitted) -> Fitted:
    """What a step's attention takes beyond its chunk and its decodes, per pair of a decode and a
    query of the chunk; errors are those of the whole sum.
    """
    chunks, decodes = _grid(prefill), _grid(mixed)
    rows = both[["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "seconds"]].to_numpy()
    launch_s = decodes.seconds[0][0]
    parts = np.array([chunks.at(t, c) + decodes.at(n, k) - launch_s for t, c, n, k, _ in rows])
    pairs, seconds = rows[:, 0] * rows[:, 2], rows[:, 4]
    # Where there are few pairs it is the difference of two times that are alike; and decodes with
    # hardly any context leave bandwidth free that they take in service.
    large = (pairs >= 0.25 * pairs.max()) & (rows[:, 3] >= SERVED_CONTEXT)
    rest = np.clip(seconds - parts, 0.0, None)
    per_pair_s = float(np.median(rest[large] / pairs[large]))
    errors = np.abs((parts + per_pair_s * pairs) / seconds - 1.0)
    coefficients = {"base_s": 0.0, "per_unit_s": float(f"{per_pair_s:.4g}")}
    return Fitted(Kernel({}, None, "linear", coefficients), errors, len(rows))


def _grid(fitted: Fitted) -> Grid:
    rows, columns = fitted.kernel.axes.values()
    return Grid(rows, columns, fitted.kernel.seconds or ())


def _longer(fitted: Fitted, cells: tuple[Array, Array, Array]) -> Fitted:
    """The same table with rows for chunks that were not measured, by the smooth model's growth."""
    rows, columns, values = cells
    chunk, context = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    seconds, upper = values.ravel(), rows[-1] / 8
    known = np.isfinite(seconds) & (chunk >= upper)
    features = causal_features(np.ones(known.sum()), chunk[known], context[known])
    found = relative_fit(features, seconds[known])
    grid, last = _grid(fitted), rows[-1]

    def model(tokens: float) -> Array:
        ones = np.ones(len(columns))
        return causal_features(ones, tokens * ones, columns) @ found

    end = np.array(grid.seconds[-1])
    more = [tuple(rounded(end + model(row) - model(last))) for row in _CHUNK_ROWS if row > last]
    taller = tuple(row for row in _CHUNK_ROWS if row > last)
    axes = {"chunk_tokens": (*grid.rows, *taller), "context_tokens": grid.columns}
    return replace(fitted, kernel=Kernel(axes, (*grid.seconds, *more)))


def _uneven(tables: Tables, decode: Fitted, kv_heads: int) -> Fits:
    """Decode batches of unequal contexts, from all those of the skew table."""
    table = tables.read("skew", "regime n kv_big kv_mean t_mean_us t_skew_us")
    rows = table[(table.regime == "pure") & (table.kv_big > table.kv_mean)]
    what = f"rows of the regime pure with kv_big above kv_mean at {LEAST_COUNTS} or more n"
    tables.require(rows.n.nunique(), "skew", what)
    grid = _grid(decode)
    skews = Skews(
        rows.n.to_numpy(float),
        rows.kv_big.to_numpy(float),
        rows.kv_mean.to_numpy(float),
        np.array([grid.at(n, k) for n, k in zip(rows.n, rows.kv_mean, strict=True)]),
        (rows.t_skew_us / rows.t_mean_us).to_numpy(float) - 1.0,
    )
    return {name: (fitted, {}) for name, fitted in skew_kernels(skews, kv_heads).items()}


def _unequal(tables: Tables, fitted: Fitted) -> tuple[Fitted, Entry]:
    """The table of decodes beside chunks, raised from equal contexts to what unequal ones take.

    The skew table has batches in which some contexts are several times as long as the others,
    against equal ones of the same mean. The ratio of their times depends on the batch size and
    little on who is long; its mean goes into the table. `unequal_mape` is what is left of it.
    """
    table = tables.read("skew", "regime n t_mean_us t_skew_us")
    rows = table[table.regime == "mixed"]
    what = f"rows of the regime mixed at {LEAST_COUNTS} or more n"
    tables.require(rows.n.nunique(), "skew", what)
    sizes, logs = rows.n.to_numpy(float), np.log((rows.t_skew_us / rows.t_mean_us).to_numpy(float))
    known = np.unique(sizes)
    means = np.array([logs[sizes == size].mean() for size in known])
    left = np.abs(np.exp(np.interp(sizes, known, means) - logs) - 1.0)
    grid = _grid(fitted)
    axis, levels = np.log2([1.0, *known]), [0.0, *means]
    ratios = np.exp(np.interp(np.log2(grid.rows), axis, levels))
    raised = np.array(grid.seconds) * ratios[:, None]
    raised = np.maximum.accumulate(raised, axis=0)
    axes = {"sequences": grid.rows, "context_tokens": grid.columns}
    kernel = Kernel(axes, tuple(tuple(rounded(row)) for row in raised))
    return replace(fitted, kernel=kernel), {"unequal_mape": round(float(left.mean()), 4)}
