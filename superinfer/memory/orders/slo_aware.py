"""`slo_aware`: the blocks that promise the fewest hits for the time that they take go first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superinfer.memory.orders.base import Surroundings
from superinfer.memory.orders.guard import Guard
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Appraisal
from superinfer.memory.reuse.calibration import Calibration
from superinfer.memory.reuse.history import Visit
from superinfer.memory.reuse.model import ReuseModel, load_model
from superinfer.memory.reuse.value import Valuation, survival


class LearnedAppraiser:
    """The values that follow from the hazards of the reuse model."""

    def __init__(self, model: ReuseModel) -> None:
        self._model = model
        self.edges_s = model.edges_s
        self._valuation = Valuation(model.edges_s)
        self._calibration = Calibration(model.edges_s)

    def appraise(self, visits: Sequence[Visit]) -> list[Appraisal]:
        """All stretches of all prompts in one batch. What was asked is forgotten: a prompt stays
        for as long as its blocks do, and the answer with it.
        """
        features = [row for visit in visits for row in visit.features]
        gaps = [row for visit in visits for row in visit.gaps]
        hazards = self._calibration.corrected(visits, self._model.hazards(features, gaps))
        values = np.zeros((len(hazards), len(self.edges_s) + 1))
        values[:, :-1] = self._valuation.values(hazards)
        rows = values.tolist()
        unused = survival(hazards).tolist()
        found, first = [], 0
        for visit in visits:
            stop = first + len(visit.starts)
            found.append(Appraisal(rows[first:stop], unused[first:stop]))
            visit.features, visit.gaps = [], []
            first = stop
        return found


class LearnedOrder(ValuedOrder):
    """Fewest expected hits per second first; by age alone while a shadow LRU would hit more."""

    def __init__(self, surroundings: Surroundings) -> None:
        appraiser = LearnedAppraiser(load_model(surroundings.weights))
        super().__init__(surroundings, appraiser, Guard(surroundings))
