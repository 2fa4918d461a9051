"""Schedulers with memory policies by name, as tests that hold for all of them go through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from tiered import CachedShrinkingLru, ShrinkingLru, TieredLru

from superinfer.engine import EngineConfig
from superinfer.memory.hicache import HiCacheMemory
from superinfer.memory.lru import LruMemory
from superinfer.memory.ordered import (
    CategoryMemory,
    GdsfMemory,
    LfuMemory,
    OrderedMemory,
    S3FifoMemory,
)
from superinfer.memory.radix import RadixMemory
from superinfer.memory.retention import RetentionMemory
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.memory.vllm_v1.policy import VllmV1Memory
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


def ordered(
    make: Callable[[], tuple[Any, Any]], memory: Callable[[], OrderedMemory]
) -> Callable[[], tuple[Any, Any]]:
    """The scheduler of another arm with an order of the cache study."""
    return lambda: (make()[0], memory())


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
    "fcfs-gdsf": ordered(fcfs(), partial(GdsfMemory, "swap")),
    "vllm-lfu": ordered(vllm(False, "recompute"), LfuMemory),
    "chunked-category": ordered(vllm(True, "recompute"), CategoryMemory),
    "rotating-s3fifo": ordered(rotating(), S3FifoMemory),
    "edf": edf,
    "vtc": vtc(),
    "vtc-optimistic": vtc("swap", "background", reserve_declared=False),
    "qoserve": qoserve(),
    "qoserve-swap": qoserve("swap", "background"),
    "fastserve": fastserve(),
    "fastserve-memory": fastserve(max_num_seqs=8, swap_timing="before_step"),
    "fastserve-one": fastserve(max_num_seqs=1, swap_timing="before_step"),
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
ALL_ARMS = pytest.mark.parametrize("arm", ARMS)
BOTH_LAGS = pytest.mark.parametrize("lag", [0, 1])
BOTH_CACHES = pytest.mark.parametrize("prefix", [False, True], ids=["plain", "prefix"])
