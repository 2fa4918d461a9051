"""Runs of random workloads in several ways, and whether they come to the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from harness import FakeCost, make_engine
from property.arms import ARMS
from property.workloads import Job, prompts

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.batch import DecodeBatch
from superinfer.costs import (
    Coverage,
    Limits,
)
from superinfer.costs.coverage import (
    CONTEXT,
    KEYS,
    MEAN_CONTEXT,
    SEQUENCES,
    STEP_TOKENS,
    Limit,
)
from superinfer.engine import Engine
from superinfer.memory.base import Ladder
from superinfer.memory.blocks.slabs import Slabs
from superinfer.metrics.columns import RequestView
from superinfer.plan import Plan
from superinfer.records.run import RunRecord
from superinfer.sequence import Sequence

BLOCKS = 24
TOLERANCE = 1e-9
FAKE = FakeCost(
    step=1.0,
    per_chunk_token=2**-6,
    per_context_token=2**-8,
    host=0.25,
    copy=0.5,
    per_byte=2**-4,
    limits=Limits(
        (
            Limit(STEP_TOKENS, 14),
            Limit(SEQUENCES, 3),
            Limit(CONTEXT, 88),
            Limit(MEAN_CONTEXT, 38),
            Limit(KEYS, 25),
        )
    ),
)
SMALL_BLOCKS: dict[str, Any] = {
    "block_bytes": 8,
    "small_block_bytes": (4, 3),
    "slabs": Slabs(2, 4, 5),
}


def skip_impossible(arm: str, lag: int, prefix: bool) -> None:
    """What an engine refuses to run."""
    if "offload" in arm and (lag or not prefix):
        pytest.skip("offload needs lag 0 and a prefix cache")


def build(
    arm: str,
    lag: int,
    prefix: bool,
    sink: Any = None,
    cost: Any = FAKE,
    host_blocks: int = 400,
    blocks: int = BLOCKS,
    **more: Any,
) -> Engine:
    """A small engine under memory pressure."""
    skip_impossible(arm, lag, prefix)
    scheduler, memory = ARMS[arm]()
    return make_engine(
        scheduler,
        blocks,
        memory=memory,
        cost=cost,
        sink=sink,
        host_blocks=host_blocks,
        lag=lag,
        prefix_caching=prefix,
        max_model_len=512,
        **(SMALL_BLOCKS if isinstance(memory, Ladder) else {}),
        **more,
    )


# -- two ways to run the same workload ------------------------------------------------------------


class SlowBatch(DecodeBatch):
    """The decode batch with every question answered by asking each member."""

    __slots__ = ()

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.members)

    @size.setter
    def size(self, value: int) -> None:
        """Running sums are not kept."""

    @property
    def context_tokens(self) -> int:  # type: ignore[override]
        return sum(self.length(seq) - seq.light_tokens for seq in self.members)

    @context_tokens.setter
    def context_tokens(self, value: int) -> None:
        """Running sums are not kept."""

    @property
    def light_tokens(self) -> int:  # type: ignore[override]
        return sum(seq.light_tokens for seq in self.members)

    @light_tokens.setter
    def light_tokens(self, value: int) -> None:
        """Running sums are not kept."""

    def longest_tokens(self) -> int:
        return max(map(self.length, self.members), default=0)

    def grows(self, seq: Sequence) -> bool:
        return self._growth_of(seq, 1) == 1

    def growth(self, steps: int) -> int:
        return sum(self._growth_of(seq, steps) for seq in self.members)

    def next_growth(self) -> int:
        return self.growth(1)

    def steps_within(self, blocks: int, limit: int) -> int:
        steps = 0
        while steps < limit and self.growth(steps + 1) <= blocks:
            steps += 1
        return steps

    def _growth_of(self, seq: Sequence, steps: int) -> int:
        cached = self.length(seq) - 1
        return -(-(cached + steps) // self.block_tokens) + -cached // self.block_tokens


def step_by_step(engine: Engine) -> None:
    """Cut every slice to one step."""
    plan_slice = engine.plan

    def plan_step(now: float) -> Plan | None:
        plan = plan_slice(now)
        if plan is not None:
            plan.steps = 1
        return plan

    engine.plan = plan_step  # type: ignore[method-assign]


def one_by_one(engine: Engine) -> None:
    """Replace the batch's running sums."""
    engine.batch = SlowBatch(engine.block_tokens)


@dataclass
class Run:
    """What a run leaves behind."""

    events: list[Any] = field(default_factory=list)
    record: RunRecord = field(init=False)
    coverage: Coverage = field(init=False)


def play(
    jobs: list[Job], change: Callable[[Engine], None] | None, *, scale_s: float, **options: Any
) -> Run:
    run = Run()
    engine = build(sink=run.events.append, **options)
    if change is not None:
        change(engine)
    oracle = Oracle([job.output for job in jobs])
    run.coverage = simulate(engine, prompts(jobs, scale_s), oracle).coverage
    run.record = engine.recorder.build(engine)
    return run


# -- comparison -----------------------------------------------------------------------------------

IN_FLIGHT = frozenset({"submit", "decode", "transfer"})
"""Events that a slice logs at another place among the others, at the same time."""


def close(one: Any, other: Any) -> bool:
    """Equal to one part in a thousand million; unknown times are equal."""
    return bool(np.allclose(one, other, rtol=TOLERANCE, atol=0.0, equal_nan=True))


def streams(events: list[Any]) -> Iterator[list[Any]]:
    """The log by kind where order is free; what is left (decisions, ends) keeps its order."""
    for kind in sorted(IN_FLIGHT):
        yield [event for event in events if event[1] == kind]
    yield [event for event in events if event[1] not in IN_FLIGHT | {"evict"}]


def evicted(events: list[Any]) -> list[int]:
    """Cached blocks reclaimed up to each decision or end: inside a slice they may be grouped."""
    total, marks = 0, []
    for event in events:
        if event[1] == "evict":
            total += event[3]
        elif event[1] not in IN_FLIGHT:
            marks.append(total)
    return marks


def token_times(record: RunRecord, row: int) -> list[float]:
    """Every token time of one request, put together from runs and gaps; checks that they join."""
    table, tokens = record.table, record.tokens
    if np.isnan(table.first_token_s[row]):
        return []
    times = [float(table.first_token_s[row])]
    gaps = iter(tokens.gap_s[tokens.gap_row == row].tolist())
    for run in np.flatnonzero(tokens.run_row == row):
        while not close(times[-1], tokens.run_previous_s[run]):
            times.append(times[-1] + next(gaps))
        times += tokens.decode_end_s[tokens.run_first[run] : tokens.run_stop[run]].tolist()
    for gap_s in gaps:
        times.append(times[-1] + gap_s)
    return times


def assert_whole(record: RunRecord) -> None:
    """Each finished request has as many token times as tokens, the last when it finished, and
    the metrics see the same longest gap.
    """
    table, longest_s = record.table, RequestView.of(record).longest_gap_s
    for row, state in enumerate(table.state):
        times = token_times(record, row)
        assert len(times) == table.output_tokens[row]
        assert times == sorted(times)
        if state == "finished":
            assert close(times[-1], table.finish_s[row])
            assert len(times) == 1 or close(max(np.diff(times)), longest_s[row])


def assert_copies_add_up(record: RunRecord) -> None:
    """Every copied byte has its time, and is that of its request, or of none."""
    copies, table = record.copies, record.table
    rows = np.where(copies.row < 0, len(table.state), copies.row)
    size = len(table.state) + 1
    to_device, to_host = (
        np.bincount(rows, np.maximum(sign * copies.nbytes, 0), size) for sign in (1, -1)
    )
    assert to_device.tolist() == [*table.h2d_bytes, 0]
    assert to_host.tolist() == [*table.d2h_bytes, record.cache_d2h_bytes]
    assert (np.diff(copies.decided_s) >= 0).all()


def assert_computed_adds_up(record: RunRecord, lag: int) -> None:
    """Tokens of single requests are those of the run, but for steps that came after an end."""
    thrown_away = record.computed_tokens - int(record.table.computed_tokens.sum())
    assert 0 <= thrown_away <= lag * len(record.table.state)
    table, admitted = record.table, ~np.isnan(record.table.first_scheduled_s)
    asked = sum(r.prompt_tokens for r, found in zip(table.requests, admitted, strict=True) if found)
    assert record.prefix_query_tokens in (0, asked)
    assert record.prefix_hit_tokens == table.cached_tokens.sum()


COLUMNS = (
    "output_tokens",
    "cached_tokens",
    "recomputed_tokens",
    "computed_tokens",
    "preemptions",
    "rotations",
    "h2d_bytes",
    "d2h_bytes",
)
TIMES = ("first_scheduled_s", "first_token_s", "finish_s")
COUNTERS = (
    "peak_referenced_blocks",
    "peak_used_blocks",
    "computed_tokens",
    "prefix_query_tokens",
    "prefix_hit_tokens",
    "cache_d2h_bytes",
    "write_through_bytes",
    "write_through_useful_bytes",
    "write_through_wasted_bytes",
    "prefetch_useful_bytes",
    "prefetch_wasted_bytes",
    "losing_offloads",
    "steps",
)


def assert_same_records(one: RunRecord, other: RunRecord) -> None:
    assert one.table.state == other.table.state
    assert one.table.reject_reason == other.table.reject_reason
    for name in COLUMNS:
        assert (getattr(one.table, name) == getattr(other.table, name)).all(), name
    for name in TIMES:
        assert close(getattr(one.table, name), getattr(other.table, name)), name
    for name in COUNTERS:
        assert getattr(one, name) == getattr(other, name), name
    for row in range(len(one.table.state)):
        assert close(token_times(one, row), token_times(other, row))


def assert_same_events(one: list[Any], other: list[Any]) -> None:
    for first, second in zip(streams(one), streams(other), strict=True):
        assert [event[1:] for event in first] == [event[1:] for event in second]
        assert close([event[0] for event in first], [event[0] for event in second])
    assert evicted(one) == evicted(other)


def assert_same_coverage(one: Coverage, other: Coverage) -> None:
    assert close([one.total_s, one.outside_s], [other.total_s, other.outside_s])
    left = [{row["what"]: row for row in coverage.left_range} for coverage in (one, other)]
    assert left[0].keys() == left[1].keys()
    for what, row in left[0].items():
        assert row["largest"] == left[1][what]["largest"], what
        assert close(row["share"], left[1][what]["share"]), what


def assert_exact(jobs: list[Job], change: Callable[[Engine], None], **options: Any) -> None:
    fast, slow = play(jobs, None, **options), play(jobs, change, **options)
    assert_same_events(fast.events, slow.events)
    assert_same_records(fast.record, slow.record)
    assert_same_coverage(fast.coverage, slow.coverage)
    assert_whole(fast.record)
    assert_copies_add_up(fast.record)
    assert_computed_adds_up(fast.record, options["lag"])
