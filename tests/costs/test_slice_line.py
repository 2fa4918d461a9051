"""The line of a time slice: a step on it takes what it takes when asked for alone."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import (
    CalibratedCost,
    Chunk,
    HostCost,
    Placement,
    Profile,
    StepCost,
    build_cost,
    list_profiles,
    load_shape,
)
from superinfer.costs.flexgen_placement import shares_of
from superinfer.costs.kernels import _piece_at
from superinfer.costs.profile import Kernel

SHIPPED = {f"{name.model} tp{name.tp}": name for name in list_profiles()}


@cache
def cost_of(which: str) -> StepCost:
    if which == "roofline":
        return build_cost("llama-3.1-8b", "a100-80g", costs="roofline")
    if which == "slow memory":
        # Attention of a short chunk is bound by memory first and by compute later on.
        return build_cost("llama-3.1-70b", "l40s", 8, "roofline")
    if which in STREAMED:
        return _streamed(*STREAMED[which])
    if which == "table":
        return CalibratedCost(_with_table(), load_shape("gpt2"))
    name = SHIPPED[which]
    return build_cost(name.model, name.device, name.tp, "calibrated")


def _with_table() -> Profile:
    line = Kernel({}, None, "linear", {"base_s": 1.0, "per_unit_s": 0.1})
    names = ("gemm_qkv", "gemm_o", "norm", "gemm_gate_up", "gemm_down", "gemm_lm_head")
    decode = {"sequences": (1.0, 3.0), "context_tokens": (1.0, 11.0)}
    prefill = {"chunk_tokens": (1.0, 8.0), "context_tokens": (16.0, 64.0, 512.0)}
    kernels = dict.fromkeys(names, line) | {
        "attention_decode_16": Kernel(decode, ((1.0, 2.0), (3.0, 6.0))),
        "attention_prefill": Kernel(prefill, ((1.0, 2.0, 3.0), (2.0, 4.0, 16.0))),
    }
    return Profile("a100-80g", "gpt2", 1, kernels, {}, HostCost(0.0, 0.0))


def _streamed(percent: tuple[float, ...], on_cpu: bool, compressed: bool) -> StepCost:
    placement = Placement(
        40, 3, *shares_of(percent), on_cpu, compress_weight=compressed, compress_cache=compressed
    )
    return build_cost("opt-30b", "t4-16g", costs="flexgen", placement=placement)


STREAMED = {
    # What takes longest passes from the weights' way in to the cache's, or to the CPU.
    "weights on the CPU": ((0, 100, 100, 0, 100, 0), False, False),
    "all on the CPU": ((0, 100, 0, 100, 0, 100), False, True),
    "attention on the CPU": ((20, 80, 30, 70, 0, 100), True, False),
    "disk": ((0, 50, 0, 0, 100, 0), True, False),
}
models = st.sampled_from([*SHIPPED, *STREAMED, "roofline", "slow memory", "table"])


def follow(cost: StepCost, chunk: Chunk | None, decodes: int, context: int, steps: int) -> None:
    """Walk along the lines and ask for every step alone."""
    done = 0
    while done < steps:
        chunks = [] if chunk is None else [_after(chunk, done)]
        line = cost.slice_line(chunks, decodes, context + done * decodes)
        assert line.steps >= 1
        for step in range(int(min(line.steps, steps - done))):
            chunks = [] if chunk is None else [_after(chunk, done + step)]
            alone_s = cost.step_s(chunks, decodes, context + (done + step) * decodes)
            assert line.first_s + step * line.growth_s == pytest.approx(alone_s, rel=1e-11)
        done += int(min(line.steps, steps - done))


def _after(chunk: Chunk, steps: int) -> Chunk:
    return Chunk(chunk.tokens, chunk.context_tokens + steps * chunk.tokens)


@given(models, st.integers(1, 3000), st.integers(0, 600_000), st.integers(1, 200))
def test_decodes_alone(which: str, decodes: int, extra: int, steps: int) -> None:
    follow(cost_of(which), None, decodes, decodes + extra, steps)


@given(
    models,
    st.integers(1, 2048),
    st.integers(0, 100_000),
    st.integers(0, 600),
    st.integers(0, 2000),
    st.integers(1, 100),
)
def test_a_chunk_beside_decodes(
    which: str, tokens: int, prior: int, decodes: int, mean: int, steps: int
) -> None:
    follow(cost_of(which), Chunk(tokens, prior), decodes, decodes * mean, steps)


def test_a_line_ends_where_compute_overtakes_memory() -> None:
    cost = cost_of("slow memory")
    assert cost.slice_line([Chunk(8, 0)], 0, 0).steps == float("inf")
    ends = [cost.slice_line([Chunk(tokens, 0)], 0, 0).steps for tokens in range(8, 200)]
    assert any(1 < steps < float("inf") for steps in ends)


@pytest.mark.parametrize("which", ["all on the CPU", "attention on the CPU"])
def test_a_line_ends_where_another_part_of_a_slot_becomes_the_longest(which: str) -> None:
    ends = [cost_of(which).slice_line([], 120, 120 * context).steps for context in range(1, 999, 9)]
    assert any(1 < steps < float("inf") for steps in ends)


def test_several_chunks_are_asked_for_step_by_step() -> None:
    chunks = [Chunk(64, 0), Chunk(8, 100)]
    for which in ("roofline", next(iter(SHIPPED))):
        line = cost_of(which).slice_line(chunks, 3, 300)
        found = (line.first_s, line.growth_s, line.steps)
        assert found == (cost_of(which).step_s(chunks, 3, 300), 0.0, 1)


@given(st.sampled_from(list(SHIPPED)), st.integers(1, 3000))
def test_lines_of_decodes_join_and_rise(which: str, decodes: int) -> None:
    cost, context = cost_of(which), 1
    line = cost.slice_line([], decodes, context)
    while line.steps < float("inf"):
        assert line.growth_s >= 0.0
        context += int(line.steps) * decodes
        following = cost.slice_line([], decodes, context)
        # The knot lies between the last step on one line and the first on the next.
        jump_s = following.first_s - (line.first_s + (line.steps - 1) * line.growth_s)
        assert jump_s <= max(line.growth_s, following.growth_s) + 1e-9
        line = following


@given(ends=st.lists(st.integers(0, 9), max_size=12), context=st.integers(0, 10))
def test_the_piece_of_a_context(ends: list[int], context: int) -> None:
    """One that ends there does not hold it any more."""
    ascending = [float(end) for end in sorted(ends)]
    assert _piece_at(ascending, context) == bisect_right(ascending, context)
