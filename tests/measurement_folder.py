"""A small folder of made-up kernel measurements in the layout of aiconfigurator and Vidur.

Every time follows a formula, so what a fit should find is known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

LAUNCH_S = 5e-6
SPARSE = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
DENSE = tuple(sorted({round(2 ** (i / 4)) for i in range(61)} | set(range(1, 17))))
SIZES = (512, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
SYSTEMS = {
    "a100-80g": ("a100_sxm", "0.14.0", SPARSE, 1.0),
    "h100": ("h100_sxm", "0.24.0", DENSE, 0.5),
    "h200": ("h200_sxm", "0.24.0", DENSE, 0.4),
}
"""System, vLLM, token counts, and time relative to the A100's."""
TINY = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 2048,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
}
HEADS = (8, 2, 128)


def gemm_s(m: float, n: float, k: float, pace: float = 1.0) -> float:
    """Seconds of a matrix product: a launch, its weights, its arithmetic."""
    return LAUNCH_S + pace * (n * k * 1e-12 + m * n * k * 1e-14)


def pointwise_s(tokens: float, width: float, pace: float = 1.0) -> float:
    """Seconds of a kernel that streams rows of so many values."""
    return LAUNCH_S + pace * tokens * width * 1e-12


def write_folder(root: Path, devices: Sequence[str] = ("a100-80g",)) -> Path:
    """Write the measurements of the devices; returns the folder."""
    for device in devices:
        system, vllm, counts, pace = SYSTEMS[device]
        folder = root / "aiconfigurator" / system
        _parquet(folder / "gemm/vllm" / vllm / "gemm_perf", _gemm_rows(counts, pace))
        attention = folder / "attention/vllm" / vllm
        _parquet(attention / "generation_attention_perf", _decode_rows(pace))
        _parquet(attention / "context_attention_perf", _prefill_rows(pace))
        _parquet(folder / "moe/vllm" / vllm / "moe_perf", _moe_rows(pace))
        _parquet(folder / "comm/vllm" / vllm / "custom_allreduce_perf", _reduce_rows(pace))
    for name, vidur_pace in (("a100", 1.0), ("h100", 0.5)):
        _vidur(root / "vidur" / name / "Tiny-1B" / "mlp.csv.gz", vidur_pace)
    return root


def write_model(path: Path, **changes: object) -> Path:
    """A `config.json` of the model that was measured, or one that differs from it."""
    path.write_text(json.dumps(TINY | changes))
    return path


FP8_PACE = 0.6
"""Time of GEMM with 8-bit weights relative to 16-bit ones."""


def _gemm_rows(counts: Sequence[int], pace: float) -> pd.DataFrame:
    rows = [
        (dtype, m, n, k, 1e3 * gemm_s(m, n, k, pace * of_dtype))
        for dtype, of_dtype in (("bfloat16", 1.0), ("fp8", FP8_PACE))
        for m in counts
        for n in SIZES
        for k in SIZES
    ]
    return pd.DataFrame(rows, columns=["gemm_dtype", "m", "n", "k", "latency"])


_ATTENTION = (
    *("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
    *("kv_cache_dtype", "latency"),
)


def _decode_rows(pace: float) -> pd.DataFrame:
    rows = [
        (
            batch,
            1,
            step,
            *HEADS,
            dtype,
            1e3 * (LAUNCH_S + pace * share * batch * (step + 1) * 1e-10),
        )
        for batch in (1, 2, 4, 8, 16, 32)
        for step in (1, 3, 7, 15, 63, 255, 1023, 4095)
        for dtype, share in (("bfloat16", 1.0), ("fp8", 0.5))
    ]
    return pd.DataFrame(rows, columns=list(_ATTENTION))


def _prefill_rows(pace: float) -> pd.DataFrame:
    rows = [
        (batch, isl, 0, *HEADS, dtype, 1e3 * _prefill_s(batch, isl, pace))
        for batch in (1, 2, 4)
        for isl in (16, 64, 256, 1024, 4096)
        for dtype in ("bfloat16", "fp8")
    ]
    return pd.DataFrame(rows, columns=list(_ATTENTION))


def _prefill_s(batch: int, isl: int, pace: float) -> float:
    pairs = batch * isl * (isl + 1) / 2
    return LAUNCH_S + pace * (batch * isl * 1e-9 + pairs * 1e-11)


EXPERTS = (1024, 512, 2, 8)
"""Hidden and inner size, experts per token, experts."""


def experts_s(tokens: float, tp: int, pace: float = 1.0) -> float:
    """Seconds of a layer of experts under the most uneven routing."""
    hidden, inner, top, count = EXPERTS
    weights = count * hidden * inner / tp
    return LAUNCH_S + pace * (weights * 1e-12 + tokens * top * hidden * inner / tp * 1e-14)


def _moe_rows(pace: float) -> pd.DataFrame:
    rows = [
        ("bfloat16", tokens, *EXPERTS, tp, ep, routing, 1e3 * share * experts_s(tokens, tp, pace))
        for tokens in SPARSE
        for tp, ep in ((1, 1), (2, 1), (1, 2))
        for routing, share in (("balanced", 0.5), ("power_law_1.2", 1.0))
    ]
    columns = ["moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts"]
    return pd.DataFrame(
        rows, columns=[*columns, "moe_tp_size", "moe_ep_size", "distribution", "latency"]
    )


def _reduce_rows(pace: float) -> pd.DataFrame:
    sizes = [2**power for power in range(7, 26)]
    rows = [
        (backend, gpus, size, 1e3 * (LAUNCH_S + pace * size * 1e-11))
        for backend in ("vllm_graph", "vllm_eager")
        for gpus in (2, 4)
        for size in sizes
    ]
    return pd.DataFrame(rows, columns=["backend", "num_gpus", "message_size", "latency"])


_OPS = {
    "attn_pre_proj": lambda t, pace: gemm_s(t, 1536, 1024, pace),
    "attn_post_proj": lambda t, pace: gemm_s(t, 1024, 1024, pace),
    "mlp_up_proj": lambda t, pace: gemm_s(t, 4096, 1024, pace),
    "mlp_down_proj": lambda t, pace: gemm_s(t, 1024, 2048, pace),
    **dict.fromkeys(
        ("input_layernorm", "post_attention_layernorm", "add", "emb"),
        lambda t, pace: pointwise_s(t, 1024, pace),
    ),
    "attn_rope": lambda t, pace: pointwise_s(t, 1280, pace),
    "mlp_act": lambda t, pace: pointwise_s(t, 2048, pace),
}


def _vidur(path: Path, pace: float) -> None:
    sizes = {"n_head": 8, "n_kv_head": 2, "n_embd": 1024, "n_expanded_embd": 2048}
    rows = [
        {"num_tokens": t, "num_tensor_parallel_workers": 1, "vocab_size": 4096, **sizes}
        | {f"time_stats.{op}.median": 1e3 * seconds(t, pace) for op, seconds in _OPS.items()}
        for t in SPARSE
    ]
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def _parquet(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path.with_suffix(".parquet"))
