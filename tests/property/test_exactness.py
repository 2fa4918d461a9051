"""Exactness: time slices and running sums give what step by step and one by one would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from harness import FakeCost, make_engine, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiered import CachedShrinkingLru, ShrinkingLru, TieredLru

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.batch import DecodeBatch
from superinfer.costs import (
    CalibratedCost,
    Chunk,
    Coverage,
    Limits,
    build_cost,
    list_profiles,
    load_profile,
    load_shape,
)
from superinfer.costs.coverage import (
    CONTEXT,
    KEYS,
    MEAN_CONTEXT,
    SEQUENCES,
    STEP_TOKENS,
    Limit,
)
from superinfer.costs.profile import Kernel
from superinfer.engine import Engine
from superinfer.engine_config import EngineConfig
from superinfer.lab.replay import replay
from superinfer.memory.base import Ladder
from superinfer.memory.hicache import HiCacheMemory
from superinfer.memory.lru import LruMemory
from superinfer.memory.radix import RadixMemory
from superinfer.memory.retention import RetentionMemory
from superinfer.memory.slabs import Slabs
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.memory.vllm_v1 import VllmV1Memory
from superinfer.metrics.columns import RequestView
from superinfer.plan import Plan
from superinfer.record import RunRecord
from superinfer.request import DEFAULT_CLASS, SLO, Request, SLOClass
from superinfer.schedulers.andes import AndesScheduler
from superinfer.schedulers.edf import EdfScheduler
from superinfer.schedulers.fastserve import FastServeScheduler
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.flexgen import FlexGenScheduler
from superinfer.schedulers.priority import PriorityScheduler
from superinfer.schedulers.qoserve import QoServeScheduler
from superinfer.schedulers.rotasched import RotaScheduler
from superinfer.schedulers.rotating import RotatingScheduler
from superinfer.schedulers.sglang import SglangScheduler
from superinfer.schedulers.tensorrt_llm import TensorRtLlmScheduler
from superinfer.schedulers.vllm import VllmScheduler
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler
from superinfer.schedulers.vtc import VtcScheduler
from superinfer.sequence import Sequence

SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=10, suppress_health_check=list(HealthCheck)
)
BLOCKS = 24
HASH_TOKENS = 6
TOLERANCE = 1e-9


class Job(NamedTuple):
    """One request of a random workload, small enough that failing examples shrink well."""

    gap: float
    prompt: int
    output: int
    group: int
    """Requests of one group share their prompts' beginnings; 0 shares nothing. They also share
    their service class, and with the priority it gives the tenant."""
    priority: int
    tight: bool


JOBS = st.lists(
    st.builds(
        Job,
        gap=st.sampled_from((0, 0, 0.25, 1, 3.5, 30)),
        prompt=st.integers(1, 36),
        output=st.integers(1, 36),
        group=st.integers(0, 3),
        priority=st.integers(0, 1),
        tight=st.booleans(),
    ),
    min_size=3,
    max_size=16,
)


PACE = SLO(ttft_s=4.0, tpot_s=2.0)
CLASSES = (
    SLOClass("strict", PACE),
    SLOClass("whole", SLO(e2el_s=60.0, min_tokens_per_s=0.25), min_kv_bits=4),
    SLOClass("paced", PACE, delivery="paced", weight=2.0, min_kv_bits=8),
    SLOClass("stall", PACE, max_stall_s=8.0, weight=0.5),
)
"""What the tight requests of each group are promised."""
LOOSE = replace(DEFAULT_CLASS, min_kv_bits=4)
"""The class of the others."""


def vllm(chunked: bool, preemption: Any) -> Callable[[], tuple[Any, Any]]:
    # v0.6.0 never brings back a copied prefill with more left than the budget, so there the budget
    # holds any prompt.
    budget = 16 if chunked and preemption == "recompute" else 40 if chunked else 64
    return lambda: (
        VllmScheduler(
            chunked=chunked,
            max_num_batched_tokens=budget,
            max_num_seqs=8,
            preemption=preemption,
        ),
        LruMemory(),
    )


def vllm_v1(memory: Callable[[], Any] = VllmV1Memory, **more: Any) -> Callable[[], tuple[Any, Any]]:
    return lambda: (
        VllmV1Scheduler(max_num_batched_tokens=16, max_num_seqs=8, **more),
        memory(),
    )


@dataclass
class SmallHost(VllmV1Memory):
    """Copies on the host that make way for one another."""

    host_size_blocks: int = 20

    def host_cache_blocks(self, config: EngineConfig) -> int:
        return min(self.host_size_blocks, VllmV1Memory.host_cache_blocks(self, config))


def offload(*memory: Any, **more: Any) -> Callable[[], tuple[Any, Any]]:
    return vllm_v1(partial(SmallHost, True, *memory), **more)


def rotating(**switches: Any) -> Callable[[], tuple[Any, Any]]:
    """Waits are short beside those of the defaults, so that requests age."""
    return lambda: (
        RotatingScheduler(
            max_num_batched_tokens=16, max_num_seqs=8, max_wait_s=12.0, tile_tokens=0, **switches
        ),
        LruMemory(),
    )


def flexgen(**settings: Any) -> Callable[[], tuple[Any, Any]]:
    return lambda: (FlexGenScheduler(**settings), LruMemory())


def fcfs(*memory: Any) -> Callable[[], tuple[Any, Any]]:
    return lambda: (
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        LruMemory(*memory),
    )


def sglang(memory: Callable[[], Any] = RadixMemory, **settings: Any) -> Callable[[], Any]:
    """Few new tokens are expected of a request, so that many run and some are retracted."""
    return lambda: (
        SglangScheduler(
            chunked_prefill_tokens=16,
            max_num_seqs=8,
            clip_new_tokens=8,
            retract_decode_steps=2,
            **settings,
        ),
        memory(),
    )


def tiered(make: Callable[[], tuple[Any, Any]], **memory: Any) -> Callable[[], tuple[Any, Any]]:
    """The scheduler of another arm with cached blocks on the host, too."""
    return lambda: (make()[0], TieredLru(**memory))


def shrinking(make: Callable[[], tuple[Any, Any]], **memory: Any) -> Callable[[], tuple[Any, Any]]:
    """The scheduler of another arm with precisions that fall under pressure."""
    return lambda: (make()[0], ShrinkingLru(**memory))


def cached(make: Callable[[], tuple[Any, Any]], **memory: Any) -> Callable[[], tuple[Any, Any]]:
    """The same, and cached blocks lose bits before they go."""
    return lambda: (make()[0], CachedShrinkingLru(**memory))


def tensorrt(**settings: Any) -> Callable[[], tuple[Any, Any]]:
    """With retention priorities, and ten blocks on the host."""
    settings.setdefault("max_num_tokens", 40)
    return lambda: (
        TensorRtLlmScheduler(max_batch_size=8, **settings),
        RetentionMemory({"strict": 80, "paced": 10}, {"whole": 50}, host_cache_gib=10 / 2**30),
    )


def slo_aware(make: Callable[[], tuple[Any, Any]], **memory: Any) -> Callable[[], tuple[Any, Any]]:
    """The scheduler of another arm with the learned order, on both tiers."""
    pressed = {"tail_tokens": 3, "shrink_8_at": 0.4, "shrink_4_at": 0.7}
    return lambda: (make()[0], SloAwareMemory(**pressed | memory))


def rotasched(**settings: Any) -> Callable[[], tuple[Any, Any]]:
    return lambda: (
        RotaScheduler(max_num_batched_tokens=16, max_num_seqs=8, **settings),
        LruMemory(),
    )


def priority() -> tuple[Any, Any]:
    return PriorityScheduler(max_num_batched_tokens=64, max_num_seqs=8), LruMemory("cheaper")


def edf() -> tuple[Any, Any]:
    return EdfScheduler(max_num_batched_tokens=16, max_num_seqs=8), LruMemory("swap", "background")


def vtc(*memory: Any, **settings: Any) -> Callable[[], tuple[Any, Any]]:
    return lambda: (
        VtcScheduler(max_num_batched_tokens=16, max_num_seqs=8, **settings),
        LruMemory(*memory),
    )


def qoserve(*memory: Any, **settings: Any) -> Callable[[], tuple[Any, Any]]:
    """Short deadlines for those that are promised nothing, so that some are relegated."""
    return lambda: (
        QoServeScheduler(
            max_num_batched_tokens=96,
            max_num_seqs=8,
            best_effort_e2el_s=40.0,
            alpha_ms_per_token=250.0,
            **settings,
        ),
        LruMemory(*memory),
    )


def fastserve(**settings: Any) -> Callable[[], tuple[Any, Any]]:
    """Quanta of a few steps and few places, so that levels change and somebody is passed over."""
    return lambda: (
        FastServeScheduler(
            max_num_batched_tokens=16,
            base_quantum_ms=3000.0,
            starvation_s=10.0,
            starvation_period_steps=7,
            **{"max_num_seqs": 3, **settings},
        ),
        LruMemory(),
    )


def andes(**settings: Any) -> Callable[[], tuple[Any, Any]]:
    """Pressure early and a short horizon, so that places are swapped."""
    return lambda: (
        AndesScheduler(
            max_num_batched_tokens=64,
            max_num_seqs=8,
            pressure=0.5,
            interval_steps=4,
            horizon_s=20.0,
            **settings,
        ),
        LruMemory(),
    )


ARMS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vllm": vllm(False, "recompute"),
    "vllm-swap": vllm(False, "swap"),
    "chunked": vllm(True, "recompute"),
    "chunked-swap": vllm(True, "swap"),
    "vllm-v1": vllm_v1(),
    "vllm-v1-priority": vllm_v1(policy="priority", long_prefill_token_threshold=6, watermark=0.1),
    "vllm-v1-lru": vllm_v1(LruMemory, scheduler_reserve_full_isl=False),
    "vllm-v1-offload": offload("lru", True, 40),
    "vllm-v1-offload-answers": offload("lru", False, watermark=0.1),
    "vllm-v1-offload-arc": offload("arc", False, 12, policy="priority"),
    "vllm-v1-offload-first": offload("arc", True, scheduler_reserve_full_isl=False),
    "fcfs": fcfs("recompute"),
    "fcfs-swap": fcfs("swap"),
    "fcfs-background": fcfs("swap", "background"),
    "priority": priority,
    "sglang": sglang(),
    "sglang-mixed": sglang(mixed_chunk=True, policy="dfs-weight"),
    "sglang-0.3.2": sglang(version="0.3.2"),
    "sglang-hicache": sglang(partial(HiCacheMemory, 0.5, "write_back"), policy="lpm"),
    "fcfs-tier": tiered(fcfs(), exclusive=True, host_size_blocks=10),
    "fcfs-tier-swap": tiered(fcfs(), preemption="swap", write_through_hits=2),
    "fcfs-tier-background": tiered(
        fcfs(),
        writes_back=False,
        write_through_hits=1,
        load_min_tokens=5,
        load_timing="background",
        host_size_blocks=20,
    ),
    "vllm-slo-aware": slo_aware(vllm(False, "recompute"), host_ratio=0.5),
    "chunked-slo-aware": slo_aware(vllm(True, "recompute"), host_ratio=0.0, pin_s=5.0),
    "rotating-slo-aware": slo_aware(rotating(), preemption="cheaper", pin_share=0.5),
    "vllm-tier": tiered(vllm(False, "recompute"), exclusive=True, host_size_blocks=10),
    "tensorrt": tensorrt(),
    "tensorrt-chunked": tensorrt(context_chunking="first_come_first_served", max_num_tokens=16),
    "tensorrt-max": tensorrt(capacity_policy="max_utilization"),
    "tensorrt-max-equal": tensorrt(
        capacity_policy="max_utilization", context_chunking="equal_progress", max_num_tokens=16
    ),
    "edf": edf,
    "vtc": vtc(),
    "vtc-optimistic": vtc("swap", "background", reserve_declared=False),
    "qoserve": qoserve(),
    "qoserve-swap": qoserve("swap", "background"),
    "fastserve": fastserve(),
    "fastserve-memory": fastserve(max_num_seqs=8, swap_timing="before_step"),
    "andes": andes(),
    "andes-swap": andes(preemption="swap"),
    "rotasched": rotasched(budget_blocks=12),
    "rotasched-vlt": rotasched(variant="lvf_vlt", budget_blocks=12),
    "rotasched-forced": rotasched(budget_blocks=0, eager=False, full_duplex=False),
    "flexgen": flexgen(gpu_batch_size=2),
    "flexgen-one": flexgen(gpu_batch_size=1, early_stop=True),
    "rotating": rotating(),
    "rotating-half-duplex": rotating(full_duplex=False, layout="layer_first", prefetch_share=0.05),
    "rotating-dirty": rotating(write_through=False),
    "rotating-plain": rotating(
        promotion=False,
        demotion=False,
        skip_join=False,
        prefetch=False,
        relegation=False,
        paced_chunks=False,
        admission=False,
        fairness=False,
    ),
    "rotating-shrinking": shrinking(rotating()),
    "fcfs-shrinking": shrinking(fcfs(), preemption="swap", swap_in_timing="background"),
    "vllm-shrinking": shrinking(vllm(True, "recompute"), shrink_8_at=0.2, shrink_4_at=0.3),
    "fcfs-cached": cached(fcfs(), preemption="swap", spared=0),
    "vllm-cached": cached(vllm(True, "recompute"), host_size_blocks=10),
    "rotating-cached": cached(rotating(), host_size_blocks=10, exclusive=True),
    "priority-cached": cached(priority, host_size_blocks=10, write_through_hits=1),
    "priority-shrinking": shrinking(
        priority, preemption="cheaper", host_size_blocks=10, write_through_hits=2
    ),
}

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
UNEVEN = ("rtxpro6000", "llama-3.1-8b")
UNEVEN_ARMS = (
    "vllm-swap",
    "chunked",
    "vllm-v1",
    "fcfs-swap",
    "fcfs-background",
    "sglang-mixed",
    "tensorrt-max",
    "fastserve",
    "andes",
    "rotasched",
    "flexgen",
    "rotating",
    "rotating-shrinking",
    "vllm-cached",
)
"""Those that take members off the batch in different ways, and bits from them."""
ALL_ARMS = pytest.mark.parametrize("arm", ARMS)
BOTH_LAGS = pytest.mark.parametrize("lag", [0, 1])
BOTH_CACHES = pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])


def in_seconds(slo_class: SLOClass, scale_s: float) -> SLOClass:
    """A class whose targets are told in units of `scale_s`."""

    def scaled(target_s: float | None, factor: float = scale_s) -> float | None:
        return None if target_s is None else target_s * factor

    slo = slo_class.slo
    return replace(
        slo_class,
        slo=SLO(
            ttft_s=scaled(slo.ttft_s),
            tpot_s=scaled(slo.tpot_s),
            e2el_s=scaled(slo.e2el_s),
            min_tokens_per_s=scaled(slo.min_tokens_per_s, 1 / scale_s),
        ),
        max_stall_s=scaled(slo_class.max_stall_s),
    )


def prompts(jobs: list[Job], scale_s: float = 1.0) -> list[Request]:
    """The requests of a workload; `scale_s` stretches the time between arrivals."""
    now, requests = 0.0, []
    for index, job in enumerate(jobs):
        now += job.gap * scale_s
        first = 1000 * job.group if job.group else 1000 * (index + 10)
        slo_class = in_seconds(CLASSES[job.group], scale_s) if job.tight else LOOSE
        requests.append(
            request(
                index,
                job.prompt,
                0,
                now,
                slo=slo_class.slo,
                slo_class=slo_class,
                tenant=f"{job.group}{job.priority}",
                priority=job.priority,
                hash_ids=tuple(range(first, first - (-job.prompt // HASH_TOKENS))),
                hash_block_tokens=HASH_TOKENS,
                max_tokens=2 * job.output,
            )
        )
    return requests


def skip_impossible(arm: str, lag: int, prefix: bool) -> None:
    """What an engine refuses to run."""
    if "offload" in arm and (lag or not prefix):
        pytest.skip("offload needs lag 0 and a prefix cache")


def build(arm: str, lag: int, prefix: bool, sink: Any = None, cost: Any = FAKE) -> Engine:
    """A small engine under memory pressure."""
    skip_impossible(arm, lag, prefix)
    scheduler, memory = ARMS[arm]()
    return make_engine(
        scheduler,
        BLOCKS,
        memory=memory,
        cost=cost,
        sink=sink,
        host_blocks=400,
        lag=lag,
        prefix_caching=prefix,
        max_model_len=512,
        **(SMALL_BLOCKS if isinstance(memory, Ladder) else {}),
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


COLUMNS = (
    "output_tokens",
    "cached_tokens",
    "recomputed_tokens",
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


# -- tests ----------------------------------------------------------------------------------------


@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@SETTINGS
@given(jobs=JOBS)
def test_slices_are_exact(arm: str, lag: int, prefix: bool, jobs: list[Job]) -> None:
    assert_exact(jobs, step_by_step, arm=arm, lag=lag, prefix=prefix, scale_s=1.0)


@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@SETTINGS
@given(jobs=JOBS)
def test_running_sums_are_exact(arm: str, lag: int, prefix: bool, jobs: list[Job]) -> None:
    assert_exact(jobs, one_by_one, arm=arm, lag=lag, prefix=prefix, scale_s=1.0)


@pytest.fixture(scope="module", params=["calibrated", "roofline"])
def real_cost(request: pytest.FixtureRequest) -> Any:
    return build_cost("llama-3.1-8b", "a100-80g", costs=request.param)


@pytest.mark.parametrize("change", [step_by_step, one_by_one])
@ALL_ARMS
@BOTH_LAGS
@settings(SETTINGS, max_examples=5)
@given(jobs=JOBS)
def test_exact_with_real_costs(
    real_cost: Any, change: Callable[[Engine], None], arm: str, lag: int, jobs: list[Job]
) -> None:
    options: Any = {"arm": arm, "lag": lag, "prefix": True, "cost": real_cost}
    assert_exact(jobs, change, scale_s=0.015, **options)


@pytest.fixture(scope="module", params=[None, 1.3], ids=["mean", "busy"])
def uneven_cost(request: pytest.FixtureRequest) -> CalibratedCost:
    """A measured profile where the longest context of a batch takes much beside the step: what it
    is above the mean, or above 1.3 mean ones, which changes from step to step.
    """
    path = next(path for device, model, _, path in list_profiles() if (device, model) == UNEVEN)
    profile = load_profile(path)
    table = Kernel({"sequences": (1.0, 8.0)}, (1e-7, 3e-7))
    kernels = profile.kernels | {"attention_uneven": table}
    if request.param is not None:
        busy = tuple(request.param * value for value in (1e-7, 3e-7))
        kernels |= {"attention_busy": Kernel({"sequences": (1.0, 8.0)}, busy)}
    return CalibratedCost(replace(profile, kernels=kernels), load_shape(profile.model))


@pytest.mark.parametrize("change", [step_by_step, one_by_one])
@pytest.mark.parametrize("arm", UNEVEN_ARMS)
@BOTH_LAGS
@settings(SETTINGS, max_examples=5)
@given(jobs=JOBS)
def test_exact_with_unequal_contexts(
    uneven_cost: CalibratedCost,
    change: Callable[[Engine], None],
    arm: str,
    lag: int,
    jobs: list[Job],
) -> None:
    options: Any = {"arm": arm, "lag": lag, "prefix": True, "cost": uneven_cost}
    assert_exact(jobs, change, scale_s=0.015, **options)


def test_victims_do_not_wait_for_their_own_growth() -> None:
    """Who fits once victims are gone comes in at once, not when they have grown."""
    jobs = [
        Job(0, 19, 12, 2, 0, False),
        Job(1, 19, 25, 0, 1, False),
        Job(0, 3, 30, 2, 0, True),
        Job(0.25, 22, 33, 3, 1, True),
        Job(3.5, 11, 17, 0, 0, False),
        Job(0, 35, 4, 0, 0, True),
    ]
    assert_exact(jobs, step_by_step, arm="priority", lag=0, prefix=True, scale_s=1.0)


def test_a_victim_whose_last_token_is_under_way() -> None:
    """With lag 1 a request may leave before the step that gives its latest token has ended."""
    jobs = [
        Job(0, 1, 1, 0, 0, False),
        Job(0, 1, 1, 0, 0, False),
        Job(0, 16, 29, 0, 0, True),
        Job(0, 19, 30, 0, 0, True),
    ]
    assert_exact(jobs, step_by_step, arm="rotating", lag=1, prefix=False, scale_s=1.0)


def test_a_slice_that_starts_after_its_time_has_run_out() -> None:
    """With lag 1 a slice is planned a step ahead: the third request ages in the step before."""
    jobs = [
        Job(0.25, 10, 30, 2, 0, True),
        Job(1, 2, 33, 3, 1, False),
        Job(3.5, 28, 26, 1, 0, False),
    ]
    assert_exact(jobs, step_by_step, arm="rotating", lag=1, prefix=True, scale_s=1.0)


def test_workload_is_hard() -> None:
    """The comparisons mean something: slices are long and memory is short."""
    jobs = [Job(0.25 * (i % 3), 10 + i % 7, 30 + i % 5, i % 3, 0, False) for i in range(12)]
    run = play(jobs, None, arm="fcfs", lag=0, prefix=True, scale_s=1.0)
    assert run.record.table.preemptions.sum() > 3
    assert run.record.steps > 2 * run.record.plans
    assert evicted(run.events)[-1] > 10
    assert 0.1 < run.coverage.extrapolated_share < 0.9
    assert len(run.coverage.left_range) == len(FAKE.limits.entries)


@pytest.mark.parametrize(
    "arm", [arm for arm in ARMS if any(name in arm for name in ("tier", "tensorrt", "offload"))]
)
def test_host_tiers_are_busy(arm: str) -> None:
    """The comparisons mean something for cached blocks on the host, too."""
    jobs = [
        Job(7 * (i % 3 == 0), 20 + i % 9, 4 + i % 7, 1 + i % 3, 0, i % 2 > 0) for i in range(60)
    ]
    run = play(jobs, None, arm=arm, lag=0, prefix=True, scale_s=1.0)
    kinds = Counter(event[1] for event in run.events)
    assert kinds["load"] > 2
    assert kinds["offload"] + kinds["backup"] > 10
    assert run.record.table.h2d_bytes.sum() > 0 < run.record.cache_d2h_bytes


def test_copies_that_a_step_waits_for_are_not_booked() -> None:
    jobs = [Job(0.25 * (i % 3), 10 + i % 7, 30 + i % 5, i % 3, 0, False) for i in range(12)]
    run = play(jobs, None, arm="fcfs-swap", lag=0, prefix=False, scale_s=1.0)
    assert run.record.table.h2d_bytes.sum() > 0
    seconds = [
        FAKE.host
        + FAKE.step_s([Chunk(n, c) for _, n, c in step.chunks], step.decodes, step.context_tokens)
        for step in replay(run.events, ()).steps
    ]
    assert close(run.coverage.total_s, sum(seconds))


def test_the_turn_passes_between_weights_inside_a_slice() -> None:
    """Two that wait, of different weights: whose slack over weight is less changes with time."""
    idle = Job(0, 1, 1, 0, 0, False)
    jobs = [
        *[idle] * 7,
        Job(30, 1, 1, 0, 0, False),
        Job(0, 8, 27, 2, 1, True),
        Job(0, 12, 15, 3, 0, True),
        Job(1, 31, 14, 2, 0, True),
        Job(3.5, 1, 18, 0, 0, True),
        idle,
        Job(0, 1, 17, 0, 0, True),
    ]
    cost = build_cost("llama-3.1-8b", "a100-80g", costs="roofline")
    options = {"arm": "rotating-plain", "lag": 0, "prefix": True, "cost": cost}
    assert_exact(jobs, step_by_step, scale_s=0.015, **options)
