"""Nominal step times: floors worked by hand, and what must only grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import (
    Chunk,
    Coverage,
    HostCost,
    RooflineCost,
    build_cost,
    load_device,
    load_shape,
)

COST = build_cost("llama-3.1-8b", "a100-80g", costs="roofline")
BANDWIDTH, FLOPS = 2.039e12, 312e12


def test_one_decode_reads_weights_and_cache() -> None:
    shape = load_shape("llama-3.1-8b")
    # The embedding table is looked up, not read.
    weights = shape.weight_bytes(1) - 2 * shape.vocab * shape.hidden
    floor = (weights + 131072 * 4000) / BANDWIDTH
    assert COST.step_s((), 1, 4000) == pytest.approx(floor, rel=0.01)


def test_long_prefill_is_bound_by_compute() -> None:
    shape = load_shape("llama-3.1-8b")
    dense = shape.parameters - 2 * shape.vocab * shape.hidden
    pairs = 4096 * 4097 / 2
    flops = 2 * dense * 4096 + 4 * 4096 * 32 * pairs
    assert COST.step_s([Chunk(4096, 0)], 0, 0) == pytest.approx(flops / FLOPS, rel=0.01)


def test_all_reduce_is_a_ring() -> None:
    shape, device = load_shape("llama-3.1-70b"), load_device("a100-80g")
    cost = RooflineCost(shape, device, 4)
    nbytes = 64 * 8192 * 2
    assert cost._all_reduce_s(64) == pytest.approx(6e-6 + 1.5 * nbytes / 300e9)
    assert COST._all_reduce_s(64) == 0.0  # type: ignore[attr-defined]


def test_few_tokens_touch_few_experts() -> None:
    shape, device = load_shape("mixtral-8x7b"), load_device("h100")
    cost = RooflineCost(shape, device, 2)
    # One token reads 2 of 8 experts; many tokens read all of them.
    expert = 3 * 4096 * 14336 * 2 / 2 / 3.35e12
    assert cost._mlp_s(1) == pytest.approx(2 * expert)
    assert cost._mlp_s(64) == pytest.approx(8 * expert, rel=1e-4)


def test_encoder_decoder_and_learned_positions_run() -> None:
    for model in ("t5-base", "flan-t5-xl", "gpt2"):
        cost = build_cost(model, "l40s")
        assert 0.0 < cost.step_s([Chunk(100, 0)], 3, 300) < 0.1


def test_trust_says_nominal() -> None:
    coverage = Coverage(COST.limits)
    coverage.book([Chunk(10**6, 0)], 10**6, 10**9, 0.0, [1.0])
    trust = COST.trust(coverage)
    assert trust["profile"] == "roofline:a100-80g"
    assert trust["measured_share"] == trust["extrapolated_share"] == 0.0
    assert (trust["left_range"], trust["family_error"]) == ([], None)
    assert trust["host_overhead_origin"] == "assumed"


def test_host_and_transfers() -> None:
    cost = build_cost("gpt2", "a100-80g", costs="roofline", host=HostCost(0.001, 1e-6, "measured"))
    assert cost.host_s(100) == pytest.approx(0.0011)
    assert cost.transfer_s(25_000_000, 4, "d2h") == pytest.approx(0.00104)
    assert cost.transfer_s(0, 4, "h2d") == 0.0


@given(st.integers(1, 512), st.integers(0, 200_000), st.integers(1, 50), st.integers(1, 5000))
def test_monotone(decodes: int, extra: int, more: int, tokens: int) -> None:
    context = decodes + extra
    alone = COST.step_s((), decodes, context)
    assert COST.step_s((), decodes, context + more) >= alone
    assert COST.step_s((), decodes + more, context + more) >= alone
    mixed = COST.step_s([Chunk(tokens, 0)], decodes, context)
    assert mixed >= alone
    assert COST.step_s([Chunk(tokens + more, 0)], decodes, context) >= mixed
    assert COST.step_s([Chunk(tokens, more)], decodes, context) >= mixed
