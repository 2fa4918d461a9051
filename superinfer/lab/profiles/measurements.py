"""Public kernel measurements as they lie in a folder: `aiconfigurator/` and `vidur/`.

The layout is that of the two projects: `aiconfigurator/<system>/<kind>/vllm/<version>/*.parquet`
(ai-dynamo/aiconfigurator, latency in ms) and `vidur/<device>/<model>/mlp.csv.gz`
(microsoft/vidur, ms per op of one layer).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from superinfer.costs import ModelShape
from superinfer.errors import ConfigError, InputError
from superinfer.lab.profiles.fits import Points

if TYPE_CHECKING:
    import pandas as pd

POINTWISE_OPS: Mapping[str, tuple[str, ...]] = {
    "norm": ("input_layernorm", "post_attention_layernorm", "add"),
    "rope_write": ("attn_rope",),
    "activation": ("mlp_act",),
    "embed": ("emb",),
}
GEMM_OPS: Mapping[str, tuple[str, ...]] = {
    "gemm_qkv": ("attn_pre_proj",),
    "gemm_o": ("attn_post_proj",),
    "gemm_gate_up": ("mlp_up_proj",),
    "gemm_down": ("mlp_down_proj",),
}
"""Vidur's names of what each kernel consists of."""

BF16 = "bfloat16"
LAYOUT = "a folder with aiconfigurator/ and vidur/"
LEGACY_ATTENTION = "legacy_llama2-70b_tp2/attention.csv.gz"


@dataclass(frozen=True, slots=True)
class DeviceData:
    """Where the measurements of one device lie, and which of them its profiles use."""

    aiconfigurator: str
    vllm: str
    vidur: str
    vidur_gemm: bool = False
    """Layer GEMM from Vidur, where it measured the very shapes over the whole range of tokens."""
    scaled_from: str = ""
    """The device whose pointwise kernels stand in, scaled by bandwidth: Vidur lacks this one."""
    replayed: bool = False
    """Pointwise kernels as a CUDA graph runs them, which all else was measured in: Vidur launched
    each by itself."""


# Vidur's H100 tables end at 4,096 tokens and hold no Llama 3, so GEMM come from aiconfigurator
# there. It has 74 token counts for Hopper, against 21 for the A100.
DEVICES = {
    "a100-80g": DeviceData("a100_sxm", "0.14.0", "a100", vidur_gemm=True),
    "h100": DeviceData("h100_sxm", "0.24.0", "h100", replayed=True),
    "h200": DeviceData("h200_sxm", "0.24.0", "h100", scaled_from="h100", replayed=True),
}


@dataclass(frozen=True, slots=True)
class VidurTable:
    """Vidur's `mlp.csv` of one model: the sizes it was run with, and the rows (ms)."""

    name: str
    heads: int
    kv_heads: int
    hidden: int
    intermediate: int
    vocab: int
    rows: pd.DataFrame

    @property
    def head_dim(self) -> int:
        """Values per head."""
        return self.hidden // self.heads

    def is_like(self, shape: ModelShape) -> bool:
        """Whether the layers have the sizes of this model's."""
        names = ("heads", "kv_heads", "head_dim", "hidden", "intermediate")
        return all(getattr(self, name) == getattr(shape, name) for name in names)

    def degrees(self) -> list[int]:
        """Tensor-parallel degrees that were measured."""
        return sorted(int(tp) for tp in self.rows.num_tensor_parallel_workers.unique())

    def points(self, ops: Iterable[str], tp: int) -> Points:
        """Seconds of one layer's `ops` together, medians over repeats, by tokens."""
        rows = self.rows[self.rows.num_tensor_parallel_workers == tp]
        medians = rows.groupby("num_tokens").median(numeric_only=True)
        seconds = medians[[_op_column(op) for op in ops]].sum(axis=1)
        if not (seconds > 0).all():
            raise InputError("expected times > 0", file=f"{self.name}/mlp.csv.gz", field=min(ops))
        return Points(medians.index.to_numpy(float), seconds.to_numpy(float) * 1e-3)


class Measurements:
    """The measurement files of one device under a folder; errors name the file or the setting."""

    def __init__(self, folder: Path, device: str) -> None:
        if device not in DEVICES:
            known = ", ".join(DEVICES)
            raise ConfigError(f"no measurements of {device!r} are known; known devices: {known}")
        if not holds_measurements(folder):
            raise InputError(f"expected {LAYOUT}", file=str(folder))
        self.folder, self.device, self.files = folder, device, DEVICES[device]

    def gemm(self, dtype: str = "") -> pd.DataFrame:
        """GEMM with weights of a dtype (empty: bf16): columns m, n, k, latency (ms)."""
        table = self._aiconfigurator("gemm", "gemm_perf", "gemm_dtype m n k latency")
        return self._of_dtype(table, "gemm_dtype", dtype, "GEMM with weights of {} were")

    def attention(self, phase: str, kv_dtype: str = "") -> pd.DataFrame:
        """Attention without a window over a cache of a dtype (empty: bf16), any number of heads per
        GPU; phase context or generation.
        """
        columns = (
            "batch_size isl step num_heads num_key_value_heads head_dim kv_cache_dtype latency"
        )
        table = self._aiconfigurator("attention", f"{phase}_attention_perf", columns)
        if "window_size" in table:
            table = table[table.window_size == 0]
        what = "attention over a cache of {} was"
        return self._of_dtype(table, "kv_cache_dtype", kv_dtype, what)

    def experts(self, dtype: str = "") -> pd.DataFrame:
        """Fused layers of experts, none of them on a GPU of its own: columns num_tokens,
        hidden_size, inter_size, topk, num_experts, moe_tp_size, distribution, latency (ms).
        """
        columns = (
            "moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size "
            "distribution latency"
        )
        table = self._aiconfigurator("moe", "moe_perf", columns)
        table = table[table.moe_ep_size == 1]
        return self._of_dtype(table, "moe_dtype", dtype, "experts with weights of {} were")

    def all_reduce(self, tp: int) -> Points:
        """vLLM's all-reduce inside a CUDA graph, by bytes; the file counts 2-byte elements."""
        columns = "backend num_gpus message_size latency"
        table = self._aiconfigurator("comm", "custom_allreduce_perf", columns)
        table = table[table.backend == "vllm_graph"]
        if tp not in set(table.num_gpus):
            known = ", ".join(str(count) for count in sorted(set(table.num_gpus)))
            raise ConfigError(f"{self.device}: no all-reduce of {tp} GPUs; measured: {known}")
        by_size = table[table.num_gpus == tp].groupby("message_size").latency.median()
        return Points(by_size.index.to_numpy(float) * 2.0, by_size.to_numpy(float) * 1e-3)

    def vidur(self) -> list[VidurTable]:
        """Every model that Vidur ran on the device (or on the one that stands in), by name."""
        paths = sorted((self.folder / "vidur" / self.files.vidur).glob("*/mlp.csv.gz"))
        return [_vidur_table(path) for path in paths]

    def legacy_prefill(self) -> pd.DataFrame | None:
        """Attention of prefill chunks with earlier context, ms (an older kernel, 32 heads)."""
        path = self.folder / "vidur" / self.files.vidur / LEGACY_ATTENTION
        if not path.is_file():
            return None
        columns = "is_prefill prefill_chunk_size kv_cache_size time_stats.attn_prefill.median"
        table = read_csv(path, columns)
        return table[table.is_prefill]

    def on(self, device: str) -> Measurements:
        """The same folder, for another device."""
        return Measurements(self.folder, device)

    def _of_dtype(self, table: pd.DataFrame, column: str, dtype: str, what: str) -> pd.DataFrame:
        """The rows of a dtype (empty: bf16); ConfigError where there are none."""
        wanted = dtype or BF16
        rows = table[table[column] == wanted]
        if rows.empty:
            known = ", ".join(sorted(set(table[column])))
            raise ConfigError(
                f"{self.device}: {what.format(wanted)} not measured; measured: {known}"
            )
        return rows

    def _aiconfigurator(self, kind: str, table: str, columns: str) -> pd.DataFrame:
        folder = self.folder / "aiconfigurator" / self.files.aiconfigurator / kind
        return _parquet(folder / "vllm" / self.files.vllm / f"{table}.parquet", columns)


def holds_measurements(folder: Path) -> bool:
    """Whether a folder has the layout that this module reads."""
    return (folder / "aiconfigurator").is_dir() and (folder / "vidur").is_dir()


@cache
def _parquet(path: Path, columns: str) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "Parquet", error) from None
    return _checked(table, path, columns)


@cache
def read_csv(path: Path, columns: str) -> pd.DataFrame:
    """A CSV file, plain or gzip, that has these columns (names with spaces between), else
    InputError.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable(path, "CSV", error) from None
    return _checked(table, path, columns)


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    if not path.is_file():
        return InputError("no such file", file=str(path))
    return InputError(f"expected {kind}: {' '.join(str(error).split())}", file=str(path))


def _checked(table: pd.DataFrame, path: Path, columns: str) -> pd.DataFrame:
    missing = [name for name in columns.split() if name not in table]
    if missing:
        raise InputError(f"expected the columns {', '.join(missing)}", file=str(path))
    if table.empty:
        raise InputError("expected rows, found none", file=str(path))
    for name in columns.split():
        if name == "latency" and not (table[name] > 0).all():
            raise InputError("expected times > 0", file=str(path), field=name)
    return table


def _op_column(op: str) -> str:
    return f"time_stats.{op}.median"


def _vidur_table(path: Path) -> VidurTable:
    sizes = "n_head n_kv_head n_embd n_expanded_embd vocab_size"
    ops = (*POINTWISE_OPS.values(), *GEMM_OPS.values())
    times = " ".join(_op_column(op) for group in ops for op in group)
    rows = read_csv(path, f"num_tokens num_tensor_parallel_workers {sizes} {times}")
    heads, kv_heads, hidden, inner, vocab = (int(rows[name].iloc[0]) for name in sizes.split())
    return VidurTable(path.parent.name, heads, kv_heads, hidden, inner, vocab, rows)
