"""Factors on the hazards of the reuse model, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from superinfer.memory.reuse.calibration import DEADBAND, MEMORY_S, PRIOR_USES, Calibration
from superinfer.memory.reuse.features import Visit
from superinfer.memory.reuse.history import History
from superinfer.request import Request

EDGES_S = [10.0, 100.0]
RATES = np.array([0.5, 0.1])


class Asked:
    """Prompts of a block and a model that always says the same."""

    def __init__(self) -> None:
        self.history, self.calibration = History(), Calibration(EDGES_S)

    def __call__(self, at_s: float, *names: int) -> np.ndarray:
        """Corrected rates of the stretches of a prompt of such blocks."""
        request = Request("", at_s, 512 * len(names), 1, hash_ids=names)
        found: Visit = self.history.visit(request, at_s)
        hazards = np.tile(1.0 - np.exp(-RATES), (len(found.starts), 1))
        return -np.log1p(-self.calibration.corrected([found], hazards))


def test_without_experience_nothing_changes() -> None:
    assert Asked()(0.0, 1)[0] == pytest.approx(RATES)


def test_what_is_never_used_again_is_expected_less() -> None:
    """A hundred new prompts at once, and nothing in the 25 s after that."""
    asked = Asked()
    for name in range(100):
        asked(0.0, name)
    promised = 100 * RATES * [1.0, 15.0 / 90.0]  # of the second bin 15 of 90 s
    ratio = np.log(PRIOR_USES / (promised + PRIOR_USES))
    assert ratio[0] < -DEADBAND < ratio[1] < 0.0
    # A new prompt: the factor of the second bin is left alone.
    wanted = RATES * [math.exp(ratio[0] + DEADBAND), 1.0]
    assert asked(25.0, 1000)[0] == pytest.approx(wanted)
    # Nobody has learned a thing of those that come for the second time: they are a group apart.
    assert asked(25.0, 1000)[0] == pytest.approx(RATES)


@pytest.mark.parametrize("before", [0, 500])
def test_what_comes_again_at_once_is_expected_more(before: int) -> None:
    """Two hundred new prompts that each come again after a second, and never after. Those that came
    very long before are forgotten, but for the one that nobody came after.
    """
    asked, start_s = Asked(), 100 * MEMORY_S
    for name in range(before):
        asked(0.0, 2000 + name)
    asked(200.0, 1999)
    for name in range(200):
        asked(start_s, name)
    for name in range(200):
        asked(start_s + 1.0, name)
    promised = 0.5 + 200 * 0.5 * 0.1  # of the first bin a second of ten
    factor = (200 + PRIOR_USES) / (promised + PRIOR_USES) / 2.0  # what is beyond twice
    assert factor > 3.0
    found = asked(start_s + 21.0, 1000)[0]
    assert found == pytest.approx(RATES * [factor, 1.0], rel=1e-3)  # it fades a little


def test_a_use_before_the_answer_counts() -> None:
    """Prompts are appraised in batches, and some come twice in one."""
    history, calibration = History(), Calibration(EDGES_S)
    requests = [Request("", 0.04 * turn, 512, 1, hash_ids=(7,)) for turn in range(400)]
    visits = [history.visit(request, request.arrival_s) for request in requests]
    calibration.corrected(visits, np.tile(1.0 - np.exp(-RATES), (400, 1)))
    last = history.visit(Request("", 60.0, 512, 1, hash_ids=(7,)), 60.0)
    calibration.corrected([last], 1.0 - np.exp(-RATES)[None])
    # All but the first and the last stretch are known ones that go on with a session; there, 398
    # came again after 0.04 s, for which 0.002 uses were promised each, and the last one after 44 s.
    promised = 398 * 0.5 * 0.004 + 0.5
    assert calibration.factors[1, 0] == pytest.approx(
        (398 + PRIOR_USES) / (promised + PRIOR_USES) / 2.0
    )


def test_it_forgets() -> None:
    asked = Asked()
    for name in range(100):
        asked(0.0, name)
    early = asked(25.0, 1000)[0, 0]
    late = asked(25.0 + 10.0 * MEMORY_S, 1001)[0, 0]
    assert early < 0.7 * RATES[0]
    assert late == pytest.approx(RATES[0])


def test_it_keeps_no_more_than_the_model_looks_ahead() -> None:
    asked = Asked()
    for turn in range(1000):
        asked(float(turn), turn)
    kept = asked.calibration._noted.shape[1]
    assert kept <= 100 + 20 + 1
    assert asked.calibration._first + kept <= 1000
