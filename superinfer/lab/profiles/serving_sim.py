"""Profiles from LLMServingSim's tables of one device: every kernel of a layer, attention by batch.

The layout is that of the project: `<device>/<owner>/<model>/bf16/tp<N>/{dense,per_sequence,
attention,skew,moe}.csv`, plain or gzip, microseconds of one call in an engine that launches its
kernels one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superinfer.costs import DEFAULT_HOST, HostCost, ModelShape, load_device
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.graphs import Graphs
from superinfer.costs.profile import PARTLY_FITTED, Kernel, Profile
from superinfer.costs.shapes import canonical_name
from superinfer.costs.tables import Curve, Grid
from superinfer.errors import ConfigError, InputError
from superinfer.lab.profiles.fits import (
    Array,
    Fitted,
    Points,
    causal_features,
    continued,
    fit_curve,
    fit_edges,
    fit_table,
    relative_fit,
    rounded,
    thirds,
)
from superinfer.lab.profiles.kernels import Entry, fit_cells
from superinfer.lab.profiles.measurements import read_csv
from superinfer.lab.profiles.skew import Skews, skew_kernels

if TYPE_CHECKING:
    import pandas as pd

LAYOUT = "a folder of LLMServingSim's, RTXPRO6000/<owner>/<model>/bf16/tp<N>/dense.csv"
FOLDERS = {"rtxpro6000": "RTXPRO6000"}
"""What the project calls a device."""
SOURCE = "casys-kaist/LLMServingSim@5daddb21"
CHUNKED = {
    "rtxpro6000": 0.00315,
}
"""Seconds that a step with chunks takes beyond its kernels, by device: the one constant that is
fitted to a run. The median of all steps of the part where nearly all places are taken in which one
prompt came in by itself, as `python -m experiments.accuracy serving --fit` prints it."""
RING = "a ring over the nominal link"
CAPTURED = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Sequences of the graphs that vLLM captures unless told otherwise: 512, or twice `max_num_seqs`
where that is less, at most (`cudagraph_capture_sizes`)."""
END_TOKENS = 32768.0
"""Tables go on in a line to here; what was measured ends earlier, and the profile says where."""
END_ROWS = 2048.0

GEMM = {"gemm_qkv": "qkv_proj", "gemm_o": "o_proj"}
DENSE_GEMM = {"gemm_gate_up": "gate_up_proj", "gemm_down": "down_proj"}
STREAMING: Mapping[str, Mapping[str, int]] = {
    "norm": {"layernorm": 2, "qk_norm": 2},
    "rope_write": {"rotary_emb": 1},
    "activation": {"act_fn": 1},
    "embed": {"embedding": 1, "final_layernorm": 1},
}
"""Layers that make up a kernel, and how often."""
NOT_EVERYWHERE = ("qk_norm",)
"""Layers that a model may lack; any other must have been measured."""
NOT_OF_EXPERTS = ("act_fn",)
"""Likewise, of a model of experts, whose block has it inside."""
TEXTS = ("layer", "regime")
FROM_ONE = ("tokens", "sequences", "activated_experts", "n")
"""Columns that count something of which there is at least one."""
LEAST_COUNTS = 3
"""Counts that a table takes: two ends, and one between them to hold out."""
SERVED_CONTEXT = 256
"""Tokens that a decode in service has at least."""
EXPERT_COUNTS = 60
"""Token counts at which a block of experts is read off, evenly in logarithms."""
_CHUNK_ROWS = (4096.0, 8192.0, 16384.0, 32768.0)


def holds_tables(folder: Path) -> bool:
    """Whether a folder has the layout that this module reads."""
    return any((folder / name).is_dir() for name in FOLDERS.values())


def from_tables(folder: Path, device: str, shape: ModelShape, tp: int) -> Profile:
    """The profile of a model on a device; raises like `build_profile`."""
    if shape.weight_dtype or shape.kv_dtype:
        raise ConfigError(f"{device}: weights and cache of 8 bits were not measured in {SOURCE}")
    tables, spec = Tables(folder, device, shape, tp), load_device(device)
    fits = _dense(tables, shape) | _rows(tables) | _attention(tables, shape, tp)
    kernels = {name: each.kernel for name, (each, _) in fits.items()}
    if tp > 1:
        kernels["all_reduce"] = _all_reduce(spec, tp)
    host = _host(device)
    return Profile(
        device=device,
        model=canonical_name(shape.name),
        tp=tp,
        kernels=kernels,
        links={"h2d": spec.h2d, "d2h": spec.d2h},
        host=host,
        memory={"device_bytes": spec.memory_bytes, "kv_blocks": None, "block_tokens": 16},
        quality={"8": {"kl": None, "perplexity_change": None}, "4": {}},
        fit={name: each.entry() | extra for name, (each, extra) in fits.items()},
        range=tables.ranges,
        graphs=Graphs(CAPTURED, (), 0),
        assumed={"all_reduce": RING} if tp > 1 else {},
        sources=_sources(tables, shape, tp, host),
        versions={"vllm": tables.vllm},
    )


class Tables:
    """The CSV files of one model; `ranges` collects where measuring ended."""

    def __init__(self, folder: Path, device: str, shape: ModelShape, tp: int) -> None:
        if device not in FOLDERS:
            raise ConfigError(
                f"no measurements of {device!r} are known there; known devices: "
                f"{', '.join(FOLDERS)}"
            )
        self.folder = self._find(folder / FOLDERS[device], shape, tp)
        self.ranges: dict[str, dict[str, list[int]]] = {}

    @staticmethod
    def _find(device: Path, shape: ModelShape, tp: int) -> Path:
        """The folder of a model: whatever its owner, and however its name is spelt."""
        wanted, found = canonical_name(shape.name), {}
        for path in sorted(device.glob("*/*")):
            found[canonical_name(path.name)] = path
        if wanted not in found:
            raise ConfigError(f"{shape.name} was not measured; known there: {', '.join(found)}")
        folder = found[wanted] / "bf16" / f"tp{tp}"
        if not folder.is_dir():
            raise ConfigError(f"{shape.name} was not measured at tp={tp}: no folder {folder}")
        return folder

    @property
    def vllm(self) -> str:
        """The version of vLLM that was measured."""
        path = self.folder.parent / "meta.yaml"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = (line.partition(":")[2] for line in lines if line.startswith("vllm_version:"))
        return next(found, "unknown").strip()

    def read(self, name: str, columns: str) -> pd.DataFrame:
        """One of the CSV files: these columns, times above zero, counts that are none below."""
        path = self.path(name)
        table = read_csv(path, columns)
        numbers = [column for column in columns.split() if column not in TEXTS]
        return table.assign(**{column: _numbers(table, column, path) for column in numbers})

    def path(self, name: str) -> Path:
        """Of a CSV file, plain or gzip."""
        paths = [self.folder / f"{name}.csv", self.folder / f"{name}.csv.gz"]
        return next((path for path in paths if path.is_file()), paths[0])

    def has(self, file: str, name: str) -> bool:
        """Whether a layer was measured at all."""
        return bool((self.read(file, "layer").layer == name).any())

    def layer(self, file: str, name: str, axis: str) -> Points:
        """Seconds of one layer over an axis; where a count was measured twice, the median."""
        table = self.read(file, f"layer {axis} time_us")
        medians = table[table.layer == name].groupby(axis).time_us.median()
        points = Points(medians.index.to_numpy(float), medians.to_numpy(float) * 1e-6)
        self.require(len(points.x), file, f"rows of {name} at {LEAST_COUNTS} or more {axis}")
        return points

    def require(self, found: int, file: str, what: str) -> None:
        """InputError that names the file, unless there are counts enough to fit and to hold out."""
        if found < LEAST_COUNTS:
            raise InputError(f"expected {what}, got {found}", file=str(self.path(file)))

    def end(self, kernel: str, axis: str, points: Points) -> None:
        """Remember where the measurements of a kernel ended."""
        self.ranges[kernel] = {axis: [int(points.x[0]), int(points.x[-1])]}


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column as finite numbers of at least what it can be; the first that is none is named."""
    import pandas as pd

    time = column.endswith("_us")
    found = pd.to_numeric(table[column], errors="coerce").astype(float)
    least = 1.0 if column in FROM_ONE else 0.0
    good = np.isfinite(found) & ((found > 0.0) if time else (found >= least))
    if good.all():
        return found
    row = int(np.argmin(np.asarray(good)))
    expected = "expected times > 0 (us)" if time else f"expected a number from {least:.0f}"
    got = f"{expected}, got {table[column].iloc[row]}"
    raise InputError(got, file=str(path), line=row + 2, field=column)


Fits = dict[str, tuple[Fitted, Entry]]


def _dense(tables: Tables, shape: ModelShape) -> Fits:
    gemm = GEMM if shape.experts else {**GEMM, **DENSE_GEMM}
    fits: Fits = {}
    for kernel, layer in gemm.items():
        points = tables.layer("dense", layer, "tokens")
        fits[kernel] = _over_tokens(tables, kernel, points, edges=True)
    without = {*NOT_EVERYWHERE, *(NOT_OF_EXPERTS if shape.experts else ())}
    for kernel, parts in STREAMING.items():
        found = {
            name: times
            for name, times in parts.items()
            if name not in without or tables.has("dense", name)
        }
        if found:
            fits[kernel] = _over_tokens(tables, kernel, _together(tables, found))
    if shape.experts:
        fits["moe_gemm"] = _experts(tables, shape), {}
    return fits


def _together(tables: Tables, parts: Mapping[str, int]) -> Points:
    """Seconds of several layers, each so often, at the token counts that all were measured at."""
    layers = {name: tables.layer("dense", name, "tokens") for name in parts}
    counts = reduce(np.intersect1d, [points.x for points in layers.values()])
    what = f"{LEAST_COUNTS} or more counts of tokens in common for {', '.join(parts)}"
    tables.require(len(counts), "dense", what)
    at = {name: np.isin(points.x, counts) for name, points in layers.items()}
    seconds = sum(layers[name].y[at[name]] * times for name, times in parts.items())
    return Points(counts, np.asarray(seconds))


def _over_tokens(
    tables: Tables, kernel: str, points: Points, *, edges: bool = False
) -> tuple[Fitted, Entry]:
    tables.end(kernel, "tokens", points)
    fitted = fit_table(points, "tokens", fit_edges if edges else fit_curve)
    return continued(fitted, points, END_TOKENS), {}


def _experts(tables: Tables, shape: ModelShape) -> Fitted:
    """A block of experts, read at the number of them that so many tokens reach on average.

    Each token picks `k` of `E` independently: `E * (1 - (1 - k/E)^n)` of them are loaded.
    """
    table = tables.read("moe", "tokens activated_experts time_us")
    curves = {
        float(rows.tokens.iloc[0]): Curve(
            tuple(rows.activated_experts.to_numpy(float).tolist()),
            tuple((rows.time_us * 1e-6).to_numpy(float).tolist()),
        )
        for _, rows in table.sort_values("activated_experts").groupby("tokens")
    }
    tables.require(len(curves), "moe", f"experts at {LEAST_COUNTS} or more counts of tokens")
    counts, share = np.array(sorted(curves)), shape.experts_per_token / shape.experts
    tables.ranges["moe_gemm"] = {"tokens": [int(counts[0]), int(counts[-1])]}

    def seconds(tokens: float, known: Array) -> float:
        """Between two counts on their line, each read at what `tokens` reach."""
        reached = shape.experts * (1.0 - (1.0 - share) ** tokens)
        return float(np.interp(tokens, known, [curves[x].at(reached) for x in known]))

    errors = [
        abs(seconds(tokens, counts[~held]) / seconds(tokens, counts) - 1.0)
        for held in thirds(len(counts))
        for tokens in counts[held]
    ]
    spread = np.geomspace(counts[0], counts[-1], EXPERT_COUNTS, dtype=float)
    steps = np.array([float(x) for x in np.unique(np.round(spread))])
    points = Points(steps, np.array([seconds(tokens, counts) for tokens in steps]))
    curve = fit_curve(points)
    fitted = Fitted(Kernel({"tokens": curve.axis}, curve.seconds), np.array(errors), len(table))
    return continued(fitted, points, END_TOKENS)


def _rows(tables: Tables) -> Fits:
    """Kernels with one row per answer; few of them take no less than one."""
    fits: Fits = {}
    for kernel, layer, axis in (
        ("gemm_lm_head", "lm_head", "tokens"),
        ("sample", "sampler", "sequences"),
    ):
        points = tables.layer("per_sequence", layer, "sequences")
        tables.end(kernel, axis, points)
        fits[kernel] = continued(fit_table(points, axis), points, END_ROWS), {}
    return fits


# -- attention ------------------------------------------------------------------------------------


def _attention(tables: Tables, shape: ModelShape, tp: int) -> Fits:
    names = "prefill_chunk kv_prefill n_decode kv_decode time_us"
    table = tables.read("attention", names)
    table = table.assign(seconds=table.time_us * 1e-6)
    path = str(tables.path("attention"))
    idle = ((table.prefill_chunk == 0) & (table.n_decode == 0)).to_numpy()
    if idle.any():
        line = int(np.argmax(idle)) + 2
        raise InputError("expected a prefill_chunk or n_decode above 0", file=path, line=line)
    chunks, decodes = table[table.n_decode == 0], table[table.prefill_chunk == 0]
    both = table[(table.prefill_chunk > 0) & (table.n_decode > 0)]
    least = both[(both.prefill_chunk == both.prefill_chunk.min()) & (both.kv_prefill == 0)]
    _require_cells(tables, chunks, "prefill_chunk", "kv_prefill", "chunks alone (n_decode 0)")
    _require_cells(tables, decodes, "n_decode", "kv_decode", "decodes alone (prefill_chunk 0)")
    _require_cells(tables, least, "n_decode", "kv_decode", "decodes beside the shortest chunk")
    alone = _cells(chunks, "prefill_chunk", "kv_prefill")
    decode = _cells(decodes, "n_decode", "kv_decode")
    mixed = _cells(least, "n_decode", "kv_decode")
    prefill = fit_cells(*alone, ("chunk_tokens", "context_tokens"))
    axes = ("sequences", "context_tokens")
    alone_decodes, beside = fit_cells(*decode, axes), fit_cells(*mixed, axes)
    for what, each in (("chunks", prefill), ("decodes", alone_decodes), ("mixed", beside)):
        if not np.isfinite(np.array(each.kernel.seconds)).all():
            raise InputError(f"expected rows of {what} without holes at small contexts", file=path)
    rest = _idle(both, prefill, beside)
    tables.ranges["attention_prefill"] = {"chunk_tokens": [1, int(alone[0][-1])]}
    return {
        "attention_prefill": (_longer(prefill, alone), {}),
        "attention_decode_16": (alone_decodes, {}),
        "attention_mixed_16": _unequal(tables, beside),
        "attention_idle": (rest, {}),
        **_uneven(tables, alone_decodes, shape.gpu_kv_heads(tp)),
    }


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


# -- what was not measured ------------------------------------------------------------------------


def _all_reduce(spec: DeviceSpec, tp: int) -> Kernel:
    """Assumed: `RING`."""
    per_byte_s = 2.0 * (tp - 1) / tp / spec.peer_bytes_per_s
    return Kernel(
        {},
        None,
        "linear",
        {"base_s": spec.all_reduce_latency_s, "per_unit_s": float(f"{per_byte_s:.4g}")},
    )


def _host(device: str) -> HostCost:
    if device not in CHUNKED:
        return DEFAULT_HOST
    return replace(DEFAULT_HOST, chunked_s=CHUNKED[device], origin=PARTLY_FITTED)


def _sources(tables: Tables, shape: ModelShape, tp: int, host: HostCost) -> list[str]:
    experts = (
        f"; experts read at the {shape.experts_per_token} of {shape.experts} that each token picks "
        "independently"
        if shape.experts
        else ""
    )
    return [
        f"All kernels: {SOURCE} profiler/perf, {tables.folder.parents[1].name} tp{tp}, vLLM "
        f"{tables.vllm} launching kernel by kernel, one layer{experts}; in a line past the range",
        f"Attention beside chunks: {SOURCE}, decodes beside the shortest chunk, and a cost per "
        "pair of a decode and a query of the chunk; raised by the mean ratio that unequal contexts "
        "took (skew.csv)",
        f"Decodes alone: {SOURCE}, equal contexts; what longer ones add is from skew.csv; in "
        "graphs of the sizes that vLLM captures by default",
        *([f"All-reduce: assumed, {RING}"] if tp > 1 else []),
        f"Host and links: assumed{_fitted_words(host)}",
    ]


def _fitted_words(host: HostCost) -> str:
    if not host.chunked_s:
        return ""
    return (
        f", but for chunked_s ({1e3 * host.chunked_s:.3g} ms): the median of steps of one run of "
        "vLLM 0.19.0 on this device (Llama-3.1-8B) in which nearly all places were taken"
    )
