"""How many prefill tokens a step should take beside decodes to whom no pace is owed."""

from __future__ import annotations

from typing import Final

from superinfer.batch import DecodeBatch
from superinfer.costs.base import Chunk, CostModel
from superinfer.schedulers.pacing import GRAIN_TOKENS

SIZE_BITS: Final = 3
"""Batches whose sizes agree in so many leading bits get the same answer."""
CONTEXT_GRAIN: Final = 512
"""Contexts below it get the same answer, then those up to twice that, and so on."""


class PayingChunks:
    """The chunk with which a second does most work.

    Work is counted in the seconds that it takes alone: the decodes a step of their own, the prompt
    its share of a whole budget with nothing beside it. A chunk that fills what the decodes leave
    idle of weights that are read anyhow costs little; for a large one they wait, and it saves them
    no more than that one reading. So most is done where computing the rows takes about as long as
    reading the weights. Where much of a step is the same for any chunk (host time, small models,
    experts that are all read, long contexts), larger ones pay, and without decodes the one with
    most tokens per second.

    Answers are kept by the size and the contexts of the batch in coarse steps, so that decisions
    hardly ever ask the cost model, and never depend on what was asked before.
    """

    def __init__(self, cost: CostModel, budget_tokens: int, tile_tokens: int) -> None:
        self._cost = cost
        self._budget = budget_tokens
        """Of a step, decodes included."""
        self._tile = tile_tokens
        """Rows of a tile of a matrix product, which chunks fill; 0: any multiple of the grain."""
        self._unit = tile_tokens or GRAIN_TOKENS
        self._units: dict[tuple[int, int, int], int] = {}
        """Tiles of a whole step, or grains of its chunk; 0 for the whole budget."""

    def tokens(self, batch: DecodeBatch, context_tokens: int) -> int:
        """Prefill tokens beside the whole batch: at least one grain, or what is left of the budget.
        The chunk starts after `context_tokens`.
        """
        size = batch.size
        most = max(1, self._budget - size)
        key = _leading(size), _bucket(batch.context_tokens), _bucket(context_tokens)
        units = self._units.get(key)
        if units is None:
            units = self._units[key] = self._best(*key)
        if not units:
            return most
        beside = size if self._tile else 0
        units = max(units, -(-(beside + GRAIN_TOKENS) // self._unit))
        return min(most, units * self._unit - beside)

    def steps(self, batch: DecodeBatch, context_tokens: int, tokens: int) -> int:
        """Steps, at least one, for which the answer is `tokens` while nobody comes or goes."""
        steps = _left_in_bucket(context_tokens) // tokens + 1
        return min(steps, _left_in_bucket(batch.context_tokens) // max(1, batch.size) + 1)

    def _best(self, size: int, batch_bucket: int, chunk_bucket: int) -> int:
        """Units of the size with most work per second, of equal ones the largest."""
        cost, budget, unit = self._cost, self._budget, self._unit
        held, context = _middle(batch_bucket), _middle(chunk_bucket)
        token_s = (cost.step_s([Chunk(budget, context)], 0, 0) + cost.host_s(1)) / budget
        decodes_s = cost.step_s((), size, held) + cost.host_s(size) if size else 0.0
        best, best_rate = 0, 0.0
        for units in range(1, -(-budget // unit) + 1):
            whole = units * unit >= budget
            tokens = budget - size if whole else units * unit - (size if self._tile else 0)
            if tokens < GRAIN_TOKENS or tokens > budget - size:
                continue
            step_s = cost.step_s([Chunk(tokens, context)], size, held) + cost.host_s(size + 1)
            rate = (tokens * token_s + decodes_s) / step_s
            if rate >= best_rate:
                best, best_rate = 0 if whole else units, rate
        return best


def _leading(size: int) -> int:
    """The size with all but its leading bits zero."""
    shift = max(0, size.bit_length() - SIZE_BITS)
    return size >> shift << shift


def _bucket(tokens: int) -> int:
    return (tokens // CONTEXT_GRAIN).bit_length()


def _middle(bucket: int) -> int:
    """Tokens in the middle of a bucket; none in the first."""
    return (3 * CONTEXT_GRAIN << bucket) // 4 if bucket else 0


def _left_in_bucket(tokens: int) -> int:
    """How many more tokens are in the same bucket."""
    return (CONTEXT_GRAIN << _bucket(tokens)) - 1 - tokens
