"""Slices stay exact where copies both ways slow each other and where graphs pad steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property.exact_runs import FAKE, assert_exact, step_by_step
from property.workloads import JOBS, SETTINGS, Job

from superinfer.costs import CalibratedCost, load_profile, load_shape
from superinfer.costs.graphs import Graphs, MixedGraph

pytestmark = pytest.mark.interpreted
"""They replace `Engine.plan`."""

RECORDED = Path(__file__).parents[2] / "experiments/results/h200-early/profile-llama-3.1-8b.json"
GRAPHS = Graphs((1, 2, 4, 8), tuple(MixedGraph(*size) for size in ((4, 0), (4, 4), (16, 4))), 2)
"""So small that steps of a few requests differ in them, and some have none."""
COPYING = (
    "vllm-swap",
    "chunked-swap",
    "fcfs-background",
    "fcfs-tier-background",
    "edf",
    "vtc-optimistic",
    "rotasched",
    "rotasched-forced",
    "rotating",
    "rotating-half-duplex",
    "rotating-slo-aware",
)


@cache
def measured() -> CalibratedCost:
    """An H200's profile, whose link was measured both ways at once, with graphs."""
    profile = replace(load_profile(RECORDED), graphs=GRAPHS)
    assert "both" in profile.links
    return CalibratedCost(profile, load_shape("llama-3.1-8b"))


@pytest.mark.parametrize("arm", COPYING)
@pytest.mark.parametrize("lag", [0, 1])
@SETTINGS
@given(jobs=JOBS, duplex=st.sampled_from((1.25, 3.0)))
def test_slices_are_exact_beside_copies(arm: str, lag: int, jobs: list[Job], duplex: float) -> None:
    cost: Any = replace(FAKE, duplex=duplex)
    assert_exact(jobs, step_by_step, arm=arm, lag=lag, prefix=True, scale_s=1.0, cost=cost)


@pytest.mark.parametrize("arm", COPYING)
@pytest.mark.parametrize("lag", [0, 1])
@SETTINGS
@given(jobs=JOBS)
def test_slices_are_exact_with_what_an_h200_measured(arm: str, lag: int, jobs: list[Job]) -> None:
    options: Any = {"arm": arm, "lag": lag, "prefix": True, "cost": measured()}
    assert_exact(jobs, step_by_step, scale_s=0.015, **options)
