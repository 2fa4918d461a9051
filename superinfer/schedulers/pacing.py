"""How many prefill tokens fit into a step that may take so long, and which number pays best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from superinfer.batch import DecodeBatch
from superinfer.costs.base import Chunk, CostModel

GRAIN_TOKENS: Final = 64
"""A prefill always gets at least so many tokens; without tiles, chunks are multiples of it."""


@dataclass(slots=True)
class ChunkSizer:
    """Searches from its last answer on: from step to step the answer hardly changes.

    A matrix product is computed in tiles of `tile_tokens` rows, so a step with one token more than
    full tiles pays for a whole tile (Vidur's A100 tables, Llama-2-70B at TP 4: a chunk beside 37
    decodes takes 81 ms with 384 rows in all and 95 ms with 389). Chunks therefore fill the tiles
    that the decodes begin, and of two sizes the one with more prefill tokens per second is taken.
    """

    cost: CostModel
    tile_tokens: int = 128
    """Rows of a tile; 0 takes the largest multiple of the grain."""
    _units: int = 1

    def tokens_under(
        self, cap_s: float, batch: DecodeBatch, context_tokens: int, most_tokens: int
    ) -> int:
        """Prefill tokens, at most `most_tokens`, with which a step beside the whole batch stays
        under `cap_s` seconds; at least one grain. The chunk starts after `context_tokens`.
        """
        if tile := self.tile_tokens:
            sizes = _Sizes(self.cost, cap_s, batch, context_tokens, tile, batch.size)
            first = -(-(batch.size + GRAIN_TOKENS) // tile)
            units = self._largest(sizes, first, (most_tokens + batch.size) // tile)
            if units > first and sizes.rate(units - 1) > sizes.rate(units):
                units -= 1
            if units >= first:
                return sizes.tokens(units)
        sizes = _Sizes(self.cost, cap_s, batch, context_tokens, GRAIN_TOKENS, 0)
        return sizes.tokens(max(1, self._largest(sizes, 1, most_tokens // GRAIN_TOKENS)))

    def _largest(self, sizes: _Sizes, first: int, last: int) -> int:
        """The largest size from `first` to `last` that fits; less than `first` if none does."""
        units = min(max(first, self._units), last)
        if sizes.fits(units):
            while units < last and sizes.fits(units + 1):
                units += 1
        else:
            while units >= first and not sizes.fits(units):
                units -= 1
        self._units = units
        return units


@dataclass(slots=True)
class _Sizes:
    """Chunks of `units * unit - offset` tokens, beside one decode batch."""

    cost: CostModel
    cap_s: float
    batch: DecodeBatch
    context_tokens: int
    unit: int
    offset: int

    def tokens(self, units: int) -> int:
        return units * self.unit - self.offset

    def fits(self, units: int) -> bool:
        return self.tokens(units) > 0 and self._step_s(units) <= self.cap_s

    def rate(self, units: int) -> float:
        return self.tokens(units) / self._step_s(units)

    def _step_s(self, units: int) -> float:
        size, chunk = self.batch.size, Chunk(self.tokens(units), self.context_tokens)
        device_s = self.cost.step_s([chunk], size, self.batch.context_tokens)
        return device_s + self.cost.host_s(size + 1)
