"""RotaSched: worked schedules, iteration by iteration, and what DuplexKV copies.

L1 was worked from the rules of the public code (see the module) with 6 blocks of four tokens. A
name with a number is a prefill chunk, `-` a rotation out, `+` one back in, letters alone decode.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, iterations, make_engine, request

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.errors import ConfigError
from superinfer.plan import Plan
from superinfer.request import SLO
from superinfer.schedulers.rotasched import RotaScheduler

L1 = {"A": (7, 4), "B": (7, 4), "C": (7, 4), "D": (7, 2)}


def rota(**settings: Any) -> RotaScheduler:
    settings.setdefault("max_num_seqs", 8)
    settings.setdefault("max_num_batched_tokens", 64)
    settings.setdefault("budget_blocks", 4)
    return RotaScheduler(**settings)


def test_l1_rotates_ahead_of_need() -> None:
    """D gets its first token at once: A, as long here as anybody, makes room; B would reach the
    budget of 4. Then B, C and A in turn.
    """
    assert iterations(rota(), L1, {"D": 2}, blocks=6) == [
        "A7 B7 C7 used 6",
        "D7 -A BC used 6",
        "-B CD used 5",
        "-C +A +B AB used 5",
        "-A +C BC used 6",
        "+A A used 3",
        "A used 3",
    ]


def test_l1_without_a_budget_rotates_by_force_only() -> None:
    """C, the last, leaves when A and B need blocks; D waits until they have ended."""
    assert iterations(rota(budget_blocks=0), L1, {"D": 2}, blocks=6) == [
        "A7 B7 C7 used 6",
        "ABC used 6",
        "-C AB used 6",
        "AB used 6",
        "D7 +C C used 5",
        "CD used 5",
    ]


def test_nothing_moves_where_memory_holds_all() -> None:
    """First come, first served, though fewer blocks are free (2) than the budget (4)."""
    jobs = {"A": (7, 3), "B": (7, 3), "C": (7, 1)}
    assert iterations(rota(), jobs, {"C": 2}, blocks=8) == [
        "A7 B7 used 4",
        "C7 AB used 6",
        "AB used 6",
    ]


def test_nobody_rotates_while_the_budget_is_free() -> None:
    """C needs five blocks and four are free, which is more than the budget of 3."""
    jobs = {"A": (7, 4), "B": (7, 4), "C": (19, 1)}
    lines = iterations(rota(budget_blocks=3), jobs, {"C": 2}, blocks=8)
    assert lines[:2] == ["A7 B7 used 4", "AB used 4"]


def test_who_comes_back_in_the_same_step_has_run_longest_still() -> None:
    """C needs 3 blocks, 1 is free: A and B leave (4 of a budget of 5), C comes in, and there is
    room for A again. A leaves again, for it was never away: had it come in after C, C would leave.
    """
    jobs = {"A": (5, 6), "B": (5, 6), "C": (9, 3)}
    lines = iterations(rota(budget_blocks=5), jobs, {"C": 2}, blocks=5)
    assert lines[:4] == [
        "A5 B5 used 4",
        "C9 -A -B +A A used 5",
        "-A +B BC used 5",
        "-C +A AB used 4",
    ]


def test_a_prompt_under_way_is_not_rotated() -> None:
    """B's 12 tokens take two steps of 8 beside A's token; C would need B's blocks, and gets A's."""
    jobs = {"A": (4, 6), "B": (12, 2), "C": (4, 1)}
    lines = iterations(rota(max_num_batched_tokens=8), jobs, {"B": 2, "C": 3}, blocks=5)
    assert lines[:3] == ["A4 used 1", "B7 A used 5", "B5 C3 -A used 4"]


def test_nobody_new_comes_in_while_the_host_is_full() -> None:
    """C needs a block more than is free, and A leaves. With 2 host blocks A fills them: C waits and
    A is back at once; with its third block A has no room there.
    """
    jobs = {"A": (7, 4), "B": (7, 4), "C": (11, 1)}
    assert iterations(rota(), jobs, {"C": 2}, blocks=6)[1] == "C11 -A B used 5"
    assert iterations(rota(), jobs, {"C": 2}, blocks=6, host_blocks=2) == [
        "A7 B7 used 4",
        "-A +A AB used 4",
        "-A +A AB used 6",
        "AB used 6",
        "C11 used 3",
    ]


def test_the_last_drops_its_cache_where_the_host_is_full() -> None:
    """By force, with no room on the host: B starts over, with the tokens it had given."""
    jobs = {"A": (8, 6), "B": (8, 6)}
    lines = iterations(rota(budget_blocks=0), jobs, blocks=5, host_blocks=1)
    assert lines[:3] == ["A8 B8 used 4", "-B A used 3", "A used 3"]
    assert "B9 used 3" in lines


# -- by virtual lag -------------------------------------------------------------------------------


def test_virtual_lag_decides_who_leaves() -> None:
    """B's target is 4 s: at 3 s (iteration 4) its lag is -1.5, A's is -3 since it came in at 0 and
    the lower of the two, so A gives way. At 4 s A lags -0.5 (a target of 1.5 s between tokens),
    B -1; B has had one token, so it leaves in turn.
    """
    late = {"slo": SLO(ttft_s=4.0, tpot_s=1.5)}
    lines = iterations(
        rota(variant="lvf_vlt"),
        {"A": (12, 8), "B": (12, 4)},
        {"B": 3},
        blocks=5,
        requests={"A": late, "B": late},
    )
    assert lines[:6] == [
        "A12 used 3",
        "A used 4",
        "A used 4",
        "B12 -A used 3",
        "B used 4",
        "-B +A A used 4",
    ]


def test_who_starts_over_without_a_token_still_waits_since_it_came() -> None:
    """A's growth takes X's blocks in the middle of its prompt. X came 0.5 s before Y, so its lag is
    the larger one, though Y has been in the queue for longer: Y, which would fit, waits.
    """
    jobs = {"A": (4, 3), "X": (16, 1), "Y": (4, 1)}
    one = rota(variant="lvf_vlt", budget_blocks=0, max_num_batched_tokens=8)
    assert iterations(one, jobs, {"Y": 2}, blocks=5) == [
        "A4 X4 used 5",
        "-X A used 2",
        "A used 2",
        "X8 used 4",
        "X8 used 4",
        "Y4 used 1",
    ]


def test_a_step_moves_no_more_than_the_budget() -> None:
    """C needs what A and B hold, 6 blocks, and only 5 may move: it waits for the end of one."""
    urgent = {"slo": SLO(ttft_s=0.0)}
    jobs = {"A": (9, 4), "B": (9, 4), "C": (18, 1)}
    few, enough = (
        iterations(
            rota(variant="lvf_vlt", budget_blocks=blocks),
            jobs,
            {"C": 3},
            blocks=7,
            requests={"C": urgent},
        )
        for blocks in (5, 6)
    )
    assert enough[2] == "C18 -A -B used 5"
    assert few[2:5] == ["AB used 6", "AB used 6", "C18 used 5"]


# -- DuplexKV -------------------------------------------------------------------------------------


def copies(**settings: Any) -> list[tuple[str, str, int]]:
    """Who is copied in L1, which way, and how many blocks."""
    found: list[tuple[str, str, int]] = []

    def note(_: Any, plan: Plan) -> None:
        for copy in plan.before_step:
            assert copy.sequence is not None
            found.append((copy.sequence.request.request_id, copy.direction, copy.blocks))

    engine = make_engine(rota(**settings), 6, host_blocks=64)
    requests = [request(i, 7, 0, 0.5 if name == "D" else 0.0, name) for i, name in enumerate(L1)]
    driver = BlockingDriver(engine, requests, [4, 4, 4, 2], note, single_steps=True)
    driver.run()
    return found


def test_eager_copies_leave_the_last_written_block() -> None:
    """A leaves straight after its prefill, with both blocks; B has since written into its second
    one, C into its third. What comes back is whole.
    """
    outs = [("A", "d2h", 2), ("B", "d2h", 1), ("C", "d2h", 1), ("A", "d2h", 1)]
    eager = copies()
    assert [copy for copy in eager if copy[1] == "d2h"] == outs
    assert [copy[2] for copy in copies(eager=False) if copy[1] == "d2h"] == [2, 2, 3, 2]
    ins = [("A", "h2d", 2), ("B", "h2d", 2), ("C", "h2d", 3), ("A", "h2d", 2)]
    assert [copy for copy in eager if copy[1] == "h2d"] == ins


@pytest.mark.parametrize(
    ("settings", "lag", "expected_s"),
    [({}, 0, 4.0), ({"full_duplex": False}, 0, 5.0), ({"eager": False}, 0, 4.0)],
)
def test_both_directions_at_once(settings: Any, lag: int, expected_s: float) -> None:
    """At iteration 4 of L1 C goes out (1 block, 1 s each) and A and B come in (4 s)."""
    engine = make_engine(rota(**settings), 6, host_blocks=64, cost=FakeCost(per_byte=1.0))
    waits: list[float] = []

    class Timed(BlockingDriver):
        def _start(self, plan: Plan) -> None:
            before_s = self.now
            super()._start(plan)
            if len([copy for copy in plan.before_step if copy.direction == "h2d"]) == 2:
                waits.append(self.now - before_s)

    requests = [request(i, 7, 0, 0.5 if name == "D" else 0.0, name) for i, name in enumerate(L1)]
    Timed(engine, requests, [4, 4, 4, 2], single_steps=True).run()
    assert waits == [expected_s]


@pytest.mark.parametrize(("copy_s", "hidden"), [(0.5, True), (3.0, False)])
def test_copies_run_beside_the_step_before(copy_s: float, hidden: bool) -> None:
    """With lag 1 a step starts when the one before and the copies are through."""
    ends = []
    for seconds in (0.0, copy_s):
        engine = make_engine(rota(), 6, host_blocks=64, lag=1, cost=FakeCost(copy=seconds))
        requests = [request(i, 7, 0, 0.5 if i == 3 else 0.0) for i in range(4)]
        simulate(engine, requests, Oracle([4, 4, 4, 2]))
        ends.append(max(seq.finish_s or 0.0 for seq in engine.recorder.sequences))
    assert (ends[0] == ends[1]) == hidden


def test_layer_first_copies_every_layer_by_itself() -> None:
    scheduler = rota(layout="layer_first")
    make_engine(scheduler, 6, layers=32)
    assert scheduler.copies_per_block == 64
    assert rota().copies_per_block == 1


def test_full_blocks_are_counted_as_written_through() -> None:
    """Of 8 + 4 - 1 tokens two blocks of four are full."""
    scheduler = rota()
    engine = make_engine(scheduler, 6)
    simulate(engine, [request(0, 8, 0)], Oracle([4]))
    assert scheduler.counters == {"written_through_blocks": 2}


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "rule"), [(70, "prompt_too_long"), (60, "exceeds_kv_capacity")])
@pytest.mark.parametrize("variant", ["lvf_repo", "lvf_vlt"])
def test_rejections(prompt: int, rule: str, variant: Any) -> None:
    engine = make_engine(rota(variant=variant), 10, max_model_len=64)
    seq = engine.submit(request(0, prompt, 0), 0.0)
    assert engine.plan(0.0) is None
    assert (seq.outcome, seq.end_reason) == ("rejected", rule)


def test_budget_below_max_num_seqs_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_num_batched_tokens: expected at least"):
        make_engine(rota(max_num_seqs=32, max_num_batched_tokens=16), 10)


@pytest.mark.parametrize("variant", ["lvf_repo", "lvf_vlt"])
@pytest.mark.parametrize("budget", [0, 2, 1000])
def test_everybody_gets_through_whatever_the_budget(variant: Any, budget: int) -> None:
    """Also with a budget of more than there is: all who run are then rotated out in every step."""
    engine = make_engine(rota(variant=variant, budget_blocks=budget), 16, host_blocks=200)
    requests = [request(i, 9 + i % 7, 0, 0.5 * i) for i in range(24)]
    simulate(engine, requests, Oracle([5 + i % 11 for i in range(24)]))
    assert {seq.outcome for seq in engine.recorder.sequences} == {"finished"}


# -- thrash ---------------------------------------------------------------------------------------


def end_s(budget: int, link_s: float) -> float:
    """When 48 answers are through, of which the device holds a fifth; a block takes `link_s`."""
    cost = FakeCost(step=2**-5, per_byte=link_s)
    settings = {"budget_blocks": budget, "max_num_seqs": 64}
    engine = make_engine(rota(**settings), 128, host_blocks=4096, cost=cost, lag=1)
    requests = [request(i, 16, 0, i / 4) for i in range(48)]
    simulate(engine, requests, Oracle([200] * 48))
    return max(seq.finish_s or 0.0 for seq in engine.recorder.sequences)


def test_a_budget_for_a_fast_link_collapses_on_a_slow_one() -> None:
    """Rotating most of memory in every step is free where its copies fit beside a step (2**-12 s a
    block, 128 of them in 2**-5 s); a link 16 times slower spends the time on copies.
    """
    fast, slow = end_s(100, 2**-12), end_s(100, 2**-8)
    assert slow > 3 * fast
    assert end_s(0, 2**-8) < 1.25 * end_s(0, 2**-12)
