"""Run the grid of the dial's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.dial.plot import write_picture
from experiments.dial.table import REPORTED, page
from experiments.ladder.__main__ import loads
from experiments.scenarios.arms import ARMS, ROTATING
from experiments.scenarios.measures import ATTAINMENT, BATCH
from experiments.scenarios.settings import SETTINGS, config_of
from experiments.studykit.measures import numbers_of
from experiments.studykit.reading import exit_code_of
from experiments.studykit.record import PROFILE_70B
from experiments.studykit.run_cache import RunCache
from experiments.studykit.seeded_study import SeededStudy
from superinfer.lab.config import Config
from superinfer.lab.config.dial import WEIGHTS
from superinfer.lab.studies.pareto import pareto_front

SCENARIO = "m-pcie"
PARTS = 5
"""The weights are multiples of one over this."""
BITS = "kv_bits_mean"
GOALS = (BATCH, ATTAINMENT, BITS)
"""What stands for cost, speed and quality: the more, the better."""


def grid() -> list[dict[str, float]]:
    """All weights that sum to 1."""
    return [
        dict(
            zip(WEIGHTS, (cost / PARTS, speed / PARTS, (PARTS - cost - speed) / PARTS), strict=True)
        )
        for cost in range(PARTS + 1)
        for speed in range(PARTS + 1 - cost)
    ]


def config_at(weights: Mapping[str, float], chat_per_s: float) -> Config:
    """The run of a point."""
    table = ", ".join(f"{name} = {weight!r}" for name, weight in weights.items())
    return config_of(SETTINGS[SCENARIO], ARMS[ROTATING], chat_per_s, f"run.dial={{{table}}}")


def sweep(cache: RunCache, rate_per_s: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Every point, and which ones no other beats in everything."""
    points = grid()
    configs = {str(number): config_at(each, rate_per_s) for number, each in enumerate(points)}
    runs = cache.runs(configs, seeds, "dial")
    numbers = [numbers_of(runs[str(number)], REPORTED) for number in range(len(points))]
    front = pareto_front([[each[goal]["mean"] for goal in GOALS] for each in numbers])
    return {
        "scenario": SCENARIO,
        "title": SETTINGS[SCENARIO].title,
        "rate_per_s": rate_per_s,
        "points": [
            {"weights": weights, "numbers": found, "front": number in front}
            for number, (weights, found) in enumerate(zip(points, numbers, strict=True))
        ],
    }


STUDY = SeededStudy(
    name="dial",
    about="What the dial gives, corner to corner.",
    seeds=3,
    measure=lambda cache, seeds: sweep(cache, loads()[SCENARIO], seeds),
    page=page,
    draw=write_picture,
    rests_on=lambda seeds: {"profile": PROFILE_70B},
)

if __name__ == "__main__":
    raise SystemExit(exit_code_of(STUDY.main))
