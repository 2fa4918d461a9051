"""Every request ends, also where the rules of a system would let it wait or start over for ever."""

from __future__ import annotations

from typing import Any

from harness import BlockingDriver, make_engine, request
from property.exact_runs import SMALL_BLOCKS
from property.workloads import LOOSE
from tiered import ShrinkingLru

from superinfer.engine import Engine
from superinfer.memory.lru import LruMemory
from superinfer.plan import Plan
from superinfer.request import SLO
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.priority import PriorityScheduler
from superinfer.schedulers.vllm import VllmScheduler

Job = tuple[float, int, int]
"""Arrival, prompt tokens, output tokens."""


def endings(
    scheduler: Any, jobs: list[Job], blocks: int, **engine: Any
) -> tuple[Engine, list[Any]]:
    """Run the jobs to their end; how each one ended, as (outcome, rule)."""
    core = make_engine(scheduler, blocks, **engine)
    requests = [
        request(index, prompt, 0, arrival_s) for index, (arrival_s, prompt, _) in enumerate(jobs)
    ]
    BlockingDriver(core, requests, [output for *_, output in jobs]).run()
    return core, [(seq.outcome, seq.end_reason) for seq in core.recorder.sequences]


def vllm(**settings: Any) -> VllmScheduler:
    return VllmScheduler(watermark=0.0, max_num_seqs=4, **settings)


def test_a_failure_does_not_leave_the_next_request_asleep() -> None:
    """A outgrows the memory alone and fails; B, waiting behind it, starts in the same moment."""
    core, ended = endings(
        vllm(chunked=False, preemption="swap"), [(0, 8, 9), (0.5, 8, 1)], 3, host_blocks=0
    )
    assert ended == [("failed", "host_memory_full"), ("finished", None)]
    first, second = core.recorder.sequences
    assert first.finish_s is not None and second.first_scheduled_s == first.finish_s


def test_a_prompt_of_chunks_that_takes_every_block_fails() -> None:
    """Its second chunk needs a spare block: the real engine would start over for ever."""
    _, ended = endings(vllm(chunked=True, max_num_batched_tokens=8), [(0, 16, 1)], 4)
    assert ended == [("failed", "prefill_fills_memory")]


def test_the_same_where_cached_blocks_have_shrunk() -> None:
    """The room that they save is lent to the cache, no use to a prompt that begins with them."""
    core = make_engine(
        vllm(chunked=True, max_num_batched_tokens=16),
        8,
        memory=ShrinkingLru(shrink_8_at=0.2, shrink_4_at=0.3),
        prefix_caching=True,
        **SMALL_BLOCKS,
    )
    jobs = [
        request(index, prompt, 0, slo_class=LOOSE, hash_ids=(1, 2, 3), hash_block_tokens=12)
        for index, prompt in enumerate((12, 32))
    ]
    BlockingDriver(core, jobs, [12, 1], assert_few_preemptions).run()
    assert core.pool.total > core.pool.size
    assert [seq.end_reason for seq in core.recorder.sequences] == [None, "prefill_fills_memory"]


def assert_few_preemptions(core: Engine, plan: Plan) -> None:
    """Fail rather than start over for ever."""
    assert all(seq.preemptions < 10 for seq in core.live)


def test_a_swapped_prefill_longer_than_the_budget_is_rejected() -> None:
    """v0.6.0 swaps prefills in whole; the rest of this one never fits the budget."""
    jobs = [(0.0, 4, 12), (0.0, 33, 1)]
    scheduler = vllm(chunked=True, max_num_batched_tokens=16, preemption="swap")
    _, ended = endings(scheduler, jobs, 11, host_blocks=64)
    assert ended == [("finished", None), ("rejected", "swap_in_never_fits")]


def test_a_swapped_request_that_fills_the_memory_comes_back() -> None:
    """Alone on the device it needs no spare block."""
    memory = LruMemory(preemption="swap")
    scheduler = FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=4, watermark=0.0)
    _, ended = endings(scheduler, [(0, 8, 9), (0, 4, 9)], 4, memory=memory, host_blocks=64)
    assert ended == [("finished", None), ("finished", None)]


def test_a_victim_that_returns_in_the_same_plan_gets_one_chunk() -> None:
    """The third class takes the second's place, and both want the same step."""
    slos = [SLO(), SLO(ttft_s=8.0), SLO(ttft_s=1.0)]
    for blocks in range(6, 12):
        core = make_engine(
            PriorityScheduler(max_num_batched_tokens=8, max_num_seqs=8, watermark=0.0), blocks
        )
        requests = [
            request(index, 11 + 3 * (index % 4), 0, index // 2, slo=slos[index % 3])
            for index in range(12)
        ]
        BlockingDriver(core, requests, [3] * 12).run()
        assert all(seq.outcome == "finished" for seq in core.recorder.sequences)


def test_lag_lets_a_last_token_count() -> None:
    """The plan made ahead finds no host room for A, whose last token is on the device."""
    scheduler = vllm(chunked=False, preemption="swap", max_num_batched_tokens=16)
    _, ended = endings(scheduler, [(0, 8, 1)], 2, host_blocks=0, lag=1)
    assert ended == [("finished", None)]


def test_lag_does_not_bring_back_who_has_just_finished() -> None:
    """B's prefill, planned while A's last step runs, is not delayed by a dead prefill of A."""
    scheduler = vllm(chunked=False, max_num_batched_tokens=16)
    core, ended = endings(scheduler, [(0, 4, 2), (0, 8, 1)], 2, lag=1)
    assert ended == [("finished", None), ("finished", None)]
    assert core.recorder.sequences[1].first_token_s == 3.0


def test_reuse_counts_only_what_others_left() -> None:
    """C is preempted and finds its own prompt again: no prefix hit."""
    core = make_engine(vllm(chunked=False, max_num_batched_tokens=16), 8, prefix_caching=True)
    prompts = {0: 8, 1: 7, 2: 4}
    requests = [
        request(i, tokens, 0, hash_ids=(10 * i, 10 * i + 1)[: -(-tokens // 4)], hash_block_tokens=4)
        for i, tokens in prompts.items()
    ]
    BlockingDriver(core, requests, [6, 6, 3]).run()
    assert core.recorder.sequences[2].preemptions == 1
    assert core.recorder.prefix_hit_tokens == 0
