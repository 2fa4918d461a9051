"""How many prefill tokens a step should take beside decodes to whom no pace is owed."""

from __future__ import annotations

import math
from typing import Final

from superinfer.costs.base import Chunk, CostModel
from superinfer.schedulers.pacing import GRAIN_TOKENS

REMEMBERED: Final = 200
"""Requests that the mean lengths look back on."""
STEPS_PER_OCTAVE: Final = 4
"""Mean lengths that differ by less than such a step get the same answer."""
ENOUGH: Final = 0.95
"""Share of the highest rate for which a smaller step is taken: fewer requests are under way then,
so each takes less time."""


class PayingChunks:
    """The chunk at which most requests get through, for the lengths of those that did so far.

    Requests that each bring P prompt and N answer tokens keep a machine in balance when, beside
    chunks of c tokens, D = c N / P of them decode: as many answers end as prompts. So a step of c
    tokens and D decodes, which takes T seconds, gets c / (P T) requests on. Smaller chunks keep
    few answers under way, so that each step that reads the weights serves few; larger ones need
    more of them than fit, and then D / (N T) is what gets on. Of those that are about as good the
    smallest is taken.

    Without a decode the whole budget is taken, and before the first request has ended.
    """

    def __init__(
        self, cost: CostModel, budget_tokens: int, tile_tokens: int, max_seqs: int, kv_tokens: int
    ) -> None:
        """`kv_tokens` fit into memory."""
        self._cost = cost
        self._budget = budget_tokens
        """Of a step, decodes included."""
        self._unit = tile_tokens or GRAIN_TOKENS
        """Rows of a tile of a matrix product, which steps fill; else of a grain."""
        self._max_seqs, self._kv_tokens = max_seqs, kv_tokens
        self._rows: dict[tuple[int, int], int] = {}
        """Of a whole step, by the mean lengths."""
        self._ended = 0
        self._prompt_tokens = self._answer_tokens = 0.0
        """Means over the requests that ended lately."""

    def learn(self, prompt_tokens: int, answer_tokens: int) -> None:
        """A request has ended, for which so many tokens had to be computed."""
        self._ended += 1
        share = 1.0 / min(self._ended, REMEMBERED)
        self._prompt_tokens += share * (max(1, prompt_tokens) - self._prompt_tokens)
        self._answer_tokens += share * (max(1, answer_tokens) - self._answer_tokens)

    def tokens(self, decodes: int) -> int:
        """Prefill tokens beside so many decodes: a grain, or what is left of the budget."""
        most = max(1, self._budget - decodes)
        if not decodes or not self._ended:
            return most
        key = _step(self._prompt_tokens), _step(self._answer_tokens)
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = self._best(_length(key[0]), _length(key[1]))
        if rows < decodes + GRAIN_TOKENS:
            rows = -(-(decodes + GRAIN_TOKENS) // self._unit) * self._unit
        return min(most, rows - decodes)

    # -- inside ---------------------------------------------------------------------------------

    def _best(self, prompt_tokens: float, answer_tokens: float) -> int:
        """Rows of the smallest step at which nearly as many requests a second get on as at any."""
        sizes = list(range(self._unit, self._budget, self._unit))
        sizes.append(self._budget)
        rates = [self._rate(rows, prompt_tokens, answer_tokens) for rows in sizes]
        enough = ENOUGH * max(rates)
        place = 0
        while rates[place] < enough:
            place += 1
        return sizes[place]

    def _rate(self, rows: int, prompt_tokens: float, answer_tokens: float) -> float:
        """Requests that steps of so many rows get through in a second."""
        held_tokens = prompt_tokens + answer_tokens / 2  # by one that decodes, in the mean
        fit = max(1.0, min(self._max_seqs, self._kv_tokens / held_tokens, rows - 1))
        decodes = max(1.0, min(fit, rows * answer_tokens / (prompt_tokens + answer_tokens)))
        chunk = max(1, int(rows - decodes))
        context = [Chunk(chunk, int(prompt_tokens / 2))]
        step_s = self._cost.step_s(context, round(decodes), int(decodes * held_tokens))
        step_s += self._cost.host_s(round(decodes) + 1)
        return min(chunk / prompt_tokens, decodes / answer_tokens) / step_s


def _step(tokens: float) -> int:
    return round(STEPS_PER_OCTAVE * math.log2(tokens))


def _length(step: int) -> float:
    length: float = 2.0 ** (step / STEPS_PER_OCTAVE)
    return length
