"""Parity: the same core under SimPy and under a plain blocking loop gives the same events."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine, request
from tiered import TieredLru

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.costs.learned import LearnedCost
from superinfer.memory.hicache import HiCacheMemory
from superinfer.memory.lru import LruMemory
from superinfer.memory.radix import RadixMemory
from superinfer.memory.retention import RetentionMemory
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.request import SLO, SLOClass
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


def workload(seed: int, count: int = 40) -> tuple[list[Any], list[int]]:
    rng = random.Random(seed)
    now, requests = 0.0, []
    for index in range(count):
        now += rng.choice([0, 0.25, 1, 3.5])
        prompt = rng.randint(1, 40)
        slo = SLO(ttft_s=rng.choice([None, 4.0, 16.0]), tpot_s=rng.choice([None, 2.0]))
        slo_class = rng.choice(CLASSES)
        ids = (
            tuple(range(-(-prompt // 8)))
            if rng.random() < 0.7
            else tuple(range(index * 100, index * 100 + -(-prompt // 8)))
        )
        requests.append(
            request(
                index,
                prompt,
                0,
                now,
                slo=slo,
                slo_class=slo_class,
                tenant=f"t{index % 3}",
                priority=rng.randint(0, 1),
                hash_ids=ids,
                hash_block_tokens=8,
                max_tokens=32,
            )
        )
    return requests, [rng.randint(1, 30) for _ in range(count)]


COST = FakeCost(
    step=1.0, per_chunk_token=2**-6, per_context_token=2**-8, host=0.25, copy=0.5, per_byte=2**-4
)

CLASSES = (
    SLOClass("strict"),
    SLOClass("paced", delivery="paced", weight=2.0),
    SLOClass("stall", max_stall_s=8.0),
)

ARMS = {
    "vllm": lambda: (
        VllmScheduler(chunked=False, max_num_batched_tokens=64, max_num_seqs=8),
        LruMemory(),
    ),
    "vllm-swap": lambda: (
        VllmScheduler(chunked=False, max_num_batched_tokens=64, max_num_seqs=8, preemption="swap"),
        LruMemory(),
    ),
    "vllm-chunked": lambda: (
        VllmScheduler(chunked=True, max_num_batched_tokens=16, max_num_seqs=8),
        LruMemory(),
    ),
    "vllm-v1": lambda: (
        VllmV1Scheduler(max_num_batched_tokens=16, max_num_seqs=8),
        VllmV1Memory(),
    ),
    "vllm-v1-priority": lambda: (
        VllmV1Scheduler(max_num_batched_tokens=16, max_num_seqs=8, policy="priority"),
        VllmV1Memory(),
    ),
    "vllm-v1-offload": lambda: (
        VllmV1Scheduler(max_num_batched_tokens=16, max_num_seqs=8),
        VllmV1Memory(offload=True, offload_prompt_only=False),
    ),
    "fcfs": lambda: (FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8), LruMemory()),
    "fcfs-background": lambda: (
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        LruMemory("swap", "background"),
    ),
    "priority": lambda: (
        PriorityScheduler(max_num_batched_tokens=64, max_num_seqs=8),
        LruMemory("cheaper"),
    ),
    **{
        f"tensorrt-{arm}": lambda settings=settings: (
            TensorRtLlmScheduler(max_num_tokens=40, max_batch_size=8, **settings),
            RetentionMemory({"strict": 80, "stall": 10}, host_cache_gib=20 / 2**30),
        )
        for arm, settings in {
            "no-evict": {},
            "max": {"capacity_policy": "max_utilization"},
            "static": {"capacity_policy": "static_batch"},
            "no-evict-equal": {"context_chunking": "equal_progress"},
            "max-chunked": {
                "capacity_policy": "max_utilization",
                "context_chunking": "first_come_first_served",
            },
        }.items()
    },
    "sglang": lambda: (
        SglangScheduler(
            chunked_prefill_tokens=16, max_num_seqs=8, clip_new_tokens=8, retract_decode_steps=2
        ),
        RadixMemory(),
    ),
    "sglang-mixed": lambda: (
        SglangScheduler(
            policy="lpm",
            mixed_chunk=True,
            chunked_prefill_tokens=16,
            max_num_seqs=8,
            clip_new_tokens=8,
            retract_decode_steps=2,
        ),
        RadixMemory(),
    ),
    "sglang-hicache": lambda: (
        SglangScheduler(
            policy="lpm", chunked_prefill_tokens=16, clip_new_tokens=8, retract_decode_steps=2
        ),
        HiCacheMemory(),
    ),
    "sglang-0.3.2": lambda: (
        SglangScheduler("0.3.2", clip_new_tokens=8, retract_decode_steps=2),
        RadixMemory(),
    ),
    "fcfs-tier": lambda: (
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        TieredLru(exclusive=True),
    ),
    "fcfs-tier-background": lambda: (
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        TieredLru(write_through_hits=2, load_timing="background"),
    ),
    "rotating-slo-aware": lambda: (
        RotatingScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        SloAwareMemory(host_ratio=0.5),
    ),
    "edf": lambda: (EdfScheduler(max_num_batched_tokens=16, max_num_seqs=8), LruMemory("swap")),
    "vtc": lambda: (VtcScheduler(max_num_batched_tokens=16, max_num_seqs=8), LruMemory()),
    "vtc-optimistic": lambda: (
        VtcScheduler(max_num_batched_tokens=16, max_num_seqs=8, reserve_declared=False),
        LruMemory("swap", "background"),
    ),
    "qoserve": lambda: (QoServeScheduler(max_num_seqs=8), LruMemory()),
    "fastserve": lambda: (
        FastServeScheduler(max_num_batched_tokens=16, max_num_seqs=4, base_quantum_ms=2000.0),
        LruMemory(),
    ),
    "andes": lambda: (
        AndesScheduler(max_num_batched_tokens=64, max_num_seqs=8, pressure=0.5),
        LruMemory(),
    ),
    **{
        f"rotasched-{arm}": lambda settings=settings: (
            RotaScheduler(max_num_batched_tokens=16, max_num_seqs=8, **settings),
            LruMemory(),
        )
        for arm, settings in {
            "repo": {"budget_blocks": 12},
            "vlt": {"variant": "lvf_vlt", "budget_blocks": 12},
            "forced": {"budget_blocks": 0, "eager": False, "full_duplex": False},
        }.items()
    },
    "flexgen": lambda: (FlexGenScheduler(gpu_batch_size=1, num_gpu_batches=2), LruMemory()),
    "flexgen-one": lambda: (FlexGenScheduler(gpu_batch_size=1, early_stop=True), LruMemory()),
    "rotating": lambda: (
        RotatingScheduler(
            max_num_batched_tokens=16, max_num_seqs=8, max_wait_s=12.0, tile_tokens=0
        ),
        LruMemory(),
    ),
}


def half() -> LearnedCost:
    """Predicts steps of half the time, until it has learned better."""
    host, step = COST.host / 2, COST.step / 2
    return LearnedCost(replace(COST, step=step, host=host, per_chunk_token=2**-7))


def both(
    arm: str, lag: int, prefix: bool, seed: int, believed: Callable[[], Any] = lambda: None
) -> tuple[list[Any], list[Any]]:
    if "offload" in arm and (lag or not prefix):
        pytest.skip("offload needs lag 0 and a prefix cache")
    requests, output_tokens = workload(seed)
    logs: list[list[Any]] = []
    for driver in ("simpy", "blocking"):
        scheduler, memory = ARMS[arm]()
        events: list[Any] = []
        engine = make_engine(
            scheduler,
            24,
            memory=memory,
            cost=COST,
            sink=events.append,
            believed=believed(),
            host_blocks=200,
            lag=lag,
            prefix_caching=prefix,
            max_model_len=512,
        )
        if driver == "simpy":
            simulate(engine, requests, Oracle(output_tokens))
        else:
            BlockingDriver(engine, requests, output_tokens).run()
        logs.append(events)
    return logs[0], logs[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("arm", ARMS)
def test_same_events(arm: str, lag: int, prefix: bool, seed: int) -> None:
    simpy_events, blocking_events = both(arm, lag, prefix, seed)
    assert repr(simpy_events) == repr(blocking_events)
    assert sum(event[1] in ("finish", "reject", "fail") for event in simpy_events) == 40


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("arm", ARMS)
def test_same_events_where_step_times_are_learned(arm: str, lag: int, seed: int) -> None:
    simpy_events, blocking_events = both(arm, lag, True, seed, half)
    assert repr(simpy_events) == repr(blocking_events)


@pytest.mark.parametrize("lag", [0, 1])
def test_what_was_learned_decides(lag: int) -> None:
    learned, _ = both("rotating", lag, False, 0, half)
    nominal, _ = both("rotating", lag, False, 0, lambda: half().base)
    assert learned != nominal
