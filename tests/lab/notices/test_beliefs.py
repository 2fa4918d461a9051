"""What schedulers believed, in a summary and in words."""

from __future__ import annotations

from harness import FakeCost

from superinfer.costs import DEVICES, PRESETS, RooflineCost
from superinfer.costs.learned import WARM_UP, LearnedCost
from superinfer.lab.notices.beliefs import beliefs_notes, beliefs_of


def learned(decodes: float | None = None, prefills: float | None = None) -> LearnedCost:
    cost = LearnedCost(RooflineCost(PRESETS["llama-3.1-8b"], DEVICES["a100-80g"]))
    for correction, factor in ((cost.decodes, decodes), (cost.prefills, prefills)):
        for _ in range(WARM_UP if factor else WARM_UP - 1):
            correction.learn(factor or 9.0, 1.0)
    return cost


def test_too_little_measured_is_nothing_learned() -> None:
    beliefs = beliefs_of([learned()])
    assert beliefs["learned"] == [{"decodes": None, "prefills": None}]
    said = "schedulers predicted step times with roofline:a100-80g"
    assert beliefs_notes(beliefs) == [f"{said}, and too few were measured to learn from"]
    assert beliefs_notes(beliefs_of([learned().base])) == [said]


def test_replicas_are_told_by_their_range() -> None:
    beliefs = beliefs_of([learned(1.5, 2.0), learned(1.25, 2.0), learned()])
    (note,) = beliefs_notes(beliefs)
    assert note.endswith(
        "learned: steps of decodes alone took 1.25 to 1.50 times as long, "
        "steps with prefill took 2.00 times as long"
    )
    (note,) = beliefs_notes(beliefs_of([learned(prefills=3.0)]))
    assert note.endswith("learned: steps with prefill took 3.00 times as long")


def test_a_model_without_a_name_has_none() -> None:
    assert beliefs_of([FakeCost()]) == {"profile": None, "learned": []}
