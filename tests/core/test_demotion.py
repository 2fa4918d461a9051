"""Blocks that lose bits when memory is short: which, when, what it saves and what it costs."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from harness import BLOCK, FakeCost, make_engine, request
from hypothesis import given
from hypothesis import strategies as st
from property.invariants import ImpatientDriver
from records import Job, build
from tiered import ShrinkingLru

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.costs import build_cost
from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.memory.blocks.slabs import Slabs, block_bytes, slabs_of
from superinfer.memory.lru import LruMemory
from superinfer.metrics import summarise
from superinfer.plan import Plan, Transfer
from superinfer.request import SLOClass
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence

MIB = 2**20
LOOSE = SLOClass("loose", min_kv_bits=4)
EIGHT = SLOClass("eight", min_kv_bits=8)
STRICT = SLOClass("strict")
SIZES: dict[str, Any] = {"block_bytes": 8, "small_block_bytes": (4, 2), "slabs": Slabs(1, 2, 4)}


class Bench:
    """An engine whose demotions and plans are written down."""

    def __init__(
        self, blocks: int, memory: Any = None, scheduler: Any = None, **engine: Any
    ) -> None:
        self.events: list[Any] = []
        self.plans: list[Plan] = []
        self.reads: dict[str, Counter[str]] = {}
        """Of each request: tokens that its decode steps read, all and those of few bits."""
        scheduler = scheduler or FcfsScheduler(watermark=0.0)
        memory = memory or ShrinkingLru(shrink_8_at=0.5, shrink_4_at=0.8, tail_tokens=BLOCK)
        engine = SIZES | {"cost": FakeCost(step=1.0), "host_blocks": 64} | engine
        self.engine = make_engine(
            scheduler, blocks, memory=memory, sink=self.events.append, **engine
        )

    def run(
        self,
        *jobs: tuple[int, int, SLOClass],
        ids: tuple[int, ...] = (),
        gap: float = 0.0,
        cancels: tuple[tuple[float, int], ...] = (),
    ) -> Bench:
        """Prompt and answer tokens and class of each; all prompts begin with `ids`. Some are given
        up at a time.
        """
        own = [(*ids, *range(100 * index, 100 * index + 50)) for index in range(len(jobs))]
        made = [
            request(
                index,
                prompt,
                0,
                index * gap,
                slo_class=slo_class,
                hash_ids=own[index][: prompt // BLOCK + 1],
                hash_block_tokens=BLOCK,
            )
            for index, (prompt, _, slo_class) in enumerate(jobs)
        ]
        outputs = [output for _, output, _ in jobs]
        ImpatientDriver(
            self.engine, made, outputs, self._planned, single_steps=True, cancels=list(cancels)
        ).run()
        return self

    def _planned(self, engine: Engine, plan: Plan) -> None:
        self.plans.append(plan)
        for seq in engine.batch.members if plan.decodes else ():
            eight, four = engine.holdings.small_blocks(seq) if engine.demotion else (0, 0)
            read = {"all": engine.batch.length(seq), "8": BLOCK * eight, "4": BLOCK * four}
            self.reads.setdefault(seq.request.request_id, Counter()).update(read)

    @property
    def demotions(self) -> list[tuple[Any, ...]]:
        """Time, request, blocks, and bits before and after."""
        return [(t, *rest) for t, kind, *rest in self.events if kind == "requantise"]


# -- sizes ----------------------------------------------------------------------------------------


def test_block_sizes_of_llama_3_1_8b() -> None:
    """8 KV heads of 128 values, 32 layers, 32 tokens: 4 MiB, and scales beside the values."""
    sizes = [block_bytes(8, 128, 32, 32, bits) for bits in (16, 8, 4)]
    values = 8 * 128 * 32 * 32  # of K, and of V
    assert sizes == [
        4 * MIB,
        2 * values + 2 * 2 * 8 * 32 * 32,
        values + 4 * 8 * 128 * 32 + 4 * 8 * 32 * 32,
    ]
    assert sizes[1] / sizes[0] == pytest.approx(0.508, abs=1e-3)
    assert sizes[2] / sizes[0] == pytest.approx(0.289, abs=1e-3)


def test_a_slab_holds_whole_blocks_of_one_precision() -> None:
    assert slabs_of(4 * MIB, 2 * MIB + 1, MIB + 1) == Slabs(16, 31, 63)
    assert slabs_of(80 * MIB, 40 * MIB, 23 * MIB) == Slabs(1, 2, 3)


def test_few_small_blocks_keep_their_room_until_a_slab_pays() -> None:
    slabs = Slabs(blocks_16=4, blocks_8=8, blocks_4=14)
    saved = [slabs.saved(n, 0) for n in range(10)]
    #        they lie in room of 16 bits; then a slab; it is full; another two in room of 16 bits
    assert saved == [0, 0, 0, 0, 0, 1, 2, 3, 4, 4]
    assert slabs.saved(8, 15) == 4 + 10


@given(
    slabs=st.builds(Slabs, st.just(5), st.integers(5, 10), st.integers(10, 20)),
    eight=st.integers(0, 60),
    four=st.integers(0, 60),
)
def test_another_small_block_never_takes_room_from_others(
    slabs: Slabs, eight: int, four: int
) -> None:
    saved = slabs.saved(eight, four)
    assert 0 <= saved <= slabs.saved(eight + 1, four) <= saved + 1
    assert saved <= slabs.saved(eight, four + 1) <= saved + 1


@given(
    slabs=st.builds(Slabs, st.just(5), st.integers(5, 10), st.integers(10, 20)),
    eight=st.integers(0, 60),
    four=st.integers(0, 60),
    moved=st.integers(0, 60),
)
def test_blocks_that_go_from_8_to_4_bits_never_take_more_room(
    slabs: Slabs, eight: int, four: int, moved: int
) -> None:
    """Too few for a slab of their own, they stay in the room of 8 bits."""
    assert slabs.saved(eight + moved, four) <= slabs.saved(eight, four + moved)


# -- who loses bits -------------------------------------------------------------------------------


def test_full_blocks_but_the_first_and_the_latest_lose_bits_by_pressure() -> None:
    """12 blocks; 16 prompt tokens take 4, and the answer grows by a block in four steps.

    At the decision with 6 blocks taken (half of 12), 21 to 24 tokens are computed, so 5 blocks are
    full: without the first and the latest, 3 go to 8 bits. They take 2 blocks' room: 5 are taken.
    """
    found = Bench(12).run((16, 30, LOOSE)).demotions
    first = found[0]
    assert first[1:] == ("r0", 3, 16, 8)
    assert {row[3:] for row in found} == {(16, 8)}  # 10 of 12 blocks are never taken


def test_more_pressure_takes_four_bits() -> None:
    memory = ShrinkingLru(shrink_8_at=0.3, shrink_4_at=0.5, tail_tokens=BLOCK)
    found = Bench(12, memory).run((16, 40, LOOSE)).demotions
    assert [row[2:] for row in found if row[3] == 8]  # blocks of 8 bits went on to 4
    assert {row[3:] for row in found} == {(16, 8), (8, 4), (16, 4)}


def test_a_precision_whose_blocks_are_no_smaller_is_left_out() -> None:
    """With blocks of one token, as SGLang's, the scales of the channels make 4 bits larger than
    16.
    """
    sixteen, eight, four = (block_bytes(8, 128, 32, 1, bits) for bits in (16, 8, 4))
    assert eight < sixteen < four
    sizes: dict[str, Any] = {
        "block_bytes": sixteen,
        "small_block_bytes": (eight, four),
        "slabs": slabs_of(sixteen, eight, four, sixteen),
    }
    found = Bench(12, **sizes).run((16, 30, LOOSE), (16, 30, LOOSE)).demotions
    assert found and {event[-1] for event in found} == {8}


@pytest.mark.parametrize(("slo_class", "bits"), [(STRICT, set()), (EIGHT, {8}), (LOOSE, {4})])
def test_a_class_gets_the_bits_that_it_demands(slo_class: SLOClass, bits: set[int]) -> None:
    memory = ShrinkingLru(shrink_8_at=0.2, shrink_4_at=0.3, tail_tokens=BLOCK)
    found = Bench(16, memory).run((16, 40, slo_class)).demotions
    assert {row[4] for row in found} == bits
    assert all(row[2] > 0 for row in found)  # nothing is converted that is not there


def test_the_cheapest_class_loses_bits_first() -> None:
    cheap = SLOClass("cheap", weight=0.5, min_kv_bits=4)
    memory = ShrinkingLru(shrink_8_at=0.5, shrink_4_at=1.1, tail_tokens=BLOCK)
    found = Bench(40, memory).run((40, 20, LOOSE), (40, 20, cheap)).demotions
    assert found[0][1] == "r1"


def test_it_looks_again_when_two_percent_more_of_the_pool_are_taken() -> None:
    """Half of 200 blocks are taken by a request that gives none. Both grow by a block in four
    steps: from the second time on the other loses bits every eight steps, when four more are taken.
    """
    memory = ShrinkingLru(shrink_8_at=0.5, shrink_4_at=1.1, tail_tokens=BLOCK)
    found = Bench(200, memory).run((420, 60, STRICT), (40, 60, LOOSE)).demotions
    assert found[:2] == [(1.0, "r1", 8, 16, 8), (6.0, "r1", 1, 16, 8)]
    assert found[2:] == [(6.0 + 8 * place, "r1", 2, 16, 8) for place in range(1, 7)]


def test_who_joins_while_memory_is_short_loses_bits_at_once() -> None:
    """At 14 s more than half of the blocks are taken, and less than four more than when demotion
    looked last. Of the two full blocks of 9 tokens the first keeps its bits.
    """
    memory = ShrinkingLru(shrink_8_at=0.5, shrink_4_at=1.1, tail_tokens=0)
    found = Bench(200, memory).run((420, 60, STRICT), (9, 20, LOOSE), gap=14.0).demotions
    assert found[:2] == [(15.0, "r1", 1, 16, 8), (23.0, "r1", 2, 16, 8)]


def test_nothing_happens_without_pressure() -> None:
    bench = Bench(1000).run((16, 30, LOOSE), (16, 30, LOOSE))
    assert bench.demotions == []
    assert all(not plan.requantised for plan in bench.plans)


# -- shared blocks --------------------------------------------------------------------------------


def shared(*classes: SLOClass) -> tuple[Bench, list[int]]:
    """Requests with the same 8 blocks of prompt; returns the bits of its path at the end."""
    memory = ShrinkingLru(shrink_8_at=0.2, shrink_4_at=1.1, tail_tokens=BLOCK)
    bench = Bench(40, memory, prefix_caching=True)
    bench.run(*((33, 20, each) for each in classes), ids=tuple(range(8)))
    tree = bench.engine.tree
    assert tree is not None
    bits = [0] * 8
    for node in tree.nodes():
        if node.stop <= 8:
            bits[node.start : node.stop] = [node.bits] * node.blocks
    return bench, bits


def test_a_shared_block_needs_the_consent_of_all_who_hold_it() -> None:
    bench, bits = shared(LOOSE, LOOSE)
    assert bits == [16, 8, 8, 8, 8, 8, 8, 8]
    assert {row[3:] for row in bench.demotions} == {(16, 8)}  # and each of them once
    _, bits = shared(LOOSE, STRICT)
    assert bits == [16] * 8


def test_a_class_that_demands_more_bits_computes_again() -> None:
    """The first request leaves its prompt at 8 bits; the second may not use that."""
    memory = ShrinkingLru(shrink_8_at=0.2, shrink_4_at=1.1, tail_tokens=BLOCK)
    for slo_class, cached in ((EIGHT, 32), (STRICT, 4)):
        bench = Bench(40, memory, prefix_caching=True)
        bench.run((33, 20, LOOSE), (33, 2, slo_class), ids=tuple(range(8)), gap=100.0)
        second = bench.engine.recorder.sequences[1]
        assert second.cached_tokens == cached  # the first block keeps 16 bits
    tree = bench.engine.tree
    assert tree is not None
    assert {node.bits for node in tree.nodes() if node.stop <= 8} == {16}  # its own now


# -- what it saves and costs ----------------------------------------------------------------------


def test_smaller_blocks_make_room_that_is_used() -> None:
    """Two requests of ten blocks at the end, in 14: at 16 bits one has to go."""
    plain = Bench(14, LruMemory()).run((8, 32, LOOSE), (8, 32, LOOSE)).engine
    memory = ShrinkingLru(shrink_8_at=0.5, shrink_4_at=0.7, tail_tokens=BLOCK)
    small = Bench(14, memory).run((8, 32, LOOSE), (8, 32, LOOSE)).engine
    assert sum(seq.preemptions for seq in plain.recorder.sequences) > 0
    assert sum(seq.preemptions for seq in small.recorder.sequences) == 0
    assert small.pool.peak_referenced <= 14
    assert not small.pool.small  # all is given back


def test_the_step_waits_for_the_conversion_and_attention_reads_less() -> None:
    """A step costs its context; a block of four tokens saves half of them at 8 bits."""
    cost = FakeCost(step=0.0, per_context_token=1.0, per_byte=0.125)
    bench = Bench(12, cost=cost).run((16, 30, LOOSE))
    plan = next(plan for plan in bench.plans if plan.requantised)
    (job,) = plan.requantised
    assert (job.blocks, job.nbytes) == (3, 3 * (8 + 4))
    before = bench.plans[bench.plans.index(plan) - 1]
    assert plan.context_tokens == before.context_tokens + 1 - 3 * BLOCK // 2
    ends = bench.engine.batch.end_s
    step = plan.first_step
    assert ends[step] - ends[step - 1] == job.nbytes * 0.125 + plan.context_tokens


def test_a_rotation_moves_the_bytes_that_are_there() -> None:
    moved: list[Transfer] = []
    memory = ShrinkingLru("swap", shrink_8_at=0.3, shrink_4_at=1.1, tail_tokens=BLOCK)
    bench = Bench(13, memory).run((16, 30, LOOSE), (16, 30, LOOSE))
    for plan in bench.plans:
        moved += plan.before_step
    assert {each.direction for each in moved} == {"d2h", "h2d"}
    assert all(each.nbytes < each.blocks * 8 for each in moved)
    out, back = moved[:2]
    assert (out.nbytes, out.blocks) == (back.nbytes, back.blocks)


class Writing(FcfsScheduler):
    """Copies every full block to the host."""

    write_through = True

    def may_swap_out(self, seq: Sequence) -> bool:
        return True

    def plan(self, draft: Draft, now: float) -> None:
        super().plan(draft, now)
        if draft.batch.size:
            draft.write_through(100)


def test_write_through_moves_the_bytes_that_are_there() -> None:
    """The prompt's four blocks are copied, then each one that is full. When three go to 8 bits
    their copies are none any more, and they are copied again: 4 bytes each.
    """
    bench = Bench(12, scheduler=Writing(watermark=0.0)).run((16, 30, LOOSE))
    first = next(n for n, plan in enumerate(bench.plans) if plan.requantised)
    copies = [(copy.blocks, copy.nbytes) for plan in bench.plans for copy in plan.background]
    before = [(c.blocks, c.nbytes) for plan in bench.plans[:first] for c in plan.background]
    assert before == [(4, 32), (1, 8)]
    assert copies[2] == (3, 12)
    mirror = bench.engine.mirror
    assert mirror is not None
    assert mirror.written_bytes == sum(nbytes for _, nbytes in copies)
    assert (mirror.useful_bytes, mirror.wasted_bytes) == (0, mirror.written_bytes)
    assert bench.engine.host.nbytes == 0


def test_a_small_block_with_a_copy_is_not_copied_again() -> None:
    """Two requests take turns on the device. With write-through a rotation copies only what has no
    copy of its present bits: never more than without it, and less as a whole.
    """
    moved = []
    for scheduler in (FcfsScheduler(watermark=0.0), Writing(watermark=0.0)):
        memory = ShrinkingLru("swap", shrink_8_at=0.3, shrink_4_at=1.1, tail_tokens=BLOCK)
        bench = Bench(13, memory, scheduler).run((16, 30, LOOSE), (16, 30, LOOSE))
        out = [c for plan in bench.plans for c in plan.before_step if c.direction == "d2h"]
        moved.append([(copy.blocks, copy.nbytes) for copy in out])
    plain, written = moved
    assert len(plain) == len(written) > 0
    assert all(less[1] < more[1] for less, more in zip(written, plain, strict=True))
    assert any(blocks <= 2 for blocks, _ in written)  # the tail alone, though blocks are small


def test_attention_and_conversion_without_a_measurement() -> None:
    cost = build_cost("llama-3.1-8b", "a100-80g", costs="roofline")
    assert cost.attention_share(8, 0.5) == 0.75 and cost.attention_share(8, 0.9) == 1.0
    read_s = cost.requantise_s(int(cost.device.memory_bytes_per_s), 8)  # type: ignore[attr-defined]
    assert read_s == pytest.approx(1.0)


# -- quality --------------------------------------------------------------------------------------


def quality(**table: dict[str, float | None]) -> tuple[Any, Any]:
    jobs = [
        Job(0, 90, 10, 1, 2, kv_8_share=0.5, kv_4_share=0.25),
        Job(0, 90, 10, 1, 2, kv_8_share=0.0, kv_4_share=0.0),
    ]
    record = build(jobs, [])
    record.quality = {bits.removeprefix("b"): each for bits, each in table.items()}
    found = summarise(record)
    return found["kv_kl"], found["kv_perplexity_change"]


def test_quality_is_weighed_by_tokens_and_never_made_up() -> None:
    kl, perplexity = quality(b8={"kl": 0.01, "perplexity_change": None}, b4={"kl": 0.1})
    assert kl == pytest.approx(0.25 * 0.01 + 0.125 * 0.1)
    assert perplexity == "unmeasured"
    assert quality() == ("unmeasured", "unmeasured")


def test_sixteen_bits_cost_nothing() -> None:
    found = summarise(build([Job(0, 90, 10, 1, 2)], []))
    assert (found["kv_kl"], found["kv_perplexity_change"]) == (0.0, 0.0)


def assert_shares_are_those_of_reads(bench: Bench) -> None:
    table = bench.engine.recorder.build(bench.engine).table
    for row, asked in enumerate(table.requests):
        read = bench.reads[asked.request_id]
        eight, four = (read[bits] / read["all"] for bits in ("8", "4"))
        assert (table.kv_8_share[row], table.kv_4_share[row]) == pytest.approx((eight, four))
        assert table.kv_bits[row] == pytest.approx(16 - 8 * eight - 12 * four)
    assert sum(table.kv_8_share) > 0


def test_bits_are_those_that_decodes_have_read() -> None:
    assert_shares_are_those_of_reads(Bench(12).run((16, 30, LOOSE)))
    memory = ShrinkingLru(shrink_8_at=0.3, shrink_4_at=0.5, tail_tokens=BLOCK)
    bench = Bench(20, memory, prefix_caching=True)
    bench.run((17, 40, LOOSE), (17, 30, EIGHT), (17, 4, STRICT), ids=(0, 1, 2, 3))
    assert_shares_are_those_of_reads(bench)


SWAPPING: dict[str, Any] = {"shrink_8_at": 0.3, "shrink_4_at": 1.1, "tail_tokens": BLOCK}


def test_bits_of_a_request_that_ends_while_it_is_on_the_host() -> None:
    """What it read on the device counts, and so it does for one that comes back."""
    jobs = ((16, 30, LOOSE), (16, 30, LOOSE))
    bench = Bench(13, ShrinkingLru("swap", **SWAPPING)).run(*jobs)
    assert_shares_are_those_of_reads(bench)
    out = next(event for event in bench.events if event[1] == "rotate_out")
    cancels = ((out[0] + 0.5, int(out[2][1:])),)
    bench = Bench(13, ShrinkingLru("swap", **SWAPPING)).run(*jobs, cancels=cancels)
    (row,) = (int(event[2][1:]) for event in bench.events if event[1] == "cancel")
    assert [event[1] for event in bench.events if event[2] == out[2]][-2:] == [
        "rotate_out",
        "cancel",
    ]
    assert bench.engine.recorder.sequences[row].kv_shares[0] > 0
    assert_shares_are_those_of_reads(bench)


def test_bits_of_a_run_that_is_cut_off() -> None:
    jobs = [request(i, 16, 0, slo_class=LOOSE) for i in range(2)]
    memory = ShrinkingLru("swap", **SWAPPING)
    scheduler = FcfsScheduler(watermark=0.0)
    engine = make_engine(scheduler, 13, memory=memory, host_blocks=64, **SIZES)
    simulate(engine, jobs, Oracle([30, 30]), stop_s=20.5)
    table = engine.recorder.build(engine).table
    assert table.state == ["unfinished"] * 2
    assert max(table.kv_8_share) > 0 and max(table.kv_bits) <= 16


def test_a_request_without_a_cache_has_no_bits() -> None:
    engine = make_engine(FcfsScheduler(), 4, memory=ShrinkingLru(), **SIZES)
    simulate(engine, [request(0, 100, 0), request(1, 4, 0)], Oracle([1, 1]))
    rejected, held = engine.recorder.build(engine).table.kv_bits
    assert math.isnan(rejected) and held == 16


def test_no_sizes_no_ladder() -> None:
    engine: Engine = make_engine(FcfsScheduler(), 12, memory=ShrinkingLru())
    assert engine.demotion is None
