"""Run every scheduler under every flood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.fairness.measures import measured
from experiments.fairness.plot import write_picture
from experiments.fairness.settings import ARMS, FLOODS, config_of
from experiments.fairness.table import page
from experiments.studykit.reading import exit_code_of
from experiments.studykit.record import PROFILE_70B
from experiments.studykit.run_cache import RunCache
from experiments.studykit.seeded_study import SeededStudy


def floods(cache: RunCache, seeds: Sequence[int]) -> dict[str, Any]:
    """Numbers of all arms by flood."""
    return {"floods": {name: _measured(cache, name, seeds) for name in FLOODS}}


def _measured(cache: RunCache, flood: str, seeds: Sequence[int]) -> dict[str, Any]:
    configs = {name: config_of(arm, FLOODS[flood]) for name, arm in ARMS.items()}
    runs = cache.runs(configs, seeds, flood)
    return {name: measured(each) for name, each in runs.items()}


STUDY = SeededStudy(
    name="fairness",
    about="What a free tier gets beside a hostile tenant.",
    seeds=3,
    measure=floods,
    page=page,
    draw=write_picture,
    rests_on=lambda seeds: {"profile": PROFILE_70B},
)

if __name__ == "__main__":
    raise SystemExit(exit_code_of(STUDY.main))
