"""`rotating`: what crosses the link, and what had better not (blocks of four tokens of a byte each,
steps of one second).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from harness import FakeCost, make_engine
from property.invariants import ImpatientDriver
from rotating_runs import DearAgain, Run, arriving, promised, rotating, run, told
from tiered import ShrinkingLru

from superinfer.errors import ConfigError
from superinfer.memory.blocks.slabs import Slabs
from superinfer.metrics.summary import summarise
from superinfer.plan import Plan
from superinfer.request import SLOClass
from superinfer.schedulers.rotating.writing import WriteThrough

# -- write-through --------------------------------------------------------------------------------


SIZES: dict[str, Any] = {"block_bytes": 8, "small_block_bytes": (4, 2), "slabs": Slabs(1, 2, 4)}
"""Blocks of three precisions."""


def a_leaves_twice(**settings: Any) -> Run:
    """A's prompt fills 11 of 12 blocks, W finds no room, B is urgent from 2.5 s on. A block takes
    1/32 s to copy.
    """
    requests = [
        arriving(0, 0.0, 44, name="A"),
        arriving(1, 0.0, 8, name="W"),
        arriving(2, 2.5, 32, name="B", **promised(ttft_s=4.0)),
    ]
    scheduler = told(
        {"A": 40, "W": 2, "B": 2}, admission=False, max_num_batched_tokens=64, **settings
    )
    return run(scheduler, requests, [12, 2, 2], 12, cost=FakeCost(per_byte=2**-5))


def copies(played: Run) -> list[Any]:
    kinds = ("write_through", "rotate_out", "rotate_in", "transfer")
    return [event for event in played.events if event[1] in kinds]


def test_a_rotation_copies_what_has_no_copy_yet() -> None:
    """At 1 s A joins the batch and W waits: A's 11 blocks take 11/32 s, less than half of a step,
    and are written through by 1.34375 s. At 3 s A has 46 tokens in 12 blocks and leaves for B: only
    the last block is copied. B prefills in a step and has its second token at 5.03125 s. A comes
    back beside nothing in 12/32 s, the copies of its 11 full blocks stay, and at 7.40625 s, with 48
    tokens, it needs a 13th block that there is not: again one block is copied.
    """
    played = a_leaves_twice()
    assert copies(played) == [
        (1.0, "write_through", "", 11),
        (1.34375, "transfer", "", 11),
        (3.0, "rotate_out", "A", 1),
        (5.03125, "rotate_in", "A", 12),
        (5.40625, "transfer", "A", 12),
        (7.40625, "rotate_out", "A", 1),
    ]
    record = played.record
    assert record.table.d2h_bytes.tolist() == [2, 0, 0]
    assert record.table.h2d_bytes.tolist() == [12, 0, 0]
    written = (record.write_through_bytes, record.write_through_useful_bytes)
    assert written == (11, 11) and record.write_through_wasted_bytes == 0
    assert record.prefetch_useful_bytes == 12
    summary = summarise(record)
    assert (summary["d2h_bytes"], summary["write_through_useful_bytes"]) == (2 + 11, 11)


def test_without_it_a_rotation_copies_all() -> None:
    """B's first step waits 12/32 s instead of 1/32 s, and all that follows comes later."""
    played = a_leaves_twice(write_through=False)
    assert copies(played) == [
        (3.0, "rotate_out", "A", 12),
        (5.375, "rotate_in", "A", 12),
        (5.75, "transfer", "A", 12),
        (7.75, "rotate_out", "A", 12),
    ]
    assert played.record.table.d2h_bytes.tolist() == [24, 0, 0]
    assert played.record.write_through_bytes == 0


def written(blocks: int, stream: dict[str, Any], **more: Any) -> int:
    """Blocks written through while A decodes 40 tokens after a prompt of 44, and W waits or not."""
    requests = [arriving(0, 0.0, 44, name="A", **stream), arriving(1, 0.0, 8, name="W")]
    scheduler = told({"A": 40, "W": 2}, admission=False, max_num_batched_tokens=64, **more)
    played = run(scheduler, requests, [4, 2], blocks, cost=FakeCost(per_byte=2**-5))
    return played.record.write_through_bytes


def test_nothing_is_written_where_nobody_will_have_to_leave() -> None:
    """Not where both fit, nor without rotation, nor for a stream that may not pause for the 1.5 s
    in which 12 blocks change places at half of the link.
    """
    batch, stalls = {}, promised(ttft_s=9.0, tpot_s=0.25, max_stall_s=1.5)
    assert written(12, batch) == written(12, stalls) == 11
    assert written(13, batch) == 0
    assert written(12, batch, rotation=False) == written(12, batch, max_num_seqs=1) - 11 == 0
    assert written(12, promised(ttft_s=9.0, tpot_s=0.25, max_stall_s=1.4)) == 0


def test_one_write_takes_no_more_than_half_a_step() -> None:
    """Over a link that takes 1/8 s for a block, four blocks at a time, each in a step of its own:
    the rest follows when they have landed.
    """
    requests = [arriving(0, 0.0, 44, name="A"), arriving(1, 0.0, 8, name="W")]
    scheduler = told({"A": 40, "W": 2}, admission=False, max_num_batched_tokens=64)
    played = run(scheduler, requests, [5, 2], 12, cost=FakeCost(per_byte=2**-3))
    assert copies(played) == [
        (1.0, "write_through", "", 4),
        (1.5, "transfer", "", 4),
        (2.0, "write_through", "", 4),
        (2.5, "transfer", "", 4),
        (3.0, "write_through", "", 3),
        (3.375, "transfer", "", 3),
    ]
    assert played.record.write_through_wasted_bytes == 11


def test_streams_are_written_through_beside_a_long_prompt_too() -> None:
    """A decodes beside the 400 tokens of P, 15 in each step, of which most are one decision; 105 of
    108 blocks are taken, and W waits. A's full blocks are written before P has its token, at 28 s.
    """
    requests = [arriving(0, 0.0, 4), arriving(1, 1.0, 400), arriving(2, 2.0, 40)]
    scheduler = told({"r0": 80, "r1": 20, "r2": 1}, admission=False, aging=False)
    played = run(scheduler, requests, [60, 1, 1], 108, cost=FakeCost(per_byte=2**-5))
    assert played.record.plans < 15
    assert played.kinds("write_through") == [(17.0, "write_through", "", 5)]
    assert played.tokens(1) == [28.0]


def test_writes_stop_for_a_while_where_they_are_in_vain() -> None:
    """Batch requests of 11 blocks one after the other in 12 blocks: each ends where it began to
    run, so what is written for it is lost. After two of them these are more blocks than the
    device has, and nothing is written for 2,048 steps: 683 requests of three decode steps.
    """
    requests = [arriving(i, 0.0, 44, name=f"A{i}") for i in range(800)]
    lengths = {each.request_id: 20 for each in requests}
    scheduler = told(lengths, admission=False, max_num_batched_tokens=64)
    played = run(scheduler, requests, [4] * 800, 12, cost=FakeCost(per_byte=2**-5))
    ends = [event[0] for event in played.events if event[1] == "finish"]
    first, second, third, *_ = (e[0] for e in played.events if e[1] == "write_through")
    assert first < ends[0] < second < ends[10] and ends[682] < third < ends[710]
    assert played.record.write_through_useful_bytes == 0


@pytest.mark.interpreted
def test_a_slice_ends_where_a_write_may_be_due() -> None:
    """At the next sixteenth step, or when the ninety blocks that make memory nearly full are taken,
    but not while writes have stopped because they were in vain.
    """
    writes = WriteThrough(True, SimpleNamespace(step_s=1.0))  # type: ignore[arg-type]

    def steps(step: int, taken: int, begin_step: int = 0) -> int:
        """A block is taken every 4 steps."""
        writes._trial.begin_step = begin_step
        batch = SimpleNamespace(
            step=step, steps_within=lambda blocks, most: min(4 * blocks + 3, most)
        )
        draft: Any = SimpleNamespace(batch=batch, pool=SimpleNamespace(size=100, taken=taken))
        return writes.steps(draft, somebody_waits=True)

    assert [steps(step, 90) for step in (31, 32, 33)] == [1, 16, 15]
    assert [steps(33, taken) for taken in (89, 87, 86, 80)] == [15, 15, 16, 40]
    assert [steps(33, 90, begin_step) for begin_step in (48, 49)] == [15, 31]


@pytest.mark.interpreted
def test_a_write_waits_until_the_link_is_idle() -> None:
    """One is due at step 16 and begins at step 18, when the link is. What it leaves behind does not
    wait for step 32; before the first one there is nothing that was left.
    """
    writes = WriteThrough(True, SimpleNamespace(step_s=1.0))  # type: ignore[arg-type]
    asked: list[int] = []

    def writes_at(step: int, idle: bool, backlog: bool = False) -> bool:
        draft: Any = SimpleNamespace(
            batch=SimpleNamespace(step=step, size=1),
            pool=SimpleNamespace(size=100, taken=95),
            write_backlog=backlog,
            written_through=(0.0, 0.0),
            link_idle=lambda direction: idle,
            copy_s=lambda blocks, direction: 2**-8,
            write_through=lambda blocks: asked.append(step),
        )
        writes.decide(draft, somebody_waits=True)
        return step in asked

    assert not writes_at(15, idle=True, backlog=True)
    assert not writes_at(16, idle=False)
    assert not writes_at(17, idle=False)
    assert writes_at(18, idle=True)
    assert not writes_at(19, idle=True)
    assert writes_at(20, idle=True, backlog=True)


# -- both ways ------------------------------------------------------------------------------------


def test_a_copy_of_a_block_that_lost_bits_since_is_wasted() -> None:
    """A's blocks are written through at 1 s; when all memory is taken, nine go to 8 bits."""
    requests = [
        arriving(0, 0.0, 44, name="A", slo_class=SLOClass("loose", min_kv_bits=8)),
        arriving(1, 0.0, 8, name="W"),
        arriving(2, 2.5, 40, name="B", **promised(ttft_s=4.0)),
    ]
    memory = ShrinkingLru(shrink_8_at=1.0, shrink_4_at=1.1, tail_tokens=4)
    scheduler = told({"A": 40, "W": 2, "B": 2}, admission=False, max_num_batched_tokens=64)
    events: list[Any] = []
    cost, sink = FakeCost(per_byte=2**-8), events.append
    engine = make_engine(
        scheduler, 12, memory=memory, cost=cost, sink=sink, host_blocks=64, **SIZES
    )
    ImpatientDriver(engine, requests, [12, 2, 2]).run()
    kinds = ("write_through", "requantise", "rotate_out")
    assert [event[1:4] for event in events if event[1] in kinds] == [
        ("write_through", "", 11),
        ("requantise", "A", 9),
        ("rotate_out", "A", 10),  # those nine, and the twelfth
    ]
    record = engine.recorder.build(engine)
    written = (record.write_through_bytes, record.write_through_useful_bytes)
    assert written == (11 * 8, 2 * 8) and record.write_through_wasted_bytes == 9 * 8


@pytest.mark.parametrize(("full_duplex", "end_s"), [(True, 10.5), (False, 10.75)])
def test_both_ways_at_once(full_duplex: bool, end_s: float) -> None:
    """A copy takes 1/4 s. A leaves for B at 5 s and is urgent again at 9.25 s, when B has to leave:
    both copies are one wait of 1/4 s, or two.
    """
    requests = [
        arriving(0, 0.0, 20, name="A", **promised(ttft_s=0.5, tpot_s=4.0, max_stall_s=4.0)),
        arriving(1, 0.0, 4, name="Z", **promised(ttft_s=2.0)),
        arriving(2, 4.5, 32, name="B", **promised(ttft_s=4.0)),
    ]
    lengths = {"A": 24, "Z": 1, "B": 24}
    scheduler = told(lengths, full_duplex=full_duplex)
    played = run(scheduler, requests, [24, 1, 24], 13, cost=DearAgain(copy=0.25))
    moves = [event[:3] for event in copies(played)]
    assert moves[:3] == [
        (5.0, "rotate_out", "A"),
        (9.25, "rotate_out", "B"),
        (9.25, "rotate_in", "A"),
    ]
    assert end_s in played.tokens(0) and 21.25 - end_s not in played.tokens(0)


@pytest.mark.parametrize(("layout", "per_block"), [("layer_first", 6), ("block_first", 1)])
def test_layer_first_copies_each_layer_by_itself(layout: str, per_block: int) -> None:
    """K and V of three layers: six pieces for a block."""
    pieces: list[tuple[int, int]] = []

    def note(engine: Any, plan: Plan) -> None:
        pieces.extend((copy.blocks, copy.pieces) for copy in (*plan.before_step, *plan.background))

    requests = [
        arriving(0, 0.0, 20, name="A"),
        arriving(1, 3.5, 32, name="B", **promised(ttft_s=9.0)),
    ]
    scheduler = told({"A": 30, "B": 2}, layout=layout)
    engine = make_engine(scheduler, 13, layers=3, host_blocks=64)
    ImpatientDriver(engine, requests, [9, 2], note).run()
    assert pieces == [(6, 6 * per_block)] * 2


# -- offloads that would lose ---------------------------------------------------------------------


@pytest.mark.parametrize(("copy_s", "losing"), [(0.4375, 0), (0.5, 1)])
def test_an_offload_that_would_lose_is_not_done(copy_s: float, losing: int) -> None:
    """A's cache is computed again in a step of 1 s, and copied out and back in twice `copy_s`: as
    long as that, its blocks are dropped, and B does not wait for a copy.
    """
    requests = [
        arriving(0, 0.0, 20, name="A", **promised(ttft_s=8.0, tpot_s=6.0, max_stall_s=6.0)),
        arriving(1, 3.5, 32, name="B", **promised(ttft_s=5.0)),
    ]
    scheduler = told({"A": 30, "B": 2})
    played = run(scheduler, requests, [10, 2], 13, cost=FakeCost(copy=copy_s))
    first = [event for event in played.events if event[0] == 4.0 and event[2] == "A"]
    dropped = [(4.0, "no_offload", "A", 0), (4.0, "preempt", "A", 6)]
    assert first == (dropped if losing else [(4.0, "rotate_out", "A", 6)])
    assert played.tokens(1)[0] == (7.0 if losing else 7.0 + copy_s)
    assert played.record.losing_offloads == losing
    assert summarise(played.record)["losing_offloads"] == losing
    assert played.record.table.d2h_bytes.tolist() == [0 if losing else 6, 0]
    assert played.record.table.recomputed_tokens.tolist() == [22 if losing else 0, 0]


# -- copies back ahead of need --------------------------------------------------------------------


def three_come_back(
    stream: dict[str, Any] | None = None, **settings: Any
) -> tuple[Any, list[Any], list[Any]]:
    """X, Y and Z leave for B, which ends at 6.5 s; a copy takes 1/4 s. None of the three is in a
    hurry.
    """
    requests = [
        arriving(index, 0.0, 4, name=name, **(stream or {})) for index, name in enumerate("XYZ")
    ]
    requests.append(arriving(3, 3.5, 36, name="B", **promised(ttft_s=6.0)))
    lengths = dict.fromkeys("XYZ", 30) | {"B": 1}
    scheduler = told(lengths, admission=False, max_num_batched_tokens=64, **settings)
    events: list[Any] = []
    cost = FakeCost(copy=0.25)
    engine = make_engine(scheduler, 10, cost=cost, sink=events.append, host_blocks=64)
    return engine, requests, events


@pytest.mark.parametrize("stream", [{}, promised(e2el_s=1e4)])
@pytest.mark.parametrize(
    ("share", "starts"),
    [(1.0, [6.5, 6.75, 7.75]), (0.25, [6.5, 7.75, 8.75]), (0.125, [6.5, 8.75, 10.75])],
)
def test_who_is_not_urgent_has_a_share_of_the_link(
    share: float, starts: list[float], stream: dict[str, Any]
) -> None:
    """After a copy of 1/4 s the next one starts 1/4 s, 1 s or 2 s later, at the end of a step: the
    same for those without a deadline and for those with one that is far away.
    """
    engine, requests, events = three_come_back(stream, prefetch_share=share)
    ImpatientDriver(engine, requests, [9, 9, 9, 1]).run()
    found = [event[0] for event in events if event[1] == "prefetch" and event[0] > 5]
    assert found[:3] == starts


@pytest.mark.parametrize(("cancel_s", "wasted"), [(6.625, 2), (8.0, 0)])
def test_a_prefetch_without_a_token_is_wasted(cancel_s: float, wasted: int) -> None:
    """X's two blocks come back from 6.5 to 6.75 s and give a token at 7.75 s."""
    engine, requests, events = three_come_back()
    outputs = [9, 9, 9, 1]
    ImpatientDriver(engine, requests, outputs, cancels=[(cancel_s, 0)]).run()
    record = engine.recorder.build(engine)
    assert record.prefetch_wasted_bytes == wasted
    moved = sum(event[3] for event in events if event[1] == "rotate_in")
    assert record.prefetch_useful_bytes + wasted == moved


def test_a_prefetch_of_smaller_blocks_counts_the_bytes_that_it_moves() -> None:
    """Blocks of eight bytes: A leaves for B with some of four bytes."""
    copied: list[int] = []

    def note(engine: Any, plan: Plan) -> None:
        copied.extend(copy.nbytes for copy in plan.background if copy.direction == "h2d")
        assert all(copy.nbytes < 8 * copy.blocks for copy in plan.background)

    requests = [
        arriving(0, 0.0, 24, name="A", slo_class=SLOClass("loose", min_kv_bits=8)),
        arriving(1, 3.5, 36, name="B", **promised(ttft_s=9.0)),
    ]
    memory = ShrinkingLru(shrink_8_at=0.3, shrink_4_at=1.1, tail_tokens=4)
    scheduler = told({"A": 30, "B": 2}, write_through=False)
    engine = make_engine(scheduler, 12, memory=memory, host_blocks=64, **SIZES)
    ImpatientDriver(engine, requests, [9, 2], note).run()
    record = engine.recorder.build(engine)
    assert copied and record.prefetch_useful_bytes == sum(copied)
    assert 8 * record.extra["prefetched_blocks"] == sum(copied)  # blocks of 16 bits


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"scheduler.prefetch_share: expected above 0"):
        make_engine(rotating(prefetch_share=share), 8)
