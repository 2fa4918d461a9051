"""What a cached block saves and costs, in predicted seconds: computing it again, copying it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from superinfer.costs.base import Chunk, CostModel
from superinfer.costs.learned import LearnedCost
from superinfer.memory.blocks.slabs import NO_SMALL, Small, small_of

CHUNK_TOKENS: Final = 2048
"""Prefill is timed in chunks of so many tokens."""
COPIED_BLOCKS: Final = 64
"""Copies are timed together: blocks leave and come by the stretch."""
CopySize = Callable[[int, Small], tuple[int, int]]
"""Bytes and separate copies of so many blocks, smaller ones among them."""


class Prices:
    """Seconds by the cost model, for blocks of the same tokens.

    A block far down a prompt takes longer to compute, for it looks back at all that is before it.
    """

    def __init__(self, cost: CostModel, block_tokens: int, copy_size: CopySize) -> None:
        self._cost = cost
        self._learned = cost if isinstance(cost, LearnedCost) else None
        self._revision = 0
        """Of what was learned, when `_prefill_s` was made."""
        self._block_tokens, self._copy_size = block_tokens, copy_size
        self._prefill_s = [0.0]
        """To compute so many chunks from the beginning of a prompt; longer when asked for more."""
        self._block_copy_s: dict[str, dict[int, float]] = {"h2d": {}, "d2h": {}}
        self._convert_s: dict[tuple[int, int], float] = {}

    def block_copy_s(self, direction: str, bits: int) -> float:
        """To copy a block of these bits, as one of many."""
        known = self._block_copy_s[direction]
        found = known.get(bits)
        if found is None:
            small = small_of(bits, COPIED_BLOCKS)
            found = self.copy_s(COPIED_BLOCKS, direction, small) / COPIED_BLOCKS
            known[bits] = found
        return found

    def copy_s(self, blocks: int, direction: str, small: Small = NO_SMALL) -> float:
        """To copy so many blocks, `small` ones among them."""
        return self._cost.transfer_s(*self._copy_size(blocks, small), direction)

    def convert_s(self, from_bits: int, to_bits: int) -> float:
        """To bring a block to fewer bits, as one of many."""
        found = self._convert_s.get((from_bits, to_bits))
        if found is None:
            sizes = [self._copy_size(COPIED_BLOCKS, small_of(bits, COPIED_BLOCKS))[0]
                     for bits in (from_bits, to_bits)]  # fmt: skip
            found = self._cost.requantise_s(sum(sizes), to_bits) / COPIED_BLOCKS
            self._convert_s[from_bits, to_bits] = found
        return found

    def compute_s(self, start_tokens: int, stop_tokens: int) -> float:
        """To compute a stretch of a prompt, what is before it being there."""
        return self._prefilled_s(stop_tokens) - self._prefilled_s(start_tokens)

    def block_s(self, start_tokens: int, stop_tokens: int) -> float:
        """To compute a block of such a stretch, in the mean."""
        blocks = (stop_tokens - start_tokens) / self._block_tokens
        return self.compute_s(start_tokens, stop_tokens) / blocks

    def _prefilled_s(self, tokens: int) -> float:
        chunk, rest = tokens // CHUNK_TOKENS, tokens % CHUNK_TOKENS
        if self._learned is not None and self._learned.revision != self._revision:
            self._revision, self._prefill_s = self._learned.revision, [0.0]
        known = self._prefill_s
        while len(known) < chunk + 2:
            work = [Chunk(CHUNK_TOKENS, (len(known) - 1) * CHUNK_TOKENS)]
            known.append(known[-1] + self._cost.step_s(work, 0, 0))
        return known[chunk] + (known[chunk + 1] - known[chunk]) * rest / CHUNK_TOKENS
