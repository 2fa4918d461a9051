"""Prefill chunks beside paced streams: the sizer against brute force over all sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from harness import FakeCost, request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS

from superinfer import sequence
from superinfer.batch import DecodeBatch
from superinfer.costs.base import Chunk
from superinfer.schedulers.pacing import GRAIN_TOKENS, ChunkSizer

TILE = 128


@dataclass
class TiledCost(FakeCost):
    """Rows are computed in whole tiles, as matrix products are."""

    per_tile: float = 0.0
    per_square: float = 0.0
    """As attention inside a chunk: it makes large chunks slower per token."""

    def step_s(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        tokens = sum(chunk.tokens for chunk in chunks)
        more_s = self.per_tile * -(-(tokens + decodes) // TILE) + self.per_square * tokens**2
        return super().step_s(chunks, decodes, context_tokens) + more_s


def batch_of(size: int) -> DecodeBatch:
    batch = DecodeBatch(16)
    for index in range(size):
        seq = sequence.Sequence(request(index, 8, 0))
        seq.computed_tokens = 8
        batch.join(seq)
    return batch


def seconds(cost: FakeCost, tokens: int, batch: DecodeBatch, context: int) -> float:
    return cost.step_s([Chunk(tokens, context)], batch.size, batch.context_tokens) + cost.host


LOADS = st.lists(
    st.tuples(
        st.floats(0.01, 4.0),  # cap
        st.integers(0, 300),  # decodes
        st.integers(0, 3000),  # context
        st.integers(1, 3000),  # most tokens
    ),
    min_size=1,
    max_size=5,
)
COSTS = st.builds(
    TiledCost,
    step=st.sampled_from([2**-6, 2**-4]),
    per_chunk_token=st.sampled_from([0.0, 2**-12, 2**-10]),
    host=st.sampled_from([0.0, 2**-8]),
    per_tile=st.sampled_from([0.0, 2**-5, 2**-3]),
    per_square=st.sampled_from([0.0, 2**-22, 2**-18]),
)


@hypothesis_settings(SETTINGS, max_examples=60)
@given(cost=COSTS, loads=LOADS)
def test_grains_against_brute_force(
    cost: TiledCost, loads: list[tuple[float, int, int, int]]
) -> None:
    """Without tiles: the largest multiple of 64 under the cap, whatever the last answer was."""
    sizer = ChunkSizer(cost, tile_tokens=0)
    for cap_s, decodes, context, most in loads:
        batch = batch_of(decodes)
        sizes = range(GRAIN_TOKENS, most + 1, GRAIN_TOKENS)
        fitting = [size for size in sizes if seconds(cost, size, batch, context) <= cap_s]
        expected = max(fitting, default=GRAIN_TOKENS)
        assert sizer.tokens_under(cap_s, batch, context, most) == expected


@hypothesis_settings(SETTINGS, max_examples=60)
@given(cost=COSTS, loads=LOADS)
def test_tiles_against_brute_force(
    cost: TiledCost, loads: list[tuple[float, int, int, int]]
) -> None:
    """With tiles: of all sizes that end a tile and leave a grain for the prefill, the largest under
    the cap or the one before it, whichever computes more tokens per second; else as without.
    """
    sizer = ChunkSizer(cost, tile_tokens=TILE)
    for cap_s, decodes, context, most in loads:
        batch = batch_of(decodes)
        sizes = [n for n in range(GRAIN_TOKENS, most + 1) if (n + decodes) % TILE == 0]
        fitting = [size for size in sizes if seconds(cost, size, batch, context) <= cap_s]
        found = sizer.tokens_under(cap_s, batch, context, most)
        if fitting:
            best = max(fitting[-2:], key=lambda n: (n / seconds(cost, n, batch, context), n))
            assert found == best
        else:
            expected = ChunkSizer(cost, tile_tokens=0).tokens_under(cap_s, batch, context, most)
            assert found == expected


@pytest.mark.parametrize("decodes", [0, 1, 37, 100, 128])
def test_full_tiles_compute_most_tokens_per_second(decodes: int) -> None:
    """Where rows cost by whole tiles, no size under the cap beats the answer."""
    cost, batch = TiledCost(step=2**-6, per_tile=2**-5), batch_of(decodes)
    sizer = ChunkSizer(cost, tile_tokens=TILE)
    found = sizer.tokens_under(0.2, batch, 0, 2048)
    under = [n for n in range(GRAIN_TOKENS, 2049) if seconds(cost, n, batch, 0) <= 0.2]
    assert (found + decodes) % TILE == 0 and found in under
    assert found == max(under, key=lambda n: n / seconds(cost, n, batch, 0))
    by_grains = ChunkSizer(cost, tile_tokens=0).tokens_under(0.2, batch, 0, 2048)
    assert by_grains % GRAIN_TOKENS == 0 and by_grains <= found
