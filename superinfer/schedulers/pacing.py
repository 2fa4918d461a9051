"""How many prefill tokens fit into a step that may take so long."""

from __future__ import annotations

from dataclasses import dataclass

from superinfer.batch import DecodeBatch
from superinfer.costs.base import Chunk, CostModel

GRAIN_TOKENS = 64
"""Chunks are sized in multiples of this; a prefill always gets at least one."""


@dataclass(slots=True)
class ChunkSizer:
    """Searches from its last answer on: from step to step the answer hardly changes."""

    cost: CostModel
    _grains: int = 1

    def tokens_under(
        self, cap_s: float, batch: DecodeBatch, context_tokens: int, most_tokens: int
    ) -> int:
        """Largest multiple of the grain, at most `most_tokens`, with which a step beside the whole
        batch stays under `cap_s`; at least one grain. The chunk starts after `context_tokens`.
        """
        most = max(1, most_tokens // GRAIN_TOKENS)
        grains = min(self._grains, most)
        if self._fits(grains, cap_s, batch, context_tokens):
            while grains < most and self._fits(grains + 1, cap_s, batch, context_tokens):
                grains += 1
        else:
            while grains > 1 and not self._fits(grains, cap_s, batch, context_tokens):
                grains -= 1
        self._grains = grains
        return grains * GRAIN_TOKENS

    def _fits(self, grains: int, cap_s: float, batch: DecodeBatch, context_tokens: int) -> bool:
        chunk = Chunk(grains * GRAIN_TOKENS, context_tokens)
        step_s = self.cost.step_s([chunk], batch.size, batch.context_tokens)
        return step_s + self.cost.host_s(batch.size + 1) <= cap_s
