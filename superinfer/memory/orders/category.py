"""`category_exponential`: reuse times that are exponential within a category of prompts.

Source: "KVCache cache in the wild" (arXiv 2506.02634): in a provider's traces the time until a
block is used again is close to exponential within a category: the kind of request and its turn
in the conversation. A block's priority is the probability that it is used within its expected life
in the cache, then its offset in the prompt, the earlier ones last to go.

Categories here are the turns alone (traces name no kind of request). Share and mean time of reuse
are counted in blocks as they are seen, and what is old weighs less: all counts are halved when a
category has seen `HALF_LIFE` blocks. The life is the mean age of what went.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import Surroundings
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Appraisal
from superinfer.memory.reuse.features import Visit

EDGES_S: Final = (5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0)
MOST_TURNS: Final = 4
HALF_LIFE: Final = 20_000.0
LIFE_SMOOTHING: Final = 0.01


@dataclass(slots=True)
class Category:
    """Counts of one category, with a weak prior."""

    visits: float = 4.0
    reused: float = 1.0
    waited_s: float = 60.0

    @property
    def share(self) -> float:
        """Of stretches that are used again."""
        return min(0.999, self.reused / self.visits)

    @property
    def rate_per_s(self) -> float:
        """Of the exponential time until then."""
        return self.reused / self.waited_s

    def used_within(self, age_s: float, life_s: float) -> float:
        """Probability of a use before `age_s + life_s`, when there was none before `age_s`."""
        rate = self.rate_per_s
        waiting = self.share * math.exp(-rate * age_s)
        return waiting * -math.expm1(-rate * life_s) / (1.0 - self.share + waiting)

    def halve(self) -> None:
        """Let what was seen weigh less."""
        self.visits /= 2
        self.reused /= 2
        self.waited_s /= 2


class CategoryAppraiser:
    """Probability of a use within the expected life, by the turn of the conversation."""

    edges_s = EDGES_S

    def __init__(self) -> None:
        self.life_s = EDGES_S[-1]
        self._categories = [Category() for _ in range(MOST_TURNS + 1)]

    def appraise(self, visits: Sequence[Visit]) -> list[Appraisal]:
        """Count what was used again, and judge each prompt by its turn."""
        return [self._appraise(visit) for visit in visits]

    def _appraise(self, visit: Visit) -> Appraisal:
        turns = visit.turns
        for start, stop, waited_s in zip(visit.starts, visit.stops, visit.waited_s, strict=True):
            if waited_s is not None and turns:
                self._reused(self._categories[min(turns, MOST_TURNS)], stop - start, waited_s)
        category = self._categories[min(turns + 1, MOST_TURNS)]
        category.visits += visit.stops[-1]
        if category.visits > HALF_LIFE:
            category.halve()
        row = [category.used_within(age_s, self.life_s) for age_s in (0.0, *EDGES_S)]
        stretches = len(visit.starts)
        unused = [1.0 - category.used_within(0.0, age_s) for age_s in EDGES_S]
        return Appraisal([row] * stretches, [unused] * stretches)

    @staticmethod
    def _reused(category: Category, blocks: int, waited_s: float) -> None:
        category.reused += blocks
        category.waited_s += blocks * waited_s


class CategoryOrder(ValuedOrder):
    """The least likely to be used again goes first."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._categories = CategoryAppraiser()
        super().__init__(surroundings, self._categories)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The least likely leaf; its age goes into the expected life."""
        node, count = super().victim(blocks)
        age_s = self.now_s - node.last_access_s
        self._categories.life_s += LIFE_SMOOTHING * (age_s - self._categories.life_s)
        return node, count
