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

import numpy as np

from superinfer.costs import DEFAULT_HOST, HostCost, ModelShape, load_device
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.graphs import Graphs
from superinfer.costs.profile import PARTLY_FITTED, Kernel, Profile
from superinfer.costs.shapes import canonical_name
from superinfer.costs.tables import Curve
from superinfer.errors import ConfigError
from superinfer.lab.profiles.fits import (
    Array,
    Fitted,
    Points,
    continued,
    fit_curve,
    fit_edges,
    fit_table,
    thirds,
)
from superinfer.lab.profiles.kernels import Entry
from superinfer.lab.profiles.serving_sim_attention import Fits, attention
from superinfer.lab.profiles.serving_sim_tables import FOLDERS, LEAST_COUNTS, Tables

LAYOUT = "a folder of LLMServingSim's, RTXPRO6000/<owner>/<model>/bf16/tp<N>/dense.csv"
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
EXPERT_COUNTS = 60
"""Token counts at which a block of experts is read off, evenly in logarithms."""


def holds_tables(folder: Path) -> bool:
    """Whether a folder has the layout that this module reads."""
    return any((folder / name).is_dir() for name in FOLDERS.values())


def from_tables(folder: Path, device: str, shape: ModelShape, tp: int) -> Profile:
    """The profile of a model on a device; raises like `build_profile`."""
    if shape.weight_dtype or shape.kv_dtype:
        raise ConfigError(f"{device}: weights and cache of 8 bits were not measured in {SOURCE}")
    tables, spec = Tables(folder, device, shape, tp), load_device(device)
    fits = _dense(tables, shape) | _rows(tables) | attention(tables, shape, tp)
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
