"""`slo_aware`: the blocks that promise the fewest hits for the time that they take go first."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack
from typing import Final

import numpy as np
from numpy.typing import NDArray

from superinfer.memory.orders.base import Surroundings
from superinfer.memory.orders.guard import Guard
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Appraisal, BatchAppraisal, Rows
from superinfer.memory.reuse.calibration import Calibration
from superinfer.memory.reuse.features import FEATURES, Visit
from superinfer.memory.reuse.model import ReuseModel, load_model
from superinfer.memory.reuse.trails import GAPS
from superinfer.memory.reuse.value import Valuation, survival

NOTHING: Final[list[float]] = []


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
        features: list[float] = []
        gaps: list[float] = []
        for visit in visits:
            features += visit.features
            gaps += visit.gaps
        hazards = self._model.hazards(_array(features, len(FEATURES)), _array(gaps, GAPS))
        hazards = self._calibration.corrected(visits, hazards)
        values = np.zeros((len(hazards), len(self.edges_s) + 1))
        values[:, :-1] = self._valuation.values(hazards)
        rows, unused, first = Rows(values), Rows(survival(hazards)), 0
        found: list[Appraisal] = []
        for visit in visits:
            found.append(BatchAppraisal(rows, unused, first))
            first += len(visit.starts)
            visit.features, visit.gaps = NOTHING, NOTHING
        return found


def _array(numbers: list[float], columns: int) -> NDArray[np.float32]:
    """Rows of so many columns; `struct` is several times faster with a list than numpy."""
    packed = pack(f"{len(numbers)}f", *numbers)
    return np.frombuffer(packed, np.float32).reshape(-1, columns)


class LearnedOrder(ValuedOrder):
    """Fewest expected hits per second first; by age alone while a shadow LRU would hit more."""

    def __init__(self, surroundings: Surroundings) -> None:
        appraiser = LearnedAppraiser(load_model(surroundings.weights))
        super().__init__(surroundings, appraiser, Guard(surroundings))
