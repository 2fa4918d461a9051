"""Step times of encoder-decoders, against sums made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import EncoderDecoderCost, build_cost, load_shape
from superinfer.costs.base import Chunk
from superinfer.costs.devices import load_device

SHAPE, DEVICE = load_shape("flan-t5-xl"), load_device("a100-80g")
COST = EncoderDecoderCost(SHAPE, DEVICE)
FLOPS, BYTES = DEVICE.bf16_flops, DEVICE.memory_bytes_per_s
HIDDEN, LAYERS, VOCAB, HEADS = 2048, 24, 32128, 32 * 64
MLP = 3 * HIDDEN * 5120
ENCODER = 4 * HIDDEN * HEADS + MLP
"""Weights of a layer: projections of attention, and the gated MLP."""
DECODER = ENCODER + 2 * HIDDEN * HEADS
"""Beside those, queries and outputs of the cross-attention; its keys and values are made once."""


def test_the_roofline_of_an_encoder_decoder() -> None:
    assert isinstance(build_cost("flan-t5-xl", "a100-80g"), EncoderDecoderCost)
    assert not isinstance(build_cost("llama-3.1-8b", "l40s"), EncoderDecoderCost)


def test_a_small_decode_reads_the_decoder_and_the_caches() -> None:
    keys = 300  # prompt tokens and answer tokens alike
    cache = keys * 2 * LAYERS * HEADS * 2
    weights = 2 * (LAYERS * DECODER + HIDDEN * VOCAB)
    assert COST.step_s((), 1, keys) == pytest.approx((weights + cache) / BYTES, rel=0.01)


def test_a_long_prompt_is_the_encoder_and_the_cross_projections() -> None:
    """With all pairs of its tokens, not half of them as under a causal mask."""
    n = 4096
    gemm = 2 * n * LAYERS * (ENCODER + 2 * HIDDEN * HEADS)
    pairs = 4 * n * n * HEADS * LAYERS
    # The first token: one row of the decoder, bound by its weights.
    row_s = 2 * (LAYERS * DECODER + HIDDEN * VOCAB) / BYTES
    assert COST.step_s([Chunk(n, 0)], 0, 0) == pytest.approx(
        (gemm + pairs) / FLOPS + row_s, rel=0.02
    )


def test_chunks_of_a_prompt_have_all_its_pairs() -> None:
    def compute_s(chunks: Sequence[Chunk]) -> float:
        return sum(COST._prefill_bounds([chunk])[0] for chunk in chunks)

    whole = compute_s([Chunk(400, 0)])
    cut = compute_s([Chunk(100, 0), Chunk(50, 100), Chunk(250, 150)])
    # Every chunk also has a row over the keys so far, which the whole prompt has once.
    rows = (100 + 150 + 400 - 400) * COST._pair_s
    assert cut == pytest.approx(whole + rows)


def test_decodes_pay_nothing_for_the_encoder() -> None:
    """Six layers more of it change prompts and no decode."""
    deeper = EncoderDecoderCost(replace(SHAPE, encoder_layers=30), DEVICE)
    assert deeper.step_s((), 8, 4000) == COST.step_s((), 8, 4000)
    one, other = (cost.step_s([Chunk(512, 0)], 0, 0) for cost in (COST, deeper))
    assert one < other < 1.25 * one


def test_three_all_reduces_per_decoder_layer() -> None:
    two = EncoderDecoderCost(SHAPE, DEVICE, 2)
    without = two._rows_s(4) - LAYERS * 3 * two._all_reduce_s(4)
    assert two._all_reduce_s(4) > 0
    one_gpu = COST._rows_s(4)
    assert without == pytest.approx(one_gpu / 2, rel=0.05)


def test_two_all_reduces_per_encoder_layer() -> None:
    two, prompt = EncoderDecoderCost(SHAPE, DEVICE, 2), [Chunk(4096, 0)]
    without = two._prefill_s(prompt) - LAYERS * 2 * two._all_reduce_s(4096)
    assert without == pytest.approx(COST._prefill_s(prompt) / 2, rel=0.01)


@given(st.integers(1, 300), st.integers(0, 2000), st.integers(1, 64), st.integers(0, 32))
def test_slices_follow_the_line(tokens: int, context: int, steps: int, decodes: int) -> None:
    """Of one chunk after the other, as many as the line says."""
    line = COST.slice_line([Chunk(tokens, context)], decodes, 40 * decodes)
    for step in range(int(min(steps, line.steps))):
        exact = COST.step_s(
            [Chunk(tokens, context + step * tokens)], decodes, (40 + step) * decodes
        )
        assert line.first_s + step * line.growth_s == pytest.approx(exact, rel=1e-9)
