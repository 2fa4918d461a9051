"""Fit the shipped profiles from public kernel measurements.

    python -m experiments.fit_profiles [--data DIR] [--out DIR]

`DIR` holds `profiles/aiconfigurator` and `profiles/vidur` (default: the environment variable
`SUPERINFER_DATA`, else `../shared/data`). Every table is non-decreasing and thinned to the knots
that keep it within half a percent; its error is measured on points that were held out of the fit
(every third one in turn, never an end point). The final tables use all points.

The GEMM of the layers come from Vidur, which measured these very shapes at 451 token counts. The
21 counts of aiconfigurator, held out the same way, are missed by 8 to 13 %: what lies between
them are steps of the tile grid. `other_source_mape` records how far the two sources differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.kernel_fits import (
    Array,
    Fitted,
    Points,
    causal_features,
    decode_grid,
    fit_regimes,
    fit_stairs,
    fit_table,
    relative_fit,
    rounded,
    thirds,
)
from superinfer.costs import DEFAULT_HOST, ModelShape, build_cost, load_device, load_shape
from superinfer.costs.base import Chunk
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.profile import Kernel, Profile, write_profile
from superinfer.costs.tables import Grid

OUT = Path(__file__).parents[1] / "superinfer" / "costs" / "profiles"
CUSTOM_ALL_REDUCE_BYTES = 8 * 2**20
"""vLLM's own all-reduce serves smaller messages, NCCL the rest: the time jumps there."""
PREFILL_KEYS_END = 16384
"""The longest prompt measured."""


@dataclass(frozen=True, slots=True)
class DeviceData:
    """Where the measurements of one device lie."""

    aiconfigurator: str
    aiconfigurator_vllm: str
    vidur: str


DEVICES = {"a100-80g": DeviceData("a100_sxm", "0.14.0", "a100")}
TARGETS = (
    ("a100-80g", "llama-3.1-8b", 1),
    ("a100-80g", "llama-3.1-70b", 4),
    ("a100-80g", "llama-3.1-70b", 8),
)
# Llama 3.1 has the layer shapes of Llama 3, which is what was measured.
VIDUR_MODELS = {"llama-3.1-8b": "Meta-Llama-3-8B", "llama-3.1-70b": "Meta-Llama-3-70B"}
VIDUR_OPS = {
    "gemm_qkv": ("attn_pre_proj",),
    "gemm_o": ("attn_post_proj",),
    "gemm_gate_up": ("mlp_up_proj",),
    "gemm_down": ("mlp_down_proj",),
    "norm": ("input_layernorm", "post_attention_layernorm", "add"),
    "rope_write": ("attn_rope",),
    "activation": ("mlp_act",),
    "embed": ("emb",),
}
SOURCES = """\
Layer GEMM, norm (both norms and one residual add), rope, activation, embedding: \
microsoft/vidur@7d475133 mlp.csv, Meta-Llama-3, bf16, the exact shapes at 451 token counts
LM head: ai-dynamo/aiconfigurator@095f58a5 gemm_perf, vLLM {vllm}, bfloat16; the shape is not \
measured, so time is linear in n between (or past) the nearest measured n at the same k, in \
steps of 64 rows
Attention (KV write included) and graph-mode all-reduce: ai-dynamo/aiconfigurator@095f58a5, vLLM \
{vllm}; decode cells that were not measured continue their row's slope or that of the batch before \
it at the same total context; single points of 1.5 times both neighbours are left out
Attention of a chunk with earlier context: the form fitted on whole prompts, its context term \
checked against microsoft/vidur@6555c859 attention.csv
Sampling: assumed, 25 us and two passes over 32-bit logits per sequence
Host and links: assumed; PCIe 4 at 25 GB/s each way and 10 us per copy\
"""


class Data:
    """The measurement files of one device under a data folder."""

    def __init__(self, root: Path, device: str) -> None:
        self.files = DEVICES[device]
        self.root = root / "profiles"
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; set SUPERINFER_DATA")

    def aiconfigurator(self, kind: str, table: str) -> pd.DataFrame:
        """One aiconfigurator table, latency in ms."""
        version = self.files.aiconfigurator_vllm
        folder = self.root / "aiconfigurator" / self.files.aiconfigurator / kind / "vllm" / version
        return _parquet(folder / f"{table}.parquet")

    def vidur(self, model: str, tp: int) -> pd.DataFrame:
        """Median ms per op of one layer, indexed by token count."""
        table = _csv(self.root / "vidur" / self.files.vidur / VIDUR_MODELS[model] / "mlp.csv.gz")
        table = table[table.num_tensor_parallel_workers == tp]
        return table.groupby("num_tokens").median(numeric_only=True)

    def vidur_prefill(self) -> pd.DataFrame:
        """Attention of prefill chunks with earlier context, ms (an older kernel, 32 heads)."""
        path = self.root / "vidur" / self.files.vidur / "legacy_llama2-70b_tp2/attention.csv.gz"
        table = _csv(path)
        return table[table.is_prefill]


@cache
def _parquet(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


@cache
def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def gemm_points(data: Data, n: int, k: int) -> Points:
    """aiconfigurator GEMM seconds over m; linear in n, then in k, between measured shapes."""
    table = data.aiconfigurator("gemm", "gemm_perf")
    table = table[table.gemm_dtype == "bfloat16"]
    cube = table.pivot_table(index="m", columns=["n", "k"], values="latency") * 1e-3
    widths, depths = (np.array(sorted(table[name].unique()), dtype=float) for name in "nk")

    def at_shape(width: float, depth: float) -> Array:
        return np.asarray(cube[width, depth], dtype=float)

    def at_width(width: float) -> Array:
        return _between(depths, k, lambda depth: at_shape(width, depth))

    return Points(cube.index.to_numpy(float), _between(widths, n, at_width))


def _between(axis: Array, x: float, at: Callable[[float], Array]) -> Array:
    if x in axis:
        return at(x)
    high = int(np.clip(np.searchsorted(axis, x), 1, len(axis) - 1))
    low, share = high - 1, (x - axis[high - 1]) / (axis[high] - axis[high - 1])
    y0, y1 = at(axis[low]), at(axis[high])
    found: Array = y0 + (y1 - y0) * share
    return found


def fit_decode(data: Data, shape: ModelShape, tp: int) -> tuple[Fitted, float]:
    """Decode attention over (sequences, mean context), and the largest total context measured."""
    table = data.aiconfigurator("attention", "generation_attention_perf")
    table = _heads(table, shape, tp).assign(context=lambda t: t.step + t.isl)
    cells = table.pivot(index="batch_size", columns="context", values="latency") * 1e-3
    rows, columns = cells.index.to_numpy(float), cells.columns.to_numpy(float)
    values = cells.to_numpy(float)
    errors = []
    for held in thirds(len(rows)):
        grid = decode_grid(rows[~held], columns, values[~held])
        errors += _cell_errors(grid, rows[held], columns, values[held])
    for held in thirds(len(columns)):
        grid = decode_grid(rows, columns[~held], values[:, ~held])
        errors += _cell_errors(grid, rows, columns[held], values[:, held])
    final = decode_grid(rows, columns, values)
    axes = {"sequences": final.rows, "context_tokens": final.columns}
    fitted = Fitted(Kernel(axes, final.seconds), np.array(errors), int(np.isfinite(values).sum()))
    return fitted, float(np.max(np.where(np.isfinite(values), np.outer(rows, columns), 0.0)))


def _cell_errors(grid: Grid, rows: Array, columns: Array, values: Array) -> list[float]:
    return [
        abs(grid.at(n, c) / values[i, j] - 1.0)
        for i, n in enumerate(rows)
        for j, c in enumerate(columns)
        if np.isfinite(values[i, j])
    ]


def fit_prefill(data: Data, shape: ModelShape, tp: int) -> tuple[Fitted, float]:
    """The `causal_linear` model, and the error of its form on chunks with earlier context."""
    table = _heads(data.aiconfigurator("attention", "context_attention_perf"), shape, tp)
    table = table.sort_values(["batch_size", "isl"])
    batch, isl = table.batch_size.to_numpy(float), table.isl.to_numpy(float)
    features = causal_features(batch, isl, np.zeros(len(isl)))
    seconds = table.latency.to_numpy(float) * 1e-3
    errors: list[float] = []
    for held in thirds(len(seconds)):
        found = relative_fit(features[~held], seconds[~held])
        errors += np.abs(features[held] @ found / seconds[held] - 1.0).tolist()
    names = ("floor_s", "per_sequence_s", "per_token_s", "per_pair_s", "per_key_s")
    values = rounded(relative_fit(features, seconds), digits=5)
    kernel = Kernel({}, None, "causal_linear", dict(zip(names, values, strict=True)))
    return Fitted(kernel, np.array(errors), len(seconds)), context_form_error(data)


def context_form_error(data: Data) -> float:
    """Held-out mean error of the same form on an older kernel, chunks of 64 to 4,096 tokens."""
    table = data.vidur_prefill()
    chunk, context = table.prefill_chunk_size.to_numpy(float), table.kv_cache_size.to_numpy(float)
    features = causal_features(np.ones(len(chunk)), chunk, context)[:, [0, 2, 3, 4]]
    seconds = table["time_stats.attn_prefill.median"].to_numpy(float) * 1e-3
    errors: list[float] = []
    for held in thirds(len(seconds)):
        found = relative_fit(features[~held], seconds[~held])
        errors += np.abs(features[held] @ found / seconds[held] - 1.0).tolist()
    return float(np.mean(errors))


def _heads(table: pd.DataFrame, shape: ModelShape, tp: int) -> pd.DataFrame:
    heads = table.num_heads == shape.gpu_heads(tp)
    keys = table.num_key_value_heads == shape.gpu_kv_heads(tp)
    return table[heads & keys & (table.head_dim == shape.head_dim)]


def fit_profile(root: Path, device: str, model: str, tp: int) -> Profile:
    """One shipped profile, from the data under `root`."""
    data, shape, spec = Data(root, device), load_shape(model), load_device(device)
    fitted = {name: fit_vidur(data, model, tp, name) for name in VIDUR_OPS}
    head = gemm_points(data, shape.vocab // tp, shape.hidden)
    fitted["gemm_lm_head"] = fit_table(head, "tokens", fit_stairs)
    if tp > 1:
        points = all_reduce_points(data, tp)
        fitted["all_reduce"] = fit_regimes(points, "bytes", CUSTOM_ALL_REDUCE_BYTES)
    fitted["attention_prefill"], form_error = fit_prefill(data, shape, tp)
    fitted["attention_decode_16"], context_end = fit_decode(data, shape, tp)
    fit = {name: entry.entry() for name, entry in fitted.items()}
    fit["attention_prefill"]["context_form_mape"] = round(form_error, 4)
    for name, (n, k) in layer_gemms(shape, tp).items():
        fit[name]["other_source_mape"] = round(other_source(data, fitted[name], n, k), 4)
    kernels = {name: entry.kernel for name, entry in fitted.items()}
    return Profile(
        device=device,
        model=model,
        tp=tp,
        kernels={**kernels, "sample": sampling(shape, spec)},
        links={"h2d": spec.h2d, "d2h": spec.d2h},
        host=DEFAULT_HOST,
        memory={"device_bytes": spec.memory_bytes, "kv_blocks": None, "block_tokens": 16},
        quality={"8": {"kl": None, "perplexity_change": None}, "4": {}},
        fit=fit,
        range={
            "attention_decode_16": {"total_context_tokens": [1, int(context_end)]},
            "attention_prefill": {"keys": [1, PREFILL_KEYS_END]},
        },
        sources=SOURCES.format(vllm=data.files.aiconfigurator_vllm).splitlines(),
        versions={"vllm": data.files.aiconfigurator_vllm},
    )


def fit_vidur(data: Data, model: str, tp: int, kernel: str) -> Fitted:
    """A kernel over tokens out of Vidur's per-layer medians."""
    table = data.vidur(model, tp)
    columns = [f"time_stats.{op}.median" for op in VIDUR_OPS[kernel]]
    seconds = table[columns].sum(axis=1).to_numpy(float) * 1e-3
    return fit_table(Points(table.index.to_numpy(float), seconds), "tokens")


def all_reduce_points(data: Data, tp: int) -> Points:
    """vLLM's all-reduce inside a CUDA graph; the file counts 2-byte elements."""
    table = data.aiconfigurator("comm", "custom_allreduce_perf")
    table = table[(table.backend == "vllm_graph") & (table.num_gpus == tp)]
    table = table.sort_values("message_size")
    return Points(2.0 * table.message_size.to_numpy(float), table.latency.to_numpy(float) * 1e-3)


def layer_gemms(shape: ModelShape, tp: int) -> dict[str, tuple[int, int]]:
    """(n, k) of each layer GEMM on one of `tp` GPUs."""
    query = shape.gpu_heads(tp) * shape.head_dim
    key = shape.gpu_kv_heads(tp) * shape.head_dim
    inner = shape.intermediate // tp
    return {
        "gemm_qkv": (query + 2 * key, shape.hidden),
        "gemm_o": (shape.hidden, query),
        "gemm_gate_up": (2 * inner, shape.hidden),
        "gemm_down": (shape.hidden, inner),
    }


def other_source(data: Data, fitted: Fitted, n: int, k: int) -> float:
    """Mean difference between the fitted curve and aiconfigurator's GEMM of the same shape."""
    points = gemm_points(data, n, k)
    ours = np.array([fitted.curve.at(x) for x in points.x])
    return float(np.mean(np.abs(ours / points.y - 1.0)))


def sampling(shape: ModelShape, spec: DeviceSpec) -> Kernel:
    """Assumed: a launch cost and two passes over 32-bit logits per sequence."""
    per_row = 2 * 4 * shape.vocab / spec.memory_bytes_per_s
    coefficients = {"base_s": 25e-6, "per_unit_s": float(f"{per_row:.4g}")}
    return Kernel({}, None, "linear", coefficients)


def report(profile: Profile, path: Path) -> str:
    """Held-out errors of a profile and step times to compare with reality."""
    cost = build_cost(profile.model, profile.device, profile.tp, str(path))
    lines = [path.name]
    for name, entry in profile.fit.items():
        lines.append(f"  {name:20s} " + "  ".join(f"{k} {v:g}" for k, v in entry.items()))
    decodes = [1e3 * cost.step_s((), n, 1024 * n) for n in (1, 32, 128)]
    prefills = [1e3 * cost.step_s((Chunk(t, 0),), 0, 0) for t in (512, 2048, 4096)]
    lines.append("  decode b1/b32/b128 at 1k, ms: " + " / ".join(f"{v:.1f}" for v in decodes))
    lines.append("  prefill 512/2048/4096, ms: " + " / ".join(f"{v:.1f}" for v in prefills))
    return "\n".join(lines)


def data_folder() -> Path:
    """The data folder of the environment, or the default beside the checkout."""
    return Path(os.environ.get("SUPERINFER_DATA") or OUT.parents[2].parent / "shared" / "data")


def main(arguments: list[str] | None = None) -> None:
    """Fit and write every profile of `TARGETS`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    for device, model, tp in TARGETS:
        profile = fit_profile(options.data, device, model, tp)
        path = options.out / f"{device}_{model}_tp{tp}.json"
        write_profile(profile, path)
        sys.stdout.write(report(profile, path) + "\n")


if __name__ == "__main__":
    main()
