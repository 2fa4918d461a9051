"""The block manager follows whole runs of the core: counts agree after each plan, and no token is
ever another one when it is read.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import make_engine
from hypothesis import given
from hypothesis import strategies as st
from placed_runs import BLOCK_BYTES, FakeStreams, PlacedDriver, pattern_slabs
from property.test_exactness import ARMS, FAKE, JOBS, SETTINGS, Job, prompts

from executor.kv.streams import InlineStreams

FOLLOWED = (
    "vllm",
    "vllm-swap",
    "chunked",
    "chunked-swap",
    "fcfs",
    "fcfs-swap",
    "fcfs-background",
    "priority",
    "edf",
    "vtc-optimistic",
    "qoserve-swap",
    "fastserve-memory",
    "andes-swap",
    "rotating-dirty",
    "fcfs-shrinking",
    "vllm-shrinking",
    "chunked-slo-aware",
    "rotating",
    "rotating-shrinking",
    "rotasched",
    "andes",
)
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


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])
@pytest.mark.parametrize("arm", FOLLOWED)
@SETTINGS
@given(jobs=JOBS, seed=st.integers(0, 1000))
def test_places_follow_the_counts_and_keep_every_token(
    arm: str, prefix: bool, lag: int, jobs: list[Job], seed: int
) -> None:
    streams = FakeStreams(seed) if seed else InlineStreams()
    driver = follow(arm, jobs, lag, prefix, streams)
    assert driver.checks > 0
