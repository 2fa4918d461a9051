"""`rotating`: residents make room for urgent requests, where it pays (blocks of four tokens, steps
of one second: iteration k starts at k - 1 s).
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import FakeCost, iterations
from rotating_runs import DearAgain, arriving, promised, run, told

STREAM = promised(ttft_s=8.0, tpot_s=4.0, max_stall_s=4.0)
START = ["A16 used 5", "A4 used 5", "A used 6", "A used 6"]
"""A prefills 20 tokens and has 3 tokens at 4 s."""
STAYS = [f"A used {blocks}" for blocks in (6, 6, 7, 7, 7, 7)]
"""A's next decodes, if it does not leave."""
LEAVES = ["B15 -A used 8", "B16 used 8", "B1 used 8", "B used 9"]
"""B prefills its 32 tokens and decodes; its first chunk was sized beside A."""


def b_is_urgent(
    stream: dict[str, Any] = STREAM,
    *,
    answer: int = 30,
    ttft_s: float = 4.0,
    settings: dict[str, Any] | None = None,
    **engine: Any,
) -> list[str]:
    """A decodes; B (since 3.5 s, so in iteration 5) needs 8 blocks and one to go on, and 7 of 13
    are free. Without room it gives its target up and waits for A to end.
    """
    return iterations(
        told({"A": answer, "B": 2}, **(settings or {})),
        {"A": (20, answer), "B": (32, 2)},
        {"B": 5},
        blocks=13,
        requests={"A": stream, "B": promised(ttft_s=ttft_s)},
        **engine,
    )


def test_a_resident_with_slack_leaves_for_an_urgent_request() -> None:
    """A may pause for 4 s and is expected to go on for 27 tokens. It comes back beside B's last
    token, at once, because its own next token has become urgent.
    """
    lines = b_is_urgent()
    assert lines[:4] == START
    assert lines[4:8] == LEAVES
    assert lines[8] == "+A A used 6"


def test_rotation_off() -> None:
    lines = b_is_urgent(settings={"rotation": False})
    assert lines[:10] == START + STAYS
    assert not any("-" in line for line in lines)


def test_not_who_is_nearly_done() -> None:
    """Of 19 tokens 3 are given at iteration 5: 16 are left, and the limit is more than 16."""
    assert b_is_urgent(answer=19)[:10] == START + STAYS
    assert b_is_urgent(answer=20)[4] == LEAVES[0]


def test_not_who_has_too_little_slack() -> None:
    """A keeps a fifth of its gap and a step: of 1.25 s that is exactly 1.25 s, which is no more
    than its slack; of 1.5 s it is 1.3 s.
    """
    assert b_is_urgent(promised(ttft_s=8.0, tpot_s=1.25, max_stall_s=1.25))[:10] == START + STAYS
    assert b_is_urgent(promised(ttft_s=8.0, tpot_s=1.5, max_stall_s=1.5))[4] == LEAVES[0]


def test_not_without_room_on_the_host() -> None:
    """A's 22 computed tokens take six blocks there."""
    assert b_is_urgent(host_blocks=5)[:10] == START + STAYS
    assert b_is_urgent(host_blocks=6)[4] == LEAVES[0]


@pytest.mark.parametrize(("host_blocks", "line"), [(5, "AD used 6"), (6, "B14 -D -A used 7")])
def test_nobody_leaves_where_the_host_has_no_room_for_all_who_would_have_to(
    host_blocks: int, line: str
) -> None:
    """B needs eight of nine blocks, and A and D have three each."""
    lines = iterations(
        told({"A": 30, "D": 30, "B": 2}),
        {"A": (8, 30), "D": (8, 30), "B": (28, 2)},
        {"B": 5},
        blocks=9,
        requests={"A": STREAM, "D": STREAM, "B": promised(ttft_s=4.0)},
        host_blocks=host_blocks,
    )
    assert lines[4] == line


def test_not_over_a_slow_link() -> None:
    """Out and back takes 2 * 0.5 s: of a gap of 2.5 s, 0.5 + 1 + 1 s is not less, and of a gap of
    2.75 s, 0.55 + 1 + 1 s is.
    """
    cost = DearAgain(copy=0.5)
    assert (
        b_is_urgent(promised(ttft_s=8.0, tpot_s=2.5, max_stall_s=2.5), cost=cost)[:10]
        == START + STAYS
    )
    assert (
        b_is_urgent(promised(ttft_s=8.0, tpot_s=2.75, max_stall_s=2.75), cost=cost)[4] == LEAVES[0]
    )


def test_who_is_computed_again_sooner_than_copied_needs_no_more_slack_than_that() -> None:
    """A's gap of 5 s is what the link needs for two ways of 1.25 s. 30 % of it, the two ways and a
    step are no less. But A's cache is computed again in two steps of a second, and with those it
    is: 4.5 s. So A drops it in iteration 8, once it has had five.
    """
    lines = iterations(
        told({"A": 24, "B": 2}, hysteresis=0.3),
        {"A": (20, 24), "B": (32, 2)},
        {"B": 8},
        blocks=13,
        requests=dict.fromkeys("AB", promised(ttft_s=8.0, tpot_s=5.0, max_stall_s=5.0)),
        cost=FakeCost(copy=1.25),
    )
    assert lines[:7] == [*START, *STAYS[:3]]
    assert lines[7:12] == [*LEAVES, "A16 used 7"]


def test_not_who_could_not_end_in_time() -> None:
    """A owes its answer alone, by 40 s: at 2 s 29 tokens are left, with the margin of 1.3 for
    37.7 s. What is left are 0.3 s, less than a step; of 41 s it is more.
    """
    assert b_is_urgent(promised(e2el_s=40.0))[:10] == START + STAYS
    assert b_is_urgent(promised(e2el_s=41.0))[4] == LEAVES[0]


def test_not_who_has_to_be_back_before_the_link_can_keep_up() -> None:
    """Out and back takes 2 * 1 s for all residents, which may be half of a turn: 4 s. A has decoded
    for four steps in iteration 7, as long as it has to. A gap of 4 s is enough; one of 3.875 s is
    not, though 0.775 + 2 + 1 s are less. A goes on to its end, and B, due at 13.5 s, is given up.
    """
    answers = {"A": 24, "B": 2}
    lines = {
        gap_s: iterations(
            told(answers),
            {"A": (20, 24), "B": (32, 2)},
            {"B": 7},
            blocks=13,
            requests=dict.fromkeys(answers, promised(ttft_s=8.0, tpot_s=gap_s, max_stall_s=gap_s)),
            cost=DearAgain(copy=1.0),
        )
        for gap_s in (4.0, 3.875)
    }
    start = [*START, "A used 6", "A used 6"]
    assert lines[4.0][:11] == [*start, *LEAVES, "+A A used 7"]
    stays = [f"A used {6 + place // 4}" for place in range(4, 23)]
    assert lines[3.875] == [*start, *stays, "B16 used 8", "B16 used 8", "B used 9"]


def test_not_before_the_minimum_residence() -> None:
    """Copying A's 7 blocks out and back takes 3.5 s. The tenth of it that is not hidden may be a
    twentieth of the steps that A gets: 7. It decodes since iteration 3, so it leaves in iteration
    10. It owes no gap: its slack would have been enough at once.
    """
    lines = b_is_urgent(promised(ttft_s=8.0), ttft_s=16.0, cost=FakeCost(per_byte=2**-2))
    assert lines[:9] == START + STAYS[:5]
    assert lines[9] == LEAVES[0]


def test_nobody_is_rotated_for_who_can_no_longer_be_in_time() -> None:
    """B needs 3 steps and is due at 6.25 s: at 4 s it is too late, whatever is done."""
    assert b_is_urgent(ttft_s=2.75)[:10] == START + STAYS


@pytest.mark.parametrize(
    ("margin_s", "ttft_s", "leaves"),
    [
        (0.0, 3.5, False),
        (0.0, 3.5625, True),
        (0.5, 4.0, False),
        (0.5, 4.0625, True),
        (9.0, 4.9375, False),
        (9.0, 5.0625, True),
    ],
)
def test_nobody_leaves_from_the_last_moment_on(
    margin_s: float, ttft_s: float, leaves: bool
) -> None:
    """B needs 3 steps: due at 7 s it would have to begin at 4 s, the time of the decision. With a
    margin it is given up so much earlier, but not by more than 0.3 of its target.
    """
    lines = b_is_urgent(ttft_s=ttft_s, settings={"relegation_margin_s": margin_s})
    assert lines[4:8] == (LEAVES if leaves else STAYS[:4])


def test_nobody_leaves_in_vain() -> None:
    """B needs 11 blocks and one to go on of 12. A's exit would give 3 of the 6 that are missing,
    and D has too little slack to follow: A stays.
    """
    lines = iterations(
        told({"A": 30, "D": 30, "B": 1}, admission=False),
        {"A": (8, 6), "D": (8, 6), "B": (44, 1)},
        {"B": 5},
        blocks=12,
        requests={
            "A": promised(ttft_s=9.0, tpot_s=8.0, max_stall_s=8.0),
            "D": promised(ttft_s=9.0, tpot_s=1.25, max_stall_s=1.25),
            "B": promised(ttft_s=5.0),
        },
    )
    assert lines[:6] == ["A8 D8 used 4", *["AD used 6"] * 4, "AD used 8"]
    assert lines[6:] == ["B16 used 11", "B16 used 11", "B12 used 11"]


@pytest.mark.parametrize("on", [True, False])
def test_prefetch_runs_beside_the_computation(on: bool) -> None:
    """A copy takes 0.5 s. A leaves at 4 s for B, which has its second and last token after that
    copy and four steps, at 8.5 s. Then A, which owes nothing, comes back, and C has just come. With
    prefetch C's steps go on beside the copy and A joins a step later; without, all wait for it.
    """
    requests = [
        arriving(0, 0.0, 20, name="A"),
        arriving(1, 3.5, 32, name="B", **promised(ttft_s=12.0)),
        arriving(2, 8.0, 4, name="C", **promised(ttft_s=20.0)),
    ]
    scheduler = told({"A": 25, "B": 2, "C": 4}, prefetch=on, admission=False)
    played = run(scheduler, requests, [25, 2, 4], 13, cost=DearAgain(copy=0.5))
    assert played.tokens(1) == [7.5, 8.5]
    assert played.tokens(2) == ([9.5, 10.5, 11.5, 12.5] if on else [10.0, 11.0, 12.0, 13.0])
    assert [event[0] for event in played.kinds("prefetch")] == ([8.5] if on else [])
    assert played.tokens(0)[:4] == [2.0, 3.0, 4.0, 10.5 if on else 10.0]


def test_a_resident_leaves_before_the_blocks_run_out() -> None:
    """A and B grow by a block every 4 steps each. At iteration 2, 8 steps need 4 blocks and 4 are
    free; at iteration 3 the 8 steps still need 4 and 2 are left. B, with as much slack and the
    higher number, is copied out beside the computation: nobody is ever stopped.
    """
    jobs = {"A": (8, 14), "B": (8, 14)}
    targets = {name: promised(ttft_s=3.0, tpot_s=16.0, max_stall_s=16.0) for name in jobs}
    lines = iterations(told({"A": 30, "B": 30}), jobs, blocks=8, requests=targets)
    assert lines[:3] == ["A8 B8 used 4", "AB used 6", "-B A used 6"]
    assert lines[3].endswith("A used 3")
    settings = {"rotation": False, "admission": False}
    lines = iterations(told({"A": 30, "B": 30}, **settings), jobs, blocks=8, requests=targets)
    assert lines[:3] == ["A8 B8 used 4", "AB used 6", "AB used 6"]


def test_nobody_leaves_early_who_would_be_back_before_the_blocks_run_out() -> None:
    """As above with gaps of 7.5 s, less than the eight steps: A and B go on until at iteration 10
    no block is left, and B goes for 5 steps, until A has ended.
    """
    jobs = {"A": (8, 14), "B": (8, 14)}
    targets = {name: promised(ttft_s=3.0, tpot_s=7.5, max_stall_s=7.5) for name in jobs}
    lines = iterations(told({"A": 30, "B": 30}), jobs, blocks=8, requests=targets)
    assert lines[:9] == ["A8 B8 used 4", *["AB used 6"] * 4, *["AB used 8"] * 4]
    assert lines[9:14] == ["-B A used 5", *["A used 5"] * 3, "A used 6"]
    assert lines[14:] == ["+B used 4", *["B used 5"] * 4, "B used 6"]


def test_room_that_a_copy_under_way_makes_is_kept_for_whom_it_is_made() -> None:
    """B's five blocks leave beside the computation from iteration 12 on, in 2.5 s. C, urgent since
    iteration 13, needs four, with one to go on, where two are free: it waits for B's. D, less
    urgent, needs two at once, and takes none of what C waits for.
    """
    stream, lengths = (
        promised(ttft_s=3.0, tpot_s=32.0, max_stall_s=32.0),
        {"A": 24, "B": 80, "C": 1, "D": 1},
    )
    lines = iterations(
        told(lengths),
        {"A": (8, 24), "B": (8, 24), "C": (12, 1), "D": (4, 1)},
        {"C": 13, "D": 13},
        blocks=12,
        cost=DearAgain(per_byte=0.5),
        requests={
            "A": stream,
            "B": stream,
            "C": promised(ttft_s=9.0),
            "D": promised(ttft_s=12.0),
        },
    )
    assert lines[11:15] == ["-B A used 10", "A used 10", "A used 11", "C12 D3 A used 10"]


def test_a_hopeless_first_token_is_given_up_while_nothing_runs() -> None:
    """A leaves no room for B, whose 13 blocks come back from 74 s to 87 s, beside nothing. C, since
    78.25 s, needs 8 blocks, of which 7 are free, and two steps until its token is due at 82.25 s.
    """
    requests = [
        arriving(0, 0.0, 20, name="A", **promised(ttft_s=8.0, tpot_s=80.0, max_stall_s=80.0)),
        arriving(1, 3.5, 52, name="B", **promised(ttft_s=30.0)),
        arriving(2, 78.25, 32, name="C", **promised(ttft_s=4.0)),
    ]
    scheduler = told({"A": 60, "B": 2, "C": 2})
    played = run(scheduler, requests, [60, 2, 2], 20, cost=DearAgain(per_byte=1.0))
    assert [event[:3] for event in played.kinds("prefetch")] == [(74.0, "prefetch", "B")]
    assert [event[:3] for event in played.kinds("relegate")] == [(80.25, "relegate", "C")]
    assert played.tokens(1) == [8.0, 88.0]


def test_a_stream_that_began_late_may_be_paused_no_longer_than_others() -> None:
    """A's first token, due at 0.5 s, is given up for Z's. Later A leaves for B, which owes no pace,
    and is due again at 9 s; B decodes from iteration 9 on and leaves after the one step that it
    has to stay.
    """
    lines = iterations(
        told({"A": 24, "Z": 1, "B": 24}),
        {"A": (20, 24), "Z": (4, 1), "B": (32, 24)},
        {"B": 6},
        blocks=13,
        requests={
            "A": promised(ttft_s=0.5, tpot_s=4.0, max_stall_s=4.0),
            "Z": promised(ttft_s=2.0),
            "B": promised(ttft_s=4.0),
        },
    )
    assert lines[:5] == ["Z4 A12 used 6", "A8 used 5", "A used 6", "A used 6", "A used 6"]
    assert lines[5:9] == LEAVES
    assert lines[9:11] == ["-B +A A used 6", "A used 7"]
