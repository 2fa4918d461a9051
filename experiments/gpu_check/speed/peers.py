"""Ours beside others' attention, on the same inputs in the same process.

torch is there on every machine; vLLM's Triton kernel and FlashInfer where they can be imported
(`experiments.gpu_check.pack --peers vllm flashinfer` brings them). FlashInfer compiles at its first
call.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

from executor.bench.attention import PEERS, Peer, decode_bytes, prefill_flops, sdpa_prefill
from executor.bench.paged_peers import PAGED_DECODES, PAGED_PREFILLS
from executor.calibration.ceilings import gemm_rate
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.rows import Row, guarded, outcome, streamed
from experiments.gpu_check.setting import device_of, heads_of
from experiments.gpu_check.speed.attention import decode_row, prefill, prefill_chunks, rate_row
from experiments.gpu_check.variants import arena_of


def decode(context: Context) -> Result:
    """Ours at the points of the peers, 16 bits."""
    heads, rows = heads_of(context), list[Row]()
    source = arena_of(context, heads, 16, 8192)
    for batch, length in peer_points(context):
        contexts = [length] * batch
        measure = partial(decode_row, context, heads, source, contexts, 16)
        rows.append(guarded({"peer": "ours", "B": batch, "ctx": length}, measure))
    return outcome(rows)


def peer_points(context: Context) -> tuple[tuple[int, int], ...]:
    """Sequences and context of the decodes that are compared."""
    if context.tiny:
        return ((2, 64),)
    return ((1, 1024), (1, 32768), (32, 1024), (32, 8192), (128, 1024))


def decode_peers(context: Context) -> Result:
    """Others' decode attention: torch's over dense keys and values of 16 bits, and over pages."""
    heads, rows = heads_of(context), []
    points = peer_points(context)
    for (name, peer), (batch, length) in product({**PEERS, **PAGED_DECODES}.items(), points):
        if name == "FlexAttention" and context.tiny:
            continue
        if context.options["fast"] and name == "FlexAttention" and batch != 32:
            continue
        row = {"peer": name, "B": batch, "ctx": length}

        def measure(peer: Any = peer, batch: int = batch, length: int = length) -> Row:
            timing = peer(heads, batch, length, device_of(context), 0.05)
            return streamed(context, decode_bytes(heads, [length] * batch, 16), timing.seconds)

        rows.append(guarded(row, measure))
    return outcome(rows)


def prefill_peers(context: Context) -> Result:
    """TFLOP/s of others' attention over whole prompts."""
    heads, rows, device = heads_of(context, layers=4), [], device_of(context)
    peak = gemm_rate(device, 0.1)
    for tokens, before in prefill_chunks(context):
        if before:
            continue

        for name, peer in ({"torch SDPA": sdpa_prefill} | PAGED_PREFILLS).items():

            def measure(peer: Peer = peer, tokens: int = tokens) -> Row:
                timing = peer(heads, 1, tokens, device, 0.06)
                return rate_row(prefill_flops(heads, (tokens, 0)), timing.seconds, peak)

            rows.append(guarded({"kernel": name, "chunk": tokens}, measure))
    return outcome(rows, gemm_flops=peak)


CHECKS: dict[str, Check] = {
    "decode": decode,
    "decode_peers": decode_peers,
    "prefill": partial(prefill, change={}),
    "prefill_peers": prefill_peers,
}
