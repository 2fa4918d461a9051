"""Prefill chunks beside decodes without a pace: at which size most requests get through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import pytest
from harness import FakeCost
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS

from superinfer.costs.base import Chunk, SliceLine
from superinfer.schedulers.pacing import GRAIN_TOKENS
from superinfer.schedulers.paying import ENOUGH, PayingChunks

BUDGET, TILE = 512, 128


@dataclass
class Reading(FakeCost):
    """A step reads the weights in `step` seconds, or computes its rows, whichever takes longer."""

    step: float = 2**-4
    per_row: float = 2**-11
    per_square: float = 0.0

    def step_s(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        rows = decodes + sum(chunk.tokens for chunk in chunks)
        rows_s = self.per_row * rows + self.per_square * rows**2
        return max(self.step, rows_s) + self.per_context_token * context_tokens

    def slice_line(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> SliceLine:
        first_s = self.step_s(chunks, decodes, context_tokens)
        return SliceLine(first_s, self.per_context_token * decodes, inf)


def paying(
    cost: Reading, prompt: int = 96, answer: int = 32, tile: int = TILE, kv_tokens: int = 10**6
) -> PayingChunks:
    """After one request of such lengths."""
    found = PayingChunks(cost, BUDGET, tile, 256, kv_tokens)
    found.learn(prompt, answer)
    return found


def test_the_smallest_step_that_leaves_nothing_idle() -> None:
    """Reading takes as long as 128 rows, and every row beyond its time: of 128 rows 32 are decodes,
    and 96 prompt tokens bring one request on in 1 / 16 s. Larger steps bring as many a second.
    """
    assert paying(Reading()).tokens(1) == 127
    assert paying(Reading()).tokens(4) == 124


def test_without_decodes_or_knowledge_the_whole_budget_is_taken() -> None:
    assert paying(Reading()).tokens(0) == BUDGET
    assert PayingChunks(Reading(), BUDGET, TILE, 256, 10**6).tokens(1) == BUDGET - 1


@pytest.mark.parametrize("cost", [Reading(host=2**-2), Reading(step=2**-2)])
def test_what_every_step_costs_is_paid_seldom(cost: Reading) -> None:
    """A quarter of a second for the host, or for reading, as where experts are all read."""
    assert paying(cost).tokens(1) == BUDGET - 1


def test_no_more_than_what_fits_decodes() -> None:
    """The host takes 1 / 4 s a step. Memory for 16 requests of 96 tokens and half of 32: from 64
    rows on 16 of them decode, which a larger step only makes wait, so the smallest is taken.
    """
    assert paying(Reading(host=2**-2), kv_tokens=16 * 112).tokens(1) == 127


def test_a_step_is_as_large_as_what_fits_can_keep_busy() -> None:
    """The same with memory for 64: they keep 256 rows busy, and a larger step only makes them wait.
    Requests of half and of one and a half times the length are such requests in the mean.
    """
    cost, kv_tokens = Reading(host=2**-2), 64 * 112
    assert paying(cost, kv_tokens=kv_tokens).tokens(1) == 255
    mixed = paying(cost, 48, 16, kv_tokens=kv_tokens)
    mixed.learn(144, 48)
    assert mixed.tokens(1) == 255


def test_large_steps_that_compute_less_per_second_are_not_taken() -> None:
    """2^-22 s per square of rows: 128 rows take 66 ms, 256 take 141 ms."""
    assert paying(Reading(per_square=2**-22)).tokens(1) == 127


def test_full_batches_leave_less() -> None:
    """112 decodes leave 16 rows of a tile, less than a grain: so two tiles."""
    assert paying(Reading()).tokens(112) == 256 - 112
    assert paying(Reading()).tokens(BUDGET - 1) == 1


def test_lengths_are_those_of_the_latest_requests() -> None:
    """Long answers fill memory with decodes; once prompts are long, large steps pay again."""
    cost = Reading(host=2**-2)
    found = paying(cost, prompt=16, answer=480, kv_tokens=8 * 256)
    assert found.tokens(1) == 127
    for _ in range(400):
        found.learn(480, 1)
    assert found.tokens(1) == BUDGET - 1


COSTS = st.builds(
    Reading,
    step=st.sampled_from([2**-6, 2**-4]),
    per_row=st.sampled_from([2**-13, 2**-11]),
    per_square=st.sampled_from([0.0, 2**-20]),
    per_context_token=st.sampled_from([0.0, 2**-18]),
    host=st.sampled_from([0.0, 2**-8]),
)
LENGTHS = st.tuples(st.integers(0, 3000), st.integers(0, 3000))


@hypothesis_settings(SETTINGS, max_examples=60)
@given(
    cost=COSTS,
    lengths=st.lists(LENGTHS, min_size=1, max_size=5),
    decodes=st.integers(1, 300),
    tile=st.sampled_from([0, TILE]),
)
def test_answers(cost: Reading, lengths: list[tuple[int, int]], decodes: int, tile: int) -> None:
    """A grain at least, whole tiles or the whole budget, and the smallest that is good enough."""
    found = PayingChunks(cost, BUDGET, tile, 256, 4096)
    for prompt, answer in lengths:
        found.learn(prompt, answer)
    tokens, unit = found.tokens(decodes), tile or GRAIN_TOKENS
    rows = tokens + decodes
    assert GRAIN_TOKENS <= tokens <= BUDGET - decodes
    assert rows % unit == 0 or rows == BUDGET
    means = found._prompt_tokens, found._answer_tokens
    rates = [found._rate(size, *means) for size in range(unit, BUDGET + 1, unit)]
    if rows - unit >= decodes + GRAIN_TOKENS:  # a smaller one would be possible
        assert found._rate(rows - unit, *means) < (ENOUGH + 0.2) * max(rates)
