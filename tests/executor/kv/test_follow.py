"""The block manager follows whole runs of the core: counts agree after each plan, and no token is
ever another one when it is read.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import make_engine
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from placed_runs import BLOCK_BYTES, FakeStreams, PlacedDriver, pattern_slabs
from property.arms import ARMS
from property.exact_runs import FAKE
from property.workloads import JOBS, SETTINGS, Job, prompts

from executor.kv.streams import InlineStreams

FOLLOWED = (
    "vllm",
    "vllm-swap",
    "chunked-swap",
    "fcfs",
    "fcfs-background",
    "priority",
    "fastserve-memory",
    "rotating",
    "rotating-shrinking",
    "rotasched",
    "fcfs-shrinking",
    "vllm-shrinking",
    "chunked-slo-aware",
    "vllm-slo-aware",
    "rotating-slo-aware",
    "vllm-tier",
    "fcfs-tier-swap",
    "fcfs-tier-background",
    "fcfs-cached",
    "vllm-cached",
    "rotating-cached",
    "priority-cached",
    "priority-shrinking",
    "sglang-hicache",
)
FEW = settings(SETTINGS, max_examples=2, derandomize=True, phases=[Phase.explicit, Phase.generate])
BLOCKS = 24


def follow(
    arm: str, jobs: list[Job], lag: int, prefix: bool, streams: Any, slab_blocks: int = 2
) -> PlacedDriver:
    scheduler, memory = ARMS[arm]()
    engine = make_engine(
        scheduler,
        BLOCKS,
        memory=memory,
        cost=FAKE,
        block_tokens=4,
        block_bytes=BLOCK_BYTES[16],
        small_block_bytes=(BLOCK_BYTES[8], BLOCK_BYTES[4]),
        slabs=pattern_slabs(slab_blocks),
        host_blocks=BLOCKS,
        lag=lag,
        prefix_caching=prefix,
    )
    requests = prompts(jobs)
    driver = PlacedDriver(engine, requests, [max(1, job.output) for job in jobs], streams=streams)
    driver.run()
    return driver


ALL = pytest.mark.parametrize("arm", FOLLOWED)
LAGS = pytest.mark.parametrize("lag", [0, 1])
CACHES = pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])
WORK = given(jobs=JOBS, seed=st.integers(0, 1000), slab_blocks=st.integers(1, 4))


def run(arm: str, prefix: bool, lag: int, jobs: list[Job], seed: int, slab_blocks: int) -> None:
    streams = FakeStreams(seed) if seed % 4 else InlineStreams()
    assert follow(arm, jobs, lag, prefix, streams, slab_blocks).checks > 0


@LAGS
@CACHES
@ALL
@FEW
@WORK
def test_places_follow_the_counts_and_keep_every_token(
    arm: str, prefix: bool, lag: int, jobs: list[Job], seed: int, slab_blocks: int
) -> None:
    run(arm, prefix, lag, jobs, seed, slab_blocks)


@pytest.mark.slow
@LAGS
@CACHES
@ALL
@settings(SETTINGS, max_examples=15, derandomize=True)
@WORK
def test_places_follow_the_counts_in_many_runs(
    arm: str, prefix: bool, lag: int, jobs: list[Job], seed: int, slab_blocks: int
) -> None:
    run(arm, prefix, lag, jobs, seed, slab_blocks)


def test_runs_under_pressure_really_move_blocks() -> None:
    """Equal jobs in a small memory: the orders that only pressure brings are all there."""
    jobs = [Job(0.25, 30, 36, index % 3, 0, False) for index in range(12)]
    swapping = follow("rotasched", jobs, 1, True, FakeStreams(1)).device
    assert swapping.orders["CopyJob"] > 10
    shrinking = follow("fcfs-shrinking", jobs, 0, True, FakeStreams(2), 1).device
    assert shrinking.orders["RequantiseJob"] > 10 and shrinking.orders["CopyJob"] > 0
    cached = follow("fcfs-tier-background", jobs, 0, True, FakeStreams(3)).device
    assert cached.orders["CopyJob"] > 10
