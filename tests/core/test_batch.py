"""The decode batch against sums over its members."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from harness import request
from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.batch import DecodeBatch
from superinfer.sequence import Sequence

SETTINGS = settings(deadline=None, derandomize=True, max_examples=60)
BLOCK_SIZES = st.sampled_from([1, 2, 3, 4, 16, 32])


@dataclass
class Plain:
    """Each member's length and answer, written out."""

    block_tokens: int
    lengths: dict[Sequence, int] = field(default_factory=dict)
    outputs: dict[Sequence, int] = field(default_factory=dict)

    def growth(self, steps: int) -> int:
        """A member of `n` tokens has `n - 1` in its cache; step by step the next one goes in."""
        return sum(
            (length - 1 + step) % self.block_tokens == 0
            for length in self.lengths.values()
            for step in range(steps)
        )

    def steps_within(self, blocks: int, limit: int) -> int:
        return max((steps for steps in range(limit + 1) if self.growth(steps) <= blocks), default=0)


def new_sequence(index: int, cached: int, output: int = 1) -> Sequence:
    seq = Sequence(request(index, cached, 0))
    seq.computed_tokens, seq.output_tokens = cached, output
    return seq


def assert_agrees(batch: DecodeBatch, plain: Plain) -> None:
    assert batch.size == len(plain.lengths)
    assert set(batch.members) == set(plain.lengths)
    assert batch.context_tokens == sum(plain.lengths.values()) - batch.light_tokens
    assert batch.light_tokens == sum(seq.light_tokens for seq in plain.lengths)
    assert batch.next_growth() == plain.growth(1)
    for steps in (0, 1, 2, 3, plain.block_tokens, 2 * plain.block_tokens + 1):
        assert batch.growth(steps) == plain.growth(steps)
    for blocks in (-1, 0, 1, 2, 5, 3 * batch.size):
        for limit in (0, 1, 7, 2 * plain.block_tokens + 3):
            assert batch.steps_within(blocks, limit) == plain.steps_within(blocks, limit)
    for seq, length in plain.lengths.items():
        assert batch.length(seq) == length
        assert batch.output_tokens(seq) == plain.outputs[seq]
        assert batch.grows(seq) == ((length - 1) % plain.block_tokens == 0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "leave", "lighten", "advance"]), st.integers(0, 200)
    ),
    max_size=30,
)


@SETTINGS
@given(block_tokens=BLOCK_SIZES, steps=STEPS)
def test_against_sums(block_tokens: int, steps: list[tuple[str, int]]) -> None:
    batch, plain = DecodeBatch(block_tokens, watch_longest=True), Plain(block_tokens)
    for index, (what, number) in enumerate(steps):
        members = list(plain.lengths)
        if what == "join":
            seq = new_sequence(index, 1 + number, 1 + number % 3)
            batch.join(seq)
            plain.lengths[seq], plain.outputs[seq] = 2 + number, 1 + number % 3
        elif what == "advance":
            batch.advance(number % 40)
            plain.lengths = {seq: n + number % 40 for seq, n in plain.lengths.items()}
            plain.outputs = {seq: n + number % 40 for seq, n in plain.outputs.items()}
        elif members and what == "lighten":
            batch.lighten(members[0], number)
        elif members:
            seq = members[number % len(members)]
            batch.leave(seq)
            assert seq.computed_tokens == plain.lengths.pop(seq) - 1
            assert seq.output_tokens == plain.outputs.pop(seq)
        assert_agrees(batch, plain)
        assert batch.longest_tokens() == max(plain.lengths.values(), default=0)


@SETTINGS
@given(
    block_tokens=BLOCK_SIZES,
    cached=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    steps=st.integers(0, 50),
    victim=st.integers(0, 5),
)
def test_undo(block_tokens: int, cached: list[int], steps: int, victim: int) -> None:
    """Leaving, and joining before any step, can be taken back."""
    batch, plain = DecodeBatch(block_tokens, watch_longest=True), Plain(block_tokens)
    for index, tokens in enumerate(cached):
        seq = new_sequence(index, tokens)
        batch.join(seq)
        plain.lengths[seq], plain.outputs[seq] = tokens + 1 + steps, 1 + steps
    batch.advance(steps)
    seq = list(plain.lengths)[victim % len(cached)]
    before = (seq.computed_tokens, seq.output_tokens, seq.last_token_step)
    batch.leave(seq)
    seq.computed_tokens, seq.output_tokens, seq.last_token_step = before
    batch.undo_leave(seq)
    assert list(batch.runs.row) == []
    newcomer = new_sequence(99, 5)
    joined = batch.joined[:]
    batch.join(newcomer)
    batch.undo_join(newcomer)
    assert batch.joined == joined
    assert_agrees(batch, plain)
    assert batch.longest_tokens() == max(plain.lengths.values())


def test_who_left_is_forgotten() -> None:
    """One long member stays while thousands come and go, some of them in the same step."""
    batch = DecodeBatch(4, watch_longest=True)
    batch.join(new_sequence(0, 5000))
    for index in range(1, 3000):
        seq = new_sequence(index, index % 90 + 1)
        batch.join(seq)
        if index % 3:
            batch.advance(1)
        batch.leave(seq)
        batch.join(seq)
        batch.leave(seq)
        assert batch.longest_tokens() == 5001 + batch.step
    assert batch._contexts is not None and len(batch._contexts) < 100


def test_longest_is_not_known_unasked() -> None:
    batch = DecodeBatch(4)
    batch.join(new_sequence(0, 10))
    assert batch.longest_tokens() == 0


def test_runs_say_when_tokens_came() -> None:
    batch = DecodeBatch(4)
    early, late = new_sequence(7, 10), new_sequence(8, 3)
    early.last_token_s, late.last_token_s = 0.5, 2.5
    batch.join(early)
    batch.advance(2)
    batch.end_s.extend([1.0, 2.0])
    batch.join(late)
    batch.advance(1)
    batch.end_s.append(3.0)
    batch.leave(early)
    batch.join(early)
    batch.advance(2)
    batch.end_s.extend([4.0, 5.0])
    batch.leave(late)
    batch.leave(early)
    runs = batch.runs
    assert list(zip(runs.row, runs.first, runs.stop, strict=True)) == [
        (7, 0, 3),
        (8, 2, 5),
        (7, 3, 5),
    ]
    assert list(runs.previous_step) == [-1, -1, 2]
    assert list(runs.previous_s)[:2] == [0.5, 2.5]
    assert batch.last_token_s(early) == batch.last_token_s(late) == 5.0


def test_what_is_forgotten_is_still_known_of_the_live() -> None:
    batch = DecodeBatch(4, watch_longest=True)
    gone, waits, stays = new_sequence(1, 10), new_sequence(2, 4), new_sequence(3, 7)
    for seq in (gone, waits, stays):
        batch.join(seq)
    batch.advance(1)
    batch.end_s.append(1.0)
    batch.leave(waits)
    batch.leave(gone)
    batch.advance(2)
    batch.end_s.extend([2.5, 3.5])
    batch.forget([waits, stays])
    batch.forget([waits, stays])  # the second time there is nothing new
    assert list(batch.end_s) == [3.5] and list(batch.runs.row) == []
    assert (batch.first_step, batch.known_steps, batch.step) == (2, 3, 3)
    assert batch._contexts is not None and [entry[3] for entry in batch._contexts] == [stays]
    batch.leave(stays)
    assert (batch.last_token_s(waits), batch.last_token_s(stays)) == (1.0, 3.5)
    assert stays.output_tokens == 4


def test_a_step_whose_end_is_not_known_is_not_forgotten() -> None:
    """Its members leave before its time is told, and the time is theirs."""
    batch = DecodeBatch(4)
    left, member = new_sequence(1, 10), new_sequence(2, 4)
    batch.join(left)
    batch.join(member)
    batch.advance(1)
    batch.end_s.append(1.0)
    batch.advance(1)
    batch.leave(left)
    batch.forget([left, member])
    batch.end_s.append(2.0)
    assert batch.known_steps == batch.step == 2
    assert batch.last_token_s(left) == 2.0
    batch.forget([left, member])
    assert batch.last_token_s(left) == 2.0
    assert list(batch.end_s) == [2.0] and batch.first_step == 1


def test_forgetting_before_the_first_step() -> None:
    batch = DecodeBatch(4)
    seq = new_sequence(0, 10)
    seq.last_token_s = 0.5
    batch.forget([seq])
    assert (batch.first_step, batch.known_steps, batch.last_token_s(seq)) == (0, 0, 0.5)


def test_a_member_that_got_nothing_leaves_no_run() -> None:
    batch = DecodeBatch(4)
    seq = new_sequence(0, 10)
    batch.join(seq)
    batch.leave(seq)
    assert list(batch.runs.row) == []
    assert (seq.computed_tokens, seq.output_tokens, seq.last_token_step) == (10, 1, -1)


@pytest.mark.parametrize("limit", [0, 5])
def test_an_empty_batch_needs_nothing(limit: int) -> None:
    batch = DecodeBatch(4)
    assert batch.growth(100) == 0
    assert batch.steps_within(0, limit) == limit
    assert batch.steps_within(-1, limit) == 0
