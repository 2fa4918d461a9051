"""Prefill chunks beside decodes without a pace: which size does most work per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import pytest
from harness import FakeCost, request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.test_exactness import SETTINGS

from superinfer import sequence
from superinfer.batch import DecodeBatch
from superinfer.costs.base import Chunk, SliceLine
from superinfer.schedulers.pacing import GRAIN_TOKENS
from superinfer.schedulers.paying import PayingChunks

BUDGET, TILE = 512, 128


@dataclass
class Reading(FakeCost):
    """A step reads the weights in `step` seconds, or computes its rows, whichever takes longer."""

    step: float = 2**-4
    per_row: float = 2**-11
    per_square: float = 0.0
    per_key: float = 0.0
    """For each token before a chunk, however many are in it."""

    def step_s(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        rows = decodes + sum(chunk.tokens for chunk in chunks)
        rows_s = self.per_row * rows + self.per_square * rows**2
        keys_s = self.per_key * sum(chunk.context_tokens for chunk in chunks)
        return max(self.step, rows_s) + self.per_context_token * context_tokens + keys_s

    def slice_line(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> SliceLine:
        first_s = self.step_s(chunks, decodes, context_tokens)
        growth_s = self.per_key * sum(chunk.tokens for chunk in chunks)
        return SliceLine(first_s, self.per_context_token * decodes + growth_s, inf)


def batch_of(size: int, context: int = 8) -> DecodeBatch:
    batch = DecodeBatch(16)
    for index in range(size):
        seq = sequence.Sequence(request(index, context, 0))
        seq.computed_tokens = context
        batch.join(seq)
    return batch


def test_rows_fill_what_decodes_leave_idle() -> None:
    """Reading takes as long as 128 rows. Beside one decode 127 tokens come for nothing: work of
    127 + 128 rows in the time of 128. With 256 rows it is 255 + 128 in the time of 256.
    """
    paying = PayingChunks(Reading(), BUDGET, TILE)
    assert paying.tokens(batch_of(1), 0) == 127
    assert paying.tokens(batch_of(4), 0) == 124


def test_without_decodes_the_whole_budget_pays() -> None:
    """The weights are read once for all of it."""
    assert PayingChunks(Reading(step=2**-3), BUDGET, TILE).tokens(batch_of(0), 0) == BUDGET


def test_a_smaller_chunk_where_the_whole_budget_computes_less_per_second() -> None:
    """Without decodes, 2^-22 s per square of rows: 128 rows take 66 ms and 256 take 141 ms."""
    cost = Reading(per_square=2**-22)
    assert PayingChunks(cost, BUDGET, TILE).tokens(batch_of(0), 0) == 128


@pytest.mark.parametrize("cost", [Reading(host=2**-2), Reading(step=2**-2)])
def test_what_every_step_costs_is_paid_seldom(cost: Reading) -> None:
    """A quarter of a second for the host: 128 rows do (127 + 320) / 320 of the time that it takes
    alone, 512 do (511 + 320) / 512. Or for reading, as where experts are all read: so 512 rows.
    """
    assert PayingChunks(cost, BUDGET, TILE).tokens(batch_of(1), 0) == BUDGET - 1


def test_full_batches_leave_less() -> None:
    """112 decodes leave 16 rows of a tile, less than a grain: so two tiles."""
    paying = PayingChunks(Reading(), BUDGET, TILE)
    assert paying.tokens(batch_of(112), 0) == 256 - 112
    assert paying.tokens(batch_of(BUDGET - 1), 0) == 1


def test_without_tiles_chunks_are_multiples_of_the_grain() -> None:
    """128 rows beside one decode: 1 + 128 take 129 rows' time, 1 + 64 that of reading."""
    assert PayingChunks(Reading(), BUDGET, 0).tokens(batch_of(1), 0) == 128


def test_long_contexts_are_read_seldom() -> None:
    """A chunk reads what came before it, 2^-14 s a token. After 384 tokens (counted as none) that
    is nothing. After 1,500 (counted as 1,536) it is 94 ms, so that 128 rows do (127 * 0.67 + 62) /
    156 of the time alone and 512 do (511 * 0.67 + 62) / 343.
    """
    paying = PayingChunks(Reading(per_key=2**-14), BUDGET, TILE)
    assert paying.tokens(batch_of(1), 384) == 127
    assert paying.tokens(batch_of(1), 1500) == BUDGET - 1


COSTS = st.builds(
    Reading,
    step=st.sampled_from([2**-6, 2**-4]),
    per_row=st.sampled_from([2**-13, 2**-11]),
    per_square=st.sampled_from([0.0, 2**-20]),
    per_context_token=st.sampled_from([0.0, 2**-18]),
    per_key=st.sampled_from([0.0, 2**-14]),
    host=st.sampled_from([0.0, 2**-8]),
)
LOADS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(1, 3000), st.integers(0, 5000)),
    min_size=1,
    max_size=5,
)


@hypothesis_settings(SETTINGS, max_examples=60)
@given(cost=COSTS, loads=LOADS, tile=st.sampled_from([0, TILE]))
def test_answers(cost: Reading, loads: list[tuple[int, int, int]], tile: int) -> None:
    """Whatever was asked before: a grain at least, whole tiles or the whole budget; and the same in
    each of the steps for which it is said to hold.
    """
    used = PayingChunks(cost, BUDGET, tile)
    for decodes, length, context in loads:
        batch = batch_of(decodes, length)
        tokens = used.tokens(batch, context)
        assert tokens == PayingChunks(cost, BUDGET, tile).tokens(batch, context)
        most = BUDGET - decodes
        whole = (tokens + decodes) % tile == 0 if tile else tokens % GRAIN_TOKENS == 0
        assert GRAIN_TOKENS <= tokens <= most and (whole or tokens == most)
        steps = used.steps(batch, context, tokens)
        assert steps >= 1
        for step in {min(steps, 100) // 2, min(steps, 100) - 1}:
            later = batch_of(decodes, length + step)
            assert used.tokens(later, context + step * tokens) == tokens
