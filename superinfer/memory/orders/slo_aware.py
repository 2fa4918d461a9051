"""`slo_aware`: what the reuse model thinks will be used least, for the place it takes, goes first."""

from __future__ import annotations

from superinfer.memory.orders.base import Surroundings
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.reuse.history import Visit
from superinfer.memory.reuse.model import ReuseModel, load_model
from superinfer.memory.reuse.value import values


class LearnedAppraiser:
    """The values that follow from the hazards of the reuse model."""

    def __init__(self, model: ReuseModel) -> None:
        self._model = model
        self.edges_s = model.edges_s

    def appraise(self, visit: Visit) -> list[list[float]]:
        """All stretches of a prompt in one batch."""
        found = values(self._model.hazards(visit.features, visit.gaps), self.edges_s)
        return [[*row, 0.0] for row in found.tolist()]


class LearnedOrder(ValuedOrder):
    """Lowest expected hits per second first, without a guard."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings, LearnedAppraiser(load_model(surroundings.weights)))
