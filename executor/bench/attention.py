"""Decode and prefill attention alone, beside torch's own on the same shapes.

torch's read keys and values of 16 bits from one dense tensor per layer, all of one length, with no
block table to follow: an easier task than ours. What they cannot do (blocks, precisions, rows of
different lengths) is their handicap in use, not in these numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.calibration.cases import RandomArena, decode_step, mixed_step
from executor.calibration.timing import Timing, copies_beyond_cache, time_calls
from executor.kernels.ops import Ops
from executor.kv.layout import KVLayout
from executor.steps.items import ItemBudget

MANY_TOKENS, FEW_LAYERS = 512, 4
"""Attention of so many tokens takes long enough that few layers are enough to time it."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads over the KV heads of a layout."""

    count: int
    layout: KVLayout

    def query(self, rows: int, device: torch.device) -> Tensor:
        """Random queries [rows, heads, D]."""
        shape = (rows, self.count, self.layout.head_dim)
        return torch.randn(shape, device=device).to(self.layout.dtype)


def time_decode(
    ops: Ops,
    heads: Heads,
    source: RandomArena,
    contexts: list[int],
    bits: int,
    budget: ItemBudget,
    budget_s: float = 0.1,
) -> Timing:
    """Seconds per layer of decode attention; layers take turns, so that caches hold nothing."""
    shares = {} if bits == 16 else {bits: 1.0}
    step = decode_step(source, contexts, 100, budget, shares)
    items = step.decode
    assert items is not None
    q = heads.query(len(contexts), source.device)
    layout, scale = heads.layout, heads.layout.head_dim**-0.5

    def layer(index: int) -> Callable[[], Tensor]:
        return lambda: ops.decode_attention(q, source.arena, layout, index, items, scale)

    return time_calls([layer(i) for i in range(layout.layers)], source.device, budget_s)


def decode_bytes(heads: Heads, contexts: list[int], bits: int) -> float:
    """Bytes that decode attention of one layer moves at the least: the tail block has 16 bits."""
    layout = heads.layout
    tokens = layout.block_tokens
    small, wide = (layout.layer_bytes[b] / tokens for b in (bits, 16))
    tails = [(context - 1) % tokens + 1 for context in contexts]
    kv = sum(c - t for c, t in zip(contexts, tails, strict=True)) * small + sum(tails) * wide
    queries = len(contexts) * heads.count * layout.head_dim * layout.dtype.itemsize
    return float(kv + 2 * queries)


def time_prefill(
    ops: Ops,
    heads: Heads,
    source: RandomArena,
    chunk: tuple[int, int],
    budget_s: float = 0.2,
    bits: int = 16,
) -> Timing:
    """Seconds per layer of attention of a chunk `(tokens, context before)`, what is before of
    `bits`.
    """
    budget, shares = ItemBudget.of(heads.layout, source.device), {bits: 1.0} if bits < 16 else {}
    step = mixed_step(source, [], [chunk], 100, budget, shares)
    chunks = step.prefill
    assert chunks is not None
    q = heads.query(chunk[0], source.device)
    layout, scale = heads.layout, heads.layout.head_dim**-0.5

    def layer(index: int) -> Callable[[], Tensor]:
        return lambda: ops.prefill_attention(q, source.arena, layout, index, chunks, scale)

    layers = layout.layers if sum(chunk) < MANY_TOKENS else min(layout.layers, FEW_LAYERS)
    return time_calls([layer(i) for i in range(layers)], source.device, budget_s)


def prefill_flops(heads: Heads, chunk: tuple[int, int]) -> float:
    """Operations of a chunk's attention, what is above the diagonal left out."""
    tokens, context = chunk
    pairs = tokens * context + tokens * (tokens + 1) / 2
    return 4 * heads.count * heads.layout.head_dim * pairs


Peer = Callable[[Heads, int, int, torch.device, float], Timing]


def sdpa_decode(
    heads: Heads, batch: int, context: int, device: torch.device, budget_s: float
) -> Timing:
    """torch's `scaled_dot_product_attention`, one query per sequence."""
    return _dense(heads, (batch, 1, context), device, budget_s, _sdpa(False))


def sdpa_prefill(
    heads: Heads, batch: int, tokens: int, device: torch.device, budget_s: float
) -> Timing:
    """torch's `scaled_dot_product_attention`, causal, over whole prompts."""
    return _dense(heads, (batch, tokens, tokens), device, budget_s, _sdpa(True))


def flex_decode(
    heads: Heads, batch: int, context: int, device: torch.device, budget_s: float
) -> Timing:
    """FlexAttention as torch compiles it."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(q, k, v, enable_gqa=True)

    return _dense(heads, (batch, 1, context), device, budget_s, run)


PEERS: Mapping[str, Peer] = {
    "torch SDPA": sdpa_decode,
    "FlexAttention": flex_decode,
}


def _sdpa(causal: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    return run


def _dense(
    heads: Heads,
    sizes: tuple[int, int, int],
    device: torch.device,
    budget_s: float,
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Timing:
    """Time `run` over enough sets of dense keys and values that none stays in the cache."""
    batch, queries, context = sizes
    layout = heads.layout
    shape = (batch, layout.kv_heads, context, layout.head_dim)
    one = 2 * layout.dtype.itemsize * batch * layout.kv_heads * context * layout.head_dim
    sets = copies_beyond_cache(one, device, 8)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=layout.dtype)

    q = randn(batch, heads.count, queries, layout.head_dim)
    pairs = [(randn(*shape), randn(*shape)) for _ in range(sets)]
    return time_calls([partial(run, q, k, v) for k, v in pairs], device, budget_s)
