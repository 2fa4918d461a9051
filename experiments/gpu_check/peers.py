"""Ours beside others' attention, on the same inputs in the same process.

torch is there on every machine; vLLM's Triton kernel and FlashInfer where they can be imported
(`experiments.gpu_check.pack --peers vllm flashinfer` brings them). FlashInfer compiles at its first
call.
"""

from __future__ import annotations

from functools import partial

from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.rows import Row, guarded, outcome
from experiments.gpu_check.setting import heads_of
from experiments.gpu_check.speed import (
    arena_of,
    decode_peers,
    decode_row,
    peer_points,
    prefill,
    prefill_peers,
)


def decode(context: Context) -> Result:
    """Ours at the points of the peers, 16 bits."""
    heads, rows = heads_of(context), list[Row]()
    source = arena_of(context, heads, 16, 8192)
    for batch, length in peer_points(context):
        contexts = [length] * batch
        measure = partial(decode_row, context, heads, source, contexts, 16)
        rows.append(guarded({"peer": "ours", "B": batch, "ctx": length}, measure))
    return outcome(rows)


CHECKS: dict[str, Check] = {
    "decode": decode,
    "decode_peers": decode_peers,
    "prefill": partial(prefill, change={}),
    "prefill_peers": prefill_peers,
}
