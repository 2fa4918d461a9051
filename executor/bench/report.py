"""Benchmarks as text, each peer with what makes its number differ from ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]

HANDICAPS = {
    "torch SDPA": "reads one dense tensor per layer: no block table, one precision, equal lengths",
    "FlexAttention": "the same, compiled by torch for each shape",
    "vLLM Triton": "unified_attention alone, blocks of ours in vLLM's layout; 16 bits",
    "FlashInfer": "backend fa2, blocks of ours in its layout; planned outside the time; 16 bits",
    "transformers": "continuous batching with torch SDPA instead of flash-attn, no CUDA graphs",
}


def bench_lines(header: Row, found: dict[str, list[Row]]) -> Iterator[str]:
    """A table per part."""
    yield (
        f"{header['model']} on {header['device']}: copy {header['copy_bytes_per_s'] / 1e9:,.0f} "
        f"GB/s, GEMM {header['gemm_flops'] / 1e12:,.1f} TFLOP/s"
    )
    for name, rows in found.items():
        yield name
        for row in rows:
            yield "  " + _line(row)
    if "peers" in found or "engines" in found:
        for peer, words in HANDICAPS.items():
            yield f"  {peer}: {words}"


def _line(row: Row) -> str:
    if "block" in row:
        return (
            f"{row['block'] + '-bit blocks, ' + row['direction']:34} "
            f"{row['bytes_per_s'] / 1e9:9.2f} GB/s  {row['share_of_large']:6.1%} of a large copy"
        )
    return f"{row['point']:34} {_result(row)}"


def _result(row: Row) -> str:
    """What was measured, by what the row has."""
    if "skipped" in row:
        return str(row["skipped"])
    if "floor_s" in row:
        return (
            f"{row['seconds'] * 1e3:9.3f} ms  floor {row['floor_s'] * 1e3:8.3f}  "
            f"{row['share_of_floor']:6.1%}  {row['tokens_per_s']:10,.0f} tokens/s"
        )
    if "share_of_copy" in row:
        return (
            f"{row['seconds'] * 1e6:9.1f} us  {row['bytes_per_s'] / 1e9:8,.0f} "
            f"GB/s  {row['share_of_copy']:6.1%} of a copy"
        )
    if "share_of_gemm" in row:
        return (
            f"{row['seconds'] * 1e6:9.1f} us  {row['flops_per_s'] / 1e12:8,.1f} "
            f"TFLOP/s  {row['share_of_gemm']:6.1%} of a product"
        )
    if "output_tokens_per_s" in row:
        return f"{row['seconds']:9.2f} s  {row['output_tokens_per_s']:10,.0f} output tokens/s"
    return (
        f"{row['alone_s'] * 1e3:9.3f} ms alone, "
        f"{row['with_swap_s'] * 1e3:.3f} with swaps ({row['slowdown']:+.1%})"
    )
