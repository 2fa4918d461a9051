"""Samples over time: rotations and bytes of copies add up to what the requests count."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from harness import BlockingDriver, make_engine, request

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.errors import SuperInferError
from superinfer.memory.blocks.slabs import Slabs
from superinfer.memory.lru import LruMemory
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.metrics import summarise
from superinfer.records.recorder import MAX_SAMPLES, Recorder
from superinfer.records.run import RunRecord
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.vllm import VllmScheduler

MOVED = ("rotations", "h2d_bytes", "d2h_bytes")


class Wavering(FcfsScheduler):
    """Swaps out whoever decodes and takes it back, before it decides as its parent does."""

    __slots__ = ()

    def plan(self, draft: Draft, now: float) -> None:
        mark = draft.mark()
        for seq in list(draft.batch.members):
            draft.swap_out(seq, "before_step")
        draft.rollback(mark)
        FcfsScheduler.plan(self, draft, now)


def swapping(requests: int = 12, **config: Any) -> RunRecord:
    """A run in which memory is short and the answers long."""
    scheduler = VllmScheduler(max_num_seqs=8, max_num_batched_tokens=64, preemption="swap")
    config = {"block_bytes": 7, "host_blocks": 1000, **config}
    engine = make_engine(scheduler, 20, **config)
    jobs = [request(i, 8, 0, arrival_s=float(i)) for i in range(requests)]
    BlockingDriver(engine, jobs, [20 + i for i in range(requests)]).run()
    return engine.recorder.build(engine)


@pytest.mark.parametrize("lag", [0, 1])
def test_the_last_sample_has_the_sums_of_all_requests(lag: int) -> None:
    record = swapping(lag=lag)
    for name in MOVED:
        column = getattr(record.timeline, name)
        assert column[-1] == getattr(record.table, name).sum() > 0
        assert column[0] == 0
        assert np.all(np.diff(column) >= 0)
    last_step_s = record.tokens.decode_end_s[-1]  # with lag 1 an empty one may follow the end
    assert record.timeline.t_s[-1] == max(record.table.finish_s.max(), last_step_s)
    assert np.all(np.diff(record.timeline.t_s) > 0)


@pytest.mark.parametrize(("memory", "slab_blocks"), [(SloAwareMemory(), 4), (LruMemory(), 1)])
def test_only_blocks_that_may_lose_bits_lie_in_slabs(memory: Any, slab_blocks: int) -> None:
    sizes = {"block_bytes": 8, "small_block_bytes": (4, 2), "slabs": Slabs(4, 8, 16)}
    engine = make_engine(VllmScheduler(), 20, memory=memory, **sizes)
    BlockingDriver(engine, [request(0, 6, 0, arrival_s=0.0)], [3]).run()
    record = engine.recorder.build(engine)
    assert (record.peak_used_blocks, record.slab_blocks) == (2, slab_blocks)
    whole = {4: 4 * 8, 1: 2 * 8}[slab_blocks]
    assert summarise(record)["peak_slab_bytes"] == whole


def test_bytes_are_those_of_the_blocks() -> None:
    timeline = swapping().timeline
    assert np.all(timeline.h2d_bytes % 7 == 0)
    moved_out = np.diff(timeline.d2h_bytes) > 0
    assert np.array_equal(moved_out, np.diff(timeline.rotations) > 0)


@pytest.mark.interpreted
def test_thinned_samples_keep_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = swapping()
    monkeypatch.setattr("superinfer.records.recorder.MAX_SAMPLES", 16)
    thin = swapping()
    assert len(thin.timeline.t_s) <= 16 < len(whole.timeline.t_s) < MAX_SAMPLES
    for name in MOVED:
        kept = np.searchsorted(whole.timeline.t_s, thin.timeline.t_s)
        assert np.array_equal(getattr(thin.timeline, name), getattr(whole.timeline, name)[kept])
        assert getattr(thin.timeline, name)[-1] == getattr(whole.timeline, name)[-1]


def test_what_a_prompt_finds_counts_when_it_first_comes_in() -> None:
    """Of three prompts of 12 tokens the second finds the first two blocks of the first. The third
    has to go when the others grow: that it asks for its own prompt again does not count.
    """
    ids = ((1, 2, 3), (1, 2, 4), (5, 6, 7))
    jobs = [
        request(i, 12, 0, float(i > 0), hash_ids=keys, hash_block_tokens=4)
        for i, keys in enumerate(ids)
    ]
    engine = make_engine(FcfsScheduler(watermark=0.0), 10, prefix_caching=True)
    BlockingDriver(engine, jobs, [12, 12, 12]).run()
    record = engine.recorder.build(engine)
    assert record.table.preemptions.sum() > 0
    assert (record.prefix_query_tokens, record.prefix_hit_tokens) == (36, 8)


def test_copies_that_are_taken_back_do_not_count() -> None:
    engine = make_engine(Wavering(), 100, host_blocks=100)
    BlockingDriver(engine, [request(i, 8, 0) for i in range(3)], [5, 6, 7]).run()
    timeline = engine.recorder.build(engine).timeline
    assert [int(getattr(timeline, name)[-1]) for name in MOVED] == [0, 0, 0]


def test_a_run_without_samples_has_none() -> None:
    engine: Engine = make_engine(FcfsScheduler(), 10)
    timeline = Recorder().build(engine).timeline
    assert all(len(getattr(timeline, name)) == 0 for name in ("t_s", *MOVED))


class Counting(FcfsScheduler):
    """Counts in numbers of every kind."""

    counters: ClassVar = {"whole": 44.0, "of_numpy": np.int64(3), "share": np.float32(0.5)}


def test_whole_counters_are_integers() -> None:
    """In JSON they look alike in both forms of the core, whoever added them up."""
    engine = make_engine(Counting(), 20)
    BlockingDriver(engine, [request(0, 8, 0)], [3]).run()
    found = engine.recorder.build(engine).extra
    assert found == {"whole": 44, "of_numpy": 3, "share": 0.5}
    assert [type(count) for count in found.values()] == [int, int, float]


def test_building_twice_gives_the_same() -> None:
    engine = make_engine(FcfsScheduler(), 100)
    BlockingDriver(engine, [request(0, 8, 0)], [5]).run()
    first, second = (engine.recorder.build(engine).timeline for _ in range(2))
    assert first.t_s.tolist() == second.t_s.tolist()


def test_a_record_of_a_part_is_refused() -> None:
    """Before that it is there, and it stays what it was."""
    engine = make_engine(FcfsScheduler(), 100)
    BlockingDriver(engine, [request(i, 8, 0) for i in range(3)], [5, 6, 7]).run()
    waits = engine.submit(request(3, 8, 0), 20.0)
    record = engine.recorder.build(engine)
    engine.forget()
    assert engine.recorder.sequences == [waits]
    assert record.table.output_tokens.tolist() == [5, 6, 7, 0]
    assert len(record.tokens.decode_end_s) == 6 == record.steps - 1
    with pytest.raises(SuperInferError, match="never been told to forget"):
        engine.recorder.build(engine)


def test_no_samples_are_taken_for_a_record_that_never_comes() -> None:
    engine = make_engine(FcfsScheduler(), 100)
    engine.forget()
    BlockingDriver(engine, [request(i, 8, 0) for i in range(3)], [5, 6, 7]).run()
    assert engine.recorder._samples == []
