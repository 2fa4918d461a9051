"""Climb the ladder in every scenario: one mechanism more on each rung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from experiments.ladder.plot import write_picture
from experiments.ladder.settings import SCENARIOS, config_at, first_rungs, further_rungs
from experiments.ladder.table import REPORTED, page
from experiments.scenarios.arms import Arm
from experiments.scenarios.measures import BATCH, DECIDING
from experiments.scenarios.settings import SETTINGS
from experiments.studykit.measures import numbers_of, paired
from experiments.studykit.reading import exit_code_of, fields_of, read_json
from experiments.studykit.record import PROFILE_70B, SIMULATED
from experiments.studykit.run_cache import RunCache, Runs
from experiments.studykit.seeded_study import SeededStudy
from superinfer.lab.numbers import mean_number

LOADS = SIMULATED / "scenarios" / "summary.json"
"""Where the study of the scenarios says at which load it compares."""


def climb_all(cache: RunCache, seeds: Sequence[int]) -> dict[str, Any]:
    """The ladders of all scenarios."""
    rates = loads()
    return {"scenarios": {name: climb(cache, name, rates[name], seeds) for name in SCENARIOS}}


def loads() -> dict[str, float]:
    """Chat requests/s at which the study of the scenarios compares its arms."""
    found = read_json(LOADS)
    with fields_of(LOADS):
        return {name: float(found["parts"][name]["star"]["rate_per_s"]) for name in SCENARIOS}


def climb(
    cache: RunCache, scenario: str, rate_per_s: float, seeds: Sequence[int]
) -> dict[str, Any]:
    """Every rung, and how it differs from the one below."""

    def run(arms: Mapping[str, Arm]) -> Runs:
        configs = {name: config_at(scenario, arm, rate_per_s) for name, arm in arms.items()}
        return cache.runs(configs, seeds, f"{scenario}: {len(arms)} rungs")

    fixed = run({arm.label: arm for arm in first_rungs().values()})
    first = max(fixed, key=lambda name: _batch(fixed, name))
    runs = {first: fixed[first]} | run({arm.label: arm for arm in further_rungs()})
    names = list(runs)
    return {
        "title": SETTINGS[scenario].title,
        "rate_per_s": rate_per_s,
        "fixed_chunks": {name: numbers_of(each, REPORTED) for name, each in fixed.items()},
        "rungs": {name: numbers_of(each, REPORTED) for name, each in runs.items()},
        "steps": {
            name: paired({below: runs[below], name: runs[name]}, below, DECIDING)[name]
            for below, name in pairwise(names)
        },
        "whole": paired({first: runs[first], names[-1]: runs[names[-1]]}, first, DECIDING)[
            names[-1]
        ],
    }


def _batch(runs: Runs, name: str) -> float:
    return mean_number([run.summary for run in runs[name]], BATCH) or 0.0


STUDY = SeededStudy(
    name="ladder",
    about="What each mechanism is worth.",
    seeds=5,
    measure=climb_all,
    page=page,
    draw=write_picture,
    rests_on=lambda seeds: {"profile": PROFILE_70B},
)

if __name__ == "__main__":
    raise SystemExit(exit_code_of(STUDY.main))
