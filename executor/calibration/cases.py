"""Random contents for arenas and random steps over them: what calibration and benchmarks run.

Blocks hold plausible numbers (never zeros, no NaN). A step may name a block more than once: arenas
are far larger than the L2, so contexts larger than the arena still miss it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from executor.kv.layout import PRECISIONS, SCALE_BYTES, KVLayout
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from executor.steps.items import ItemBudget
from executor.steps.step import StepInputs

FILL_BLOCKS = 64
"""Blocks that are made at random; the rest of an arena repeats them, as bytes."""


@dataclass(frozen=True, slots=True)
class Table:
    """The blocks of a sequence, in the order of its tokens."""

    offsets: np.ndarray
    bits: np.ndarray


class RandomArena:
    """An arena with `blocks` blocks of each precision, or of each as it says, all random."""

    def __init__(
        self,
        layout: KVLayout,
        blocks: int | Mapping[int, int],
        device: torch.device,
        begin: int = 0,
        seed: int = 0,
    ) -> None:
        self.layout, self.device = layout, device
        self.random = np.random.default_rng(seed)
        counts = dict.fromkeys(PRECISIONS, blocks) if isinstance(blocks, int) else dict(blocks)
        sizes = {bits: layout.block_bytes[bits] * count for bits, count in counts.items()}
        self.arena = torch.empty(begin + sum(sizes.values()), dtype=torch.uint8, device=device)
        self.offsets: dict[int, np.ndarray] = {}
        """By precision, int64: where its blocks are."""
        self._queue = {bits: np.zeros(0, dtype=np.int64) for bits in counts}
        for bits, size in sizes.items():
            fill_blocks(self.arena[begin : begin + size], layout, bits, seed)
            step = layout.block_bytes[bits]
            self.offsets[bits] = begin + step * np.arange(counts[bits], dtype=np.int64)
            begin += size

    @classmethod
    def over(cls, layout: KVLayout, arena: Tensor, blocks: int, seed: int = 0) -> RandomArena:
        """The first `blocks` 16-bit blocks of an arena that is there already."""
        made = cls(layout, {16: 0}, arena.device, seed=seed)
        size = layout.block_bytes[16]
        fill_blocks(arena[: blocks * size], layout, 16, seed)
        made.arena, made.offsets = arena, {16: size * np.arange(blocks, dtype=np.int64)}
        return made

    def table(self, tokens: int, shares: dict[int, float] | None = None) -> Table:
        """A table that covers `tokens`; `shares` of its full blocks have these bits, the rest 16.

        The last block is always of 16 bits, as the newest tokens are.
        """
        count = -(-tokens // self.layout.block_tokens)
        bits = np.full(count, 16, dtype=np.int8)
        first = 0
        for precision, share in (shares or {}).items():
            last = min(count - 1, first + round(share * count))
            bits[first:last] = precision
            first = last
        offsets = np.empty(count, dtype=np.int64)
        for precision in set(bits.tolist()):
            where = np.flatnonzero(bits == precision)
            offsets[where] = self._draw(precision, len(where))
        return Table(offsets, bits)

    def reshuffle(self) -> None:
        """Begin anew: tables from now on share no block until all have come."""
        self._queue = {bits: queue[:0] for bits, queue in self._queue.items()}

    def _draw(self, bits: int, count: int) -> np.ndarray:
        """Blocks in random order, each once before one comes again."""
        queue = self._queue[bits]
        while len(queue) < count:
            queue = np.concatenate([queue, self.random.permutation(self.offsets[bits])])
        self._queue[bits] = queue[count:]
        return queue[:count]


def fill_blocks(region: Tensor, layout: KVLayout, bits: int, seed: int = 0) -> None:
    """Write random keys and values of `bits` into a region of whole blocks, in place."""
    size = layout.block_bytes[bits]
    blocks = region.view(len(region) // size, size)
    some = min(FILL_BLOCKS, len(blocks))
    if not some:
        return
    generator = torch.Generator(region.device).manual_seed(seed)
    units = blocks[:some].view(some, layout.layers, layout.kv_heads, layout.unit_bytes[bits])
    if bits == 16:
        shape = (*units.shape[:-1], units.shape[-1] // layout.dtype.itemsize)
        values = torch.randn(shape, generator=generator, device=region.device).to(layout.dtype)
        units.copy_(values.view(torch.uint8))
    else:
        _fill_codes(units, layout, bits, generator)
    for first in range(some, len(blocks), some):
        part = blocks[first : first + some]
        part.copy_(blocks[: len(part)])


def _fill_codes(units: Tensor, layout: KVLayout, bits: int, generator: torch.Generator) -> None:
    tokens, channels = layout.block_tokens, layout.head_dim
    codes = 2 * tokens * channels * bits // 8
    device = units.device
    low, high = (-127, 128) if bits == 8 else (0, 256)
    shape = (*units.shape[:-1], codes)
    drawn = torch.randint(low, high, shape, generator=generator, device=device, dtype=torch.int16)
    units[..., :codes] = drawn.to(torch.int8 if bits == 8 else torch.uint8).view(torch.uint8)
    count = (units.shape[-1] - codes) // SCALE_BYTES
    noise = torch.rand((*units.shape[:-1], count), generator=generator, device=device)
    scales = (noise + 0.5) * (3.0 / 127 if bits == 8 else 6.0 / 15)
    if bits == 4:  # Minima stand behind each set of scales; they are about minus half the range.
        scales[..., channels : 2 * channels] -= 3.5
        scales[..., 2 * channels + tokens :] -= 3.5
    units[..., codes:] = scales.to(torch.float16).view(torch.uint8)


def decode_rows(
    source: RandomArena, contexts: list[int], vocab: int, shares: dict[int, float] | None = None
) -> list[DecodeRow]:
    """One decode for each context, whose keys (its own included) are so many."""
    tokens = source.random.integers(0, vocab, len(contexts)).tolist()
    return [
        DecodeRow(source.table(context, shares), context, token)
        for context, token in zip(contexts, tokens, strict=True)
    ]


def chunk_rows(
    source: RandomArena,
    chunks: list[tuple[int, int]],
    vocab: int,
    shares: dict[int, float] | None = None,
) -> list[ChunkRows]:
    """Chunks of `(tokens, context before)`; every one wants logits. `shares` are of the context."""
    draw = source.random.integers
    return [
        ChunkRows(
            source.table(context + tokens, _of_context(source, tokens, context, shares or {})),
            context,
            draw(0, vocab, tokens),
            True,
        )
        for tokens, context in chunks
    ]


def _of_context(
    source: RandomArena, tokens: int, context: int, shares: dict[int, float]
) -> dict[int, float]:
    """Shares of all blocks, so that none that a chunk writes to loses bits, however they round."""
    size = source.layout.block_tokens
    part = max(0, context // size - 1) / -(-(context + tokens) // size)
    return {bits: share * part for bits, share in shares.items()}


def decode_step(
    source: RandomArena,
    contexts: list[int],
    vocab: int,
    budget: ItemBudget,
    shares: dict[int, float] | None = None,
) -> StepInputs:
    """Decodes alone, their work items padded as they are where steps are captured."""
    rows = decode_rows(source, contexts, vocab, shares)
    return build_inputs(
        rows,
        [],
        source.layout,
        source.device,
        item_blocks=item_blocks(budget, source.layout, contexts),
        pad_items=budget.capacity(len(rows)) if source.device.type == "cuda" else 0,
    )


def mixed_step(
    source: RandomArena,
    contexts: list[int],
    chunks: list[tuple[int, int]],
    vocab: int,
    budget: ItemBudget,
    shares: dict[int, float] | None = None,
) -> StepInputs:
    """Decodes beside chunks; `shares` are of the chunks' contexts."""
    return build_inputs(
        decode_rows(source, contexts, vocab),
        chunk_rows(source, chunks, vocab, shares),
        source.layout,
        source.device,
        item_blocks=item_blocks(budget, source.layout, contexts),
    )


def item_blocks(budget: ItemBudget, layout: KVLayout, contexts: list[int]) -> int:
    """Blocks of a work item, as the runner chooses them."""
    blocks = sum(-(-context // layout.block_tokens) for context in contexts)
    return budget.item_blocks(len(contexts), blocks)
