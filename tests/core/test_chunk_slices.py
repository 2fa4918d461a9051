"""Slices in which one prompt goes on chunk by chunk beside the decodes."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, make_engine, request

from superinfer.errors import PlanError
from superinfer.plan import Plan
from superinfer.schedulers.vllm import VllmScheduler
from superinfer.sequence import Sequence


def engine(**options: Any) -> Any:
    options.setdefault("blocks", 100)
    return make_engine(
        VllmScheduler(chunked=True, max_num_batched_tokens=8, max_num_seqs=8), **options
    )


def plans(jobs: list[Any], outputs: list[int], **options: Any) -> list[tuple[int, int, int]]:
    """Chunk tokens, decodes and steps of every plan."""
    seen: list[tuple[int, int, int]] = []

    def note(_: Any, plan: Plan) -> None:
        tokens = sum(chunk.tokens for chunk in plan.chunks)
        seen.append((tokens, plan.decodes, plan.steps))

    BlockingDriver(engine(**options), jobs, outputs, note).run()
    return seen


@pytest.mark.parametrize("lag", [0, 1])
def test_the_middle_of_a_long_prompt_is_one_plan(lag: int) -> None:
    # Admission, once at the front of the queue, and 29 more tokens: 3 whole chunks and 5.
    expected = [(8, 0, 1), (8, 0, 1), (8, 0, 3), (5, 0, 1)]
    assert plans([request(0, 45, 0)], [1], lag=lag)[:4] == expected


def test_a_finish_leaves_more_of_the_budget() -> None:
    jobs = [request(0, 4, 0), request(1, 60, 0)]
    # r1 gets 4 beside r0's prompt, 7 beside its decodes until it ends after two of 6 steps, then 8.
    expected = [(8, 0, 1), (7, 1, 1), (7, 1, 6), (8, 0, 4), (3, 0, 1)]
    assert plans(jobs, [4, 1]) == expected


def test_an_arrival_ends_the_slice() -> None:
    core = engine()
    BlockingDriver(core, [request(0, 80, 0), request(1, 4, 0, 3.5)], [1, 1]).run()
    assert core.recorder.plans == 6  # two single chunks, the slice, its rest, two last chunks
    assert core.recorder.build(core).steps == 11


def test_memory_ends_the_slice() -> None:
    jobs = [request(0, 4, 0), request(1, 70, 0)]
    # 21 blocks: 1 + 18 for the prompts. r0 has taken one of two at its token 5, so the slice of 8
    # steps is cut before it takes the other at its token 9.
    seen = plans(jobs, [30, 1], blocks=21)
    assert seen[2] == (7, 1, 3)


@pytest.mark.parametrize(
    ("tokens", "steps"), [(8, 5), (40, 2), (8, 100)], ids=["ends it", "too long", "far too long"]
)
def test_a_repeated_chunk_may_not_end_the_prompt(tokens: int, steps: int) -> None:
    class Greedy(VllmScheduler):
        def plan(self, draft: Any, now: float) -> None:
            seq: Sequence = self._mode.waiting[0]
            draft.try_admit(seq)
            draft.prefill(seq, tokens, steps=steps)

    core = make_engine(Greedy(chunked=True, max_num_batched_tokens=8, max_num_seqs=8), 100)
    core.submit(request(0, 40, 0), 0.0)
    with pytest.raises(PlanError, match="chunks of"):
        core.plan(0.0)
    assert core.pool.referenced == 0


def test_two_chunks_do_not_repeat() -> None:
    class Greedy(VllmScheduler):
        def plan(self, draft: Any, now: float) -> None:
            for seq in self._mode.waiting:
                draft.try_admit(seq)
            draft.prefill(self._mode.waiting[0], 8, steps=2)
            draft.prefill(self._mode.waiting[1], 8)

    core = make_engine(Greedy(chunked=True, max_num_batched_tokens=8, max_num_seqs=8), 100)
    for index in range(2):
        core.submit(request(index, 40, 0), 0.0)
    with pytest.raises(PlanError, match="one chunk at most"):
        core.plan(0.0)
