"""`rotating`: mistakes that schedulers of this kind are prone to, each as a test."""

from __future__ import annotations

from typing import Any

import pytest
from harness import iterations
from property.exact_runs import play
from property.workloads import Job
from rotating_runs import DearAgain, Run, arriving, promised, rotating, run, told

from superinfer.schedulers.rotating import rotation
from superinfer.schedulers.rotating.quantum import Quantum


def test_a_watermark_is_counted_in_what_a_rotation_frees() -> None:
    """10 blocks, of which 2 stay free. At 3 s A holds 5, and B, urgent, needs 4, one to go on and
    the two: A leaves. Were the two left out of what has to be freed, the 5 that are free would
    seem to be enough, and nobody would ever leave.
    """
    lines = iterations(
        told({"A": 30, "B": 2}, watermark=0.2),
        {"A": (18, 6), "B": (16, 2)},
        {"B": 4},
        blocks=10,
        requests={"B": promised(ttft_s=3.0)},
    )
    assert lines[:3] == ["A16 used 5", "A2 used 5", "A used 5"]
    assert lines[3:6] == ["B15 -A used 4", "B1 used 4", "B used 5"]


def test_a_swap_in_finds_the_block_of_the_next_token() -> None:
    """A leaves with 16 cached tokens, exactly 4 blocks. Beside B's 4 there is room for them, but
    not for the next token: A stays out until B has ended.
    """
    lines = iterations(
        told({"A": 40, "B": 30}, admission=False),
        {"A": (13, 8), "B": (16, 4)},
        {"B": 5},
        blocks=8,
        requests={"B": promised(ttft_s=4.0)},
    )
    assert lines[:4] == ["A13 used 4", *["A used 4"] * 3]
    assert lines[4:9] == ["B15 -A used 4", "B1 used 4", "B used 5", "B used 5", "B used 5"]
    assert lines[9:11] == ["+A used 4", "A used 5"]


def test_a_swap_in_asks_for_no_more_than_that_block() -> None:
    """A, of 16 tokens, leaves before two streams of four blocks run out of nine. The copies cost
    nothing here, so it is back as soon as its four and one are free.
    """
    lines = iterations(
        told({"A": 40, "B": 30}, admission=False),
        {"A": (13, 12), "B": (13, 7)},
        {"B": 3},
        blocks=9,
        requests={"B": promised(ttft_s=4.0)},
    )
    assert lines[:5] == ["A13 used 4", "A used 4", "B13 A used 8", "-A B used 8", "+A B used 8"]


def test_a_prompt_that_needs_all_blocks_comes_back() -> None:
    """P, late in any case, leaves for D with 8 of its 20 tokens computed. It comes back to the five
    blocks that there are: they are those of its whole prompt, and it needs no other one first.
    """
    lines = iterations(
        told({"P": 1, "D": 1}, max_num_batched_tokens=8),
        {"P": (20, 1), "D": (4, 1)},
        {"D": 2},
        blocks=5,
        requests={"P": promised(ttft_s=1.0), "D": promised(ttft_s=2.0)},
    )
    assert lines[:4] == ["P8 used 5", "-P used 5", "D4 used 1", "+P used 5"]
    assert lines[4:] == ["P8 used 5", "P4 used 5"]


def test_a_swap_in_finds_it_also_beside_a_copy_on_its_way_out() -> None:
    """Nobody else has a place, but the blocks of who is being copied out are not free yet."""
    shapes = [
        (0, 33, 25, 0, False),
        (0, 5, 33, 0, True),
        (30, 29, 15, 1, True),
        (0, 10, 29, 0, False),
        (30, 22, 17, 0, False),
        (30, 25, 17, 0, True),
        (3.5, 8, 26, 2, True),
        (0, 13, 8, 0, False),
        (1, 18, 20, 0, False),
        (3.5, 18, 32, 0, True),
    ]
    jobs = [Job(gap, *size, group, 0, tight) for gap, *size, group, tight in shapes]
    played = play(jobs, None, arm="rotating", lag=1, prefix=False, scale_s=1.0)
    assert set(played.record.table.state) == {"finished"}


def prefix(last: int) -> dict[str, Any]:
    """Four blocks of which the first three are shared."""
    return {"hash_ids": (1, 2, 3, last), "hash_block_tokens": 4}


def test_shared_blocks_of_a_victim_do_not_come_free() -> None:
    """A and B share 3 blocks and have one each of their own; A's next token opens another. At
    iteration 4 C needs 10 and one to go on, A's growth makes 12, and 9 of 14 are free: 3 are
    missing. B's exit frees one, A's frees one and saves one: both leave. With the shared ones
    counted B's would seem to be enough, and C would not come in.
    """
    lines = iterations(
        told({"A": 30, "B": 30, "C": 1}, max_num_batched_tokens=64, admission=False),
        {"A": (14, 6), "B": (14, 6), "C": (40, 1)},
        {"B": 2, "C": 4},
        blocks=14,
        requests={"A": prefix(4), "B": prefix(5), "C": promised(ttft_s=3.0)},
        prefix_caching=True,
    )
    assert lines[:3] == ["A14 used 4", "B2 A used 5", "AB used 5"]
    assert lines[3:5] == ["C40 -B -A used 10", "+A +B used 8"]


def test_cached_tokens_are_not_counted_in_the_budget() -> None:
    """Of B's 16 tokens 12 are cached: its chunk is 4, and C's 11 find room in the same step beside
    A's decode, in a budget of 16.
    """
    lines = iterations(
        rotating(admission=False),
        {"A": (16, 6), "B": (16, 1), "C": (11, 1)},
        {"B": 3, "C": 3},
        blocks=32,
        requests={"A": prefix(4), "B": prefix(5)},
        prefix_caching=True,
    )
    assert lines[:3] == ["A16 used 4", "A used 5", "B4 C11 A used 9"]


def test_a_prefill_under_way_is_never_rotated() -> None:
    """A's 40 tokens take 3 steps and 10 of 12 blocks. B is urgent after the first: it waits until A
    has decoded a token, the least that anybody gets, and A has lost nothing.
    """
    lines = iterations(
        told({"A": 30, "B": 1}),
        {"A": (40, 4), "B": (12, 1)},
        {"B": 2},
        blocks=12,
        requests={"B": promised(ttft_s=8.0)},
    )
    assert lines[:4] == ["A16 used 10", "A16 used 10", "A8 used 10", "A used 11"]
    assert lines[4:] == ["B12 -A used 3", "+A used 11", "A used 11", "A used 11"]


def test_who_has_just_left_does_not_come_back_in_the_same_plan() -> None:
    """As above with 9 blocks for C: both are asked to leave, and there would be room for A."""
    lines = iterations(
        told({"A": 30, "B": 30, "C": 1}, max_num_batched_tokens=64, admission=False),
        {"A": (14, 6), "B": (14, 6), "C": (36, 1)},
        {"B": 2, "C": 4},
        blocks=14,
        requests={"A": prefix(4), "B": prefix(5), "C": promised(ttft_s=3.0)},
        prefix_caching=True,
    )
    assert lines[3] == "C36 -B -A used 9"


@pytest.mark.interpreted
def test_residents_at_their_rotation_cap_are_preempted_when_blocks_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody may be rotated (a cap of no rotations), and two answers of 20 tokens outgrow 8 blocks:
    the youngest drops its cache and starts over, instead of everybody waiting for ever.
    """
    monkeypatch.setattr(rotation, "FEWEST_ROTATIONS", 0)
    monkeypatch.setattr(rotation, "quantum", lambda **load: Quantum(1, 1 << 20))
    requests = [arriving(index, 0.0, 8, **promised(ttft_s=3.0)) for index in range(2)]
    scheduler = told({"r0": 20, "r1": 20})
    played = run(scheduler, requests, [20, 20], 8)
    assert set(played.record.table.state) == {"finished"}
    assert scheduler.counters["forced_preemptions"] > 0
    assert "rotations" not in scheduler.counters


# -- thrash ---------------------------------------------------------------------------------------


def overcommitted(**settings: Any) -> Run:
    """Twelve answers of 200 tokens that may pause for 2 s each, on a device that holds two of them
    whole (54 of 128 blocks), and a slow link: copying one takes as long as 27 steps of 1/64 s.
    """
    stream = promised(ttft_s=60.0, max_stall_s=2.0)
    requests = [arriving(index, 0.0, 16, **stream) for index in range(12)]
    cost = DearAgain(step=2**-6, per_byte=2**-7)
    scheduler = rotating(max_num_seqs=16, **settings)
    return run(scheduler, requests, [200] * 12, 128, cost=cost)


@pytest.mark.interpreted
@pytest.mark.parametrize("traffic", [False, True])
def test_thrash(monkeypatch: pytest.MonkeyPatch, traffic: bool) -> None:
    """The quantum by rule keeps the link and the device busy with work; one of 5 tokens, whatever
    the link, spends the time on copies: less of it if most of a cache has its copy already.
    """
    settings = {"write_through": traffic, "full_duplex": traffic}
    by_rule = overcommitted(**settings)
    monkeypatch.setattr(rotation, "quantum", lambda **load: Quantum(5, 5))
    monkeypatch.setattr(rotation, "exchange_s", lambda resident_s: 0.0)
    forced = overcommitted(**settings)
    ends = [max(played.record.table.finish_s) for played in (by_rule, forced)]
    rotations = [played.record.table.rotations.sum() for played in (by_rule, forced)]
    assert ends[1] > (1.5 if traffic else 2) * ends[0]
    assert rotations[1] > 3 * rotations[0]


@pytest.mark.parametrize("aging", [True, False])
def test_a_request_that_outgrows_all_memory_ends_at_once(aging: bool) -> None:
    """8 prompt tokens and 100 of the answer in 10 blocks of 4: alone and out of memory after 33
    tokens, it is preempted, and turned away for ever rather than left to wait for somebody to go.
    """
    played = run(rotating(aging=aging), [arriving(0, 0.0, 8)], [100], 10)
    (end,) = played.kinds("reject")
    assert end[3] == "exceeds_kv_capacity"
    assert end[0] <= 35.0
