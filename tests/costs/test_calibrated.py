"""Step times out of profiles: exactness, order, trust and the choice of a cost model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import (
    CalibratedCost,
    Chunk,
    Coverage,
    HostCost,
    RooflineCost,
    StepCost,
    build_cost,
    list_profiles,
    load_profile,
    load_shape,
)
from superinfer.costs.coverage import STEP_TOKENS
from superinfer.costs.devices import Link
from superinfer.costs.profile import Kernel, Profile
from superinfer.costs.profile_file import parse_profile, profile_json
from superinfer.errors import ConfigError

SHIPPED = list_profiles()
costs = st.sampled_from([name[:3] for name in SHIPPED])


@cache
def shipped(device: str, model: str, tp: int) -> StepCost:
    return build_cost(model, device, tp, "calibrated")


def tiny(prefill: Kernel | None = None) -> Profile:
    """A profile whose step times can be worked by hand."""
    line = Kernel({}, None, "linear", {"base_s": 1.0, "per_unit_s": 0.1})
    names = ("gemm_qkv", "gemm_o", "norm", "gemm_gate_up", "gemm_down", "gemm_lm_head")
    causal = {"floor_s": 1.0, "per_sequence_s": 0.5, "per_token_s": 0.1}
    causal |= {"per_pair_s": 0.01, "per_key_s": 0.001}
    axes = {"sequences": (1.0, 3.0), "context_tokens": (1.0, 11.0)}
    kernels = dict.fromkeys(names, line) | {
        "attention_decode_16": Kernel(axes, ((1.0, 2.0), (3.0, 6.0))),
        "attention_prefill": prefill or Kernel({}, None, "causal_linear", causal),
    }
    links = {way: Link(1e9, 0.0) for way in ("h2d", "d2h")}
    return Profile("a100-80g", "gpt2", 1, kernels, links, HostCost(0.0, 0.0))


GPT2 = load_shape("gpt2")


def test_decode_by_hand() -> None:
    cost = CalibratedCost(tiny(), GPT2)
    # 12 layers x (five kernels at 2 tokens + attention of 2 sequences at mean context 6), one head.
    attention = (1.5 + 4.5) / 2
    assert cost.step_s((), 2, 12) == pytest.approx(12 * (5 * 1.2 + attention) + 1.2)


def test_mixed_step_by_hand() -> None:
    cost = CalibratedCost(tiny(), GPT2)
    chunks = [Chunk(2, 0), Chunk(3, 4)]
    pairs = (2 * 3 / 2) + (3 * 4 + 3 * 4 / 2)
    prefill = 1.0 + 2 * 0.5 + 5 * 0.1 + pairs * 0.01 + 7 * 0.001
    fixed = 12 * 5 * (1.0 + 0.1 * 7)
    rows = 1.0 + 0.1 * 4
    attention = 12 * (1.5 + 4.5) / 2
    assert cost.step_s(chunks, 2, 12) == pytest.approx(12 * prefill + fixed + rows + attention)


def test_what_gpus_sum_up_was_measured_for_so_many_tokens() -> None:
    """An all-reduce takes two bytes for each of 768 values of a token: measured up to 10 tokens."""
    plain = tiny()
    reduce = Kernel({"bytes": (1536.0, 15360.0)}, (1.0, 10.0))
    split = replace(plain, tp=2, kernels={**plain.kernels, "all_reduce": reduce})
    assert CalibratedCost(split, GPT2).limits.end(STEP_TOKENS) == 10
    alone = CalibratedCost(plain, GPT2).limits.entries
    assert STEP_TOKENS not in {limit.quantity for limit in alone}


def test_gpus_sum_up_twice_a_layer_and_gather_the_logits() -> None:
    """768 values of two bytes for each of two tokens, 25 times; half of their logits, once."""
    plain = tiny()
    reduce = Kernel({}, None, "linear", {"base_s": 3.0, "per_unit_s": 0.5})
    split = replace(plain, tp=2, kernels={**plain.kernels, "all_reduce": reduce})
    found = CalibratedCost(split, GPT2).step_s((), 2, 12)
    summed = 25 * (3.0 + 0.5 * 2 * 768 * 2) + 3.0 + 0.5 * 2 * GPT2.vocab
    assert found - CalibratedCost(plain, GPT2).step_s((), 2, 12) == pytest.approx(summed)


def test_fewer_bits_cost_what_was_measured() -> None:
    """And else what the bytes say, and half as much again for unpacking them."""
    plain = tiny()
    axes = {"sequences": (1.0, 64.0), "context_tokens": (1.0, 4096.0)}
    more = {
        "attention_decode_16": Kernel(axes, ((1.0, 2.0), (3.0, 8.0))),
        "attention_decode_8": Kernel(axes, ((1.0, 2.0), (3.0, 5.0))),
        "requantise_8": Kernel({}, None, "linear", {"base_s": 1.0, "per_unit_s": 2.0}),
    }
    cost = CalibratedCost(replace(plain, kernels=plain.kernels | more), GPT2)
    assert cost.attention_share(8, 0.5) == pytest.approx(5 / 8)
    assert [cost.attention_share(4, share) for share in (0.3, 0.9)] == pytest.approx([0.45, 1.0])
    assert cost.requantise_s(10, 8) == 1.0 + 2.0 * 10
    # 12 layers read 64 contexts that are longer by 4,095 tokens in 12 * 5 s more.
    token_s = 12 * 5 / (64 * 4095)
    assert cost.requantise_s(10, 4) == pytest.approx(10 * token_s / GPT2.kv_bytes_per_token(1))


def test_decodes_beside_chunks_have_a_table_of_their_own() -> None:
    axes = {"sequences": (1.0, 3.0), "context_tokens": (1.0, 11.0)}
    more = {
        "attention_mixed_16": Kernel(axes, ((2.0, 4.0), (6.0, 12.0))),
        "attention_idle": Kernel({}, None, "linear", {"base_s": 0.0, "per_unit_s": 0.5}),
    }
    plain = tiny()
    host = HostCost(0.0, 0.0, chunked_s=7.0)
    cost = CalibratedCost(replace(plain, kernels=plain.kernels | more, host=host), GPT2)
    chunks = [Chunk(2, 0), Chunk(3, 4)]
    without = CalibratedCost(plain, GPT2).step_s(chunks, 2, 12)
    # Twice the attention of decodes, less the launch that the chunks' has; three queries for each
    # of four rows, five of them there; and what steps with chunks take in any case.
    beside = 12 * ((3.0 + 9.0) / 2 - 2.0) - 12 * (1.5 + 4.5) / 2
    assert cost.step_s(chunks, 2, 12) == pytest.approx(without + beside + 12 * 0.5 * 7 + 7.0)
    assert cost.step_s((), 2, 12) == CalibratedCost(plain, GPT2).step_s((), 2, 12)


def test_prefill_table_counts_the_launch_once() -> None:
    axes = {"chunk_tokens": (1.0, 3.0), "context_tokens": (0.0, 10.0)}
    cost = CalibratedCost(tiny(Kernel(axes, ((1.0, 2.0), (2.0, 4.0)))), GPT2)
    one, two = [Chunk(2, 5)], [Chunk(2, 5), Chunk(3, 0)]
    assert cost._prefill_s(one) == pytest.approx(12 * (1.5 + 3.0) / 2)
    assert cost._prefill_s(two) == pytest.approx(12 * ((1.5 + 3.0) / 2 + 2.0 - 1.0))


@given(
    st.lists(
        st.tuples(
            st.lists(st.builds(Chunk, st.integers(1, 2), st.integers(0, 2)), max_size=3),
            st.integers(0, 2),
            st.integers(0, 4),
        ),
        max_size=8,
    )
)
def test_answers_do_not_depend_on_what_was_asked_before(
    asked: list[tuple[list[Chunk], int, int]],
) -> None:
    cost = CalibratedCost(tiny(), GPT2)
    for step in asked:
        assert cost.step_s(*step) == CalibratedCost(tiny(), GPT2).step_s(*step)


def test_an_empty_step_takes_no_time() -> None:
    assert shipped("a100-80g", "llama-3.1-8b", 1).step_s((), 0, 0) == 0.0


@given(
    costs,
    st.integers(1, 512),
    st.integers(1, 2000),
    st.integers(1, 400),
    st.integers(1, 8192),
    st.integers(0, 8192),
)
def test_monotone(
    which: tuple[str, str, int], decodes: int, mean: int, more: int, tokens: int, prior: int
) -> None:
    cost, context = shipped(*which), decodes * mean
    alone = cost.step_s((), decodes, context)
    slack = 1e-9
    assert cost.step_s((), decodes, context + more) >= alone - slack
    # At a given mean context: many short sequences may run faster than few long ones.
    assert cost.step_s((), decodes + more, (decodes + more) * mean) >= alone - slack
    mixed = cost.step_s([Chunk(tokens, prior)], decodes, context)
    assert mixed >= alone
    assert cost.step_s([Chunk(tokens + more, prior)], decodes, context) >= mixed - slack
    assert cost.step_s([Chunk(tokens, prior + more)], decodes, context) >= mixed - slack
    assert cost.step_s([Chunk(tokens, prior), Chunk(more, 0)], decodes, context) >= mixed - slack


def test_trust_says_where_the_times_come_from() -> None:
    cost = build_cost("llama-3.1-8b", "a100-80g", 1)
    coverage = Coverage(cost.limits)
    coverage.book((), 8, 8000, 0.0, [3.0])
    coverage.book([Chunk(512, 100_000)], 8, 8000, 3.0, [4.0])
    trust = cost.trust(coverage)
    assert (trust["measured_share"], trust["extrapolated_share"]) == (0.75, 0.25)
    assert trust["profile"] == "a100-80g_llama-3.1-8b_tp1"
    error = trust["family_error"]
    assert isinstance(error, float) and 0.0 < error < 0.15


def test_questions_are_not_steps() -> None:
    cost = build_cost("llama-3.1-8b", "a100-80g", 1)
    cost.step_s((), 8, 10_000_000)
    cost.slice_line([Chunk(512, 100_000)], 8, 8000)
    assert cost.trust(Coverage(cost.limits))["extrapolated_share"] == 0.0


def test_host_is_replaceable_and_transfers_have_setup() -> None:
    cost = build_cost("llama-3.1-8b", "a100-80g", 1, host=HostCost(0.001, 0.0, "published"))
    assert cost.host_s(50) == 0.001
    assert cost.trust(Coverage())["host_overhead_origin"] == "published"
    assert shipped("a100-80g", "llama-3.1-8b", 1).host_s(100) == pytest.approx(0.006)
    assert cost.transfer_s(25_000_000, 10, "h2d") == pytest.approx(0.0011)
    with pytest.raises(ConfigError, match="unknown direction 'up'; known: h2d, d2h"):
        cost.transfer_s(1, 1, "up")


def test_steps_with_chunks_take_at_least_their_launches() -> None:
    host = HostCost(0.0, 0.0, "measured", launch_s=200.0)
    quick, slow = CalibratedCost(tiny(), GPT2), CalibratedCost(tiny(), GPT2, host)
    small, large = [Chunk(1, 0)], [Chunk(1000, 0)]
    assert quick.step_s(small, 2, 12) < 200.0 < quick.step_s(large, 2, 12)
    assert slow.step_s(small, 2, 12) == 200.0
    assert slow.step_s(large, 2, 12) == quick.step_s(large, 2, 12)
    assert slow.step_s((), 2, 12) == quick.step_s((), 2, 12)
    line = slow.slice_line(small, 2, 12)
    assert (line.first_s, line.growth_s, line.steps) == (200.0, 0.0, 1)
    assert slow.slice_line(large, 2, 12).growth_s == quick.slice_line(large, 2, 12).growth_s


def test_shipped_profiles_and_the_choice_of_costs(tmp_path: Path) -> None:
    names = {(name.device, name.model, name.tp) for name in SHIPPED}
    assert ("a100-80g", "llama-3.1-8b", 1) in names
    assert isinstance(build_cost("Llama-3.1-8B", "A100-80g"), CalibratedCost)
    assert isinstance(build_cost("llama-3.1-8b", "l40s"), RooflineCost)
    assert isinstance(build_cost("llama-3.1-8b", "a100-80g", 1, "roofline"), RooflineCost)
    path = str(SHIPPED[0].path)
    assert isinstance(build_cost(SHIPPED[0].model, "a100-80g", SHIPPED[0].tp, path), CalibratedCost)


def test_refused_choices() -> None:
    with pytest.raises(
        ConfigError, match=r"no profile for l40s, llama-3.1-8b, tp=1; shipped: a100"
    ):
        build_cost("llama-3.1-8b", "l40s", 1, "calibrated")
    with pytest.raises(ConfigError, match=r"expected auto, .*, flexgen or a profile file"):
        build_cost("llama-3.1-8b", "a100-80g", 1, "exact")
    eight = next(name for name in SHIPPED if name.tp == 1)
    with pytest.raises(ConfigError, match="at tp=1, not for a100-80g at tp=2"):
        build_cost("llama-3.1-8b", "a100-80g", 2, str(eight.path))
    with pytest.raises(ConfigError, match=r"is for llama-3.1-8b, not for gpt2"):
        build_cost("gpt2", "a100-80g", 1, str(eight.path))


def test_a_prefill_table_ends_where_its_axes_do() -> None:
    axes = {"chunk_tokens": (1.0, 3.0), "context_tokens": (0.0, 10.0)}
    limits = CalibratedCost(tiny(Kernel(axes, ((1.0, 2.0), (2.0, 4.0)))), GPT2).limits
    assert {limit.what: limit.end for limit in limits.entries} == {
        "decode sequences": 3.0,
        "mean decode context tokens": 11.0,
        "tokens of a prefill chunk": 3.0,
        "context tokens before a prefill chunk": 10.0,
    }


def test_missing_kernels_are_named() -> None:
    data = json.loads(json.dumps(profile_json(tiny())))
    del data["kernels"]["norm"], data["kernels"]["gemm_lm_head"]
    with pytest.raises(ConfigError, match="lacks norm, gemm_lm_head"):
        CalibratedCost(parse_profile(data), GPT2)


def test_encoder_decoder_needs_roofline() -> None:
    profile = tiny()
    t5 = Profile("a100-80g", "t5-base", 1, profile.kernels, {}, profile.host)
    with pytest.raises(ConfigError, match="roofline costs only"):
        CalibratedCost(t5, load_shape("t5-base"))


@pytest.mark.parametrize(
    ("model", "tp", "decode_ms", "prefill_ms"),
    [
        ("llama-3.1-8b", 1, (10.9, 15.4, 25.0), (36.9, 152.9, 304.1)),
        ("llama-3.1-70b", 4, (27.6, 32.7, 48.5), (112.5, 395.8, 777.7)),
        ("llama-3.1-70b", 8, (16.9, 20.4, 29.2), (74.5, 252.2, 473.8)),
    ],
)
def test_step_times_of_the_shipped_profiles(
    model: str, tp: int, decode_ms: tuple[float, ...], prefill_ms: tuple[float, ...]
) -> None:
    cost = shipped("a100-80g", model, tp)
    decodes = [1e3 * cost.step_s((), n, 1024 * n) for n in (1, 32, 128)]
    assert decodes == pytest.approx(decode_ms, rel=0.03)
    prefills = [1e3 * cost.step_s([Chunk(t, 0)], 0, 0) for t in (512, 2048, 4096)]
    assert prefills == pytest.approx(prefill_ms, rel=0.03)


OVER = {"qwen3-30b-a3b": {"moe_gemm", "attention_idle"}}
"""What misses its target, or has few points: `test_serving_sim_profiles.py` has its limits."""


@pytest.mark.parametrize("name", SHIPPED, ids=lambda name: name.path.stem)
def test_recorded_fit_meets_its_targets(name: object) -> None:
    fit = load_profile(name.path).fit  # type: ignore[attr-defined]
    for kernel in fit.keys() - OVER.get(name.model, set()):  # type: ignore[attr-defined]
        entry = fit[kernel]
        target = 0.10 if kernel.startswith("attention") else 0.05
        assert entry["heldout_mape"] <= target, kernel
        assert entry["heldout_points"] >= 15, kernel


def test_roofline_is_a_floor_of_the_measured_time() -> None:
    for which in SHIPPED:
        floor = build_cost(which.model, which.device, which.tp, "roofline")
        measured = shipped(*which[:3])
        for decodes in (1, 32, 256):
            context = decodes * 1024
            assert floor.step_s((), decodes, context) < measured.step_s((), decodes, context)
        chunk = [Chunk(4096, 0)]
        assert floor.step_s(chunk, 0, 0) < measured.step_s(chunk, 0, 0)


def test_import_takes_no_heavy_library() -> None:
    code = (
        "import sys, superinfer.costs; print([m for m in ('pandas', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.interpreted
def test_remembered_steps_are_those_of_a_fresh_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one chunk are remembered, forgotten when there are too many, and never mixed up."""
    monkeypatch.setattr("superinfer.costs.kernels.MOST_SINGLE_CHUNKS", 8)
    remembering = build_cost("llama-3.1-8b", "a100-80g", 1, "calibrated")
    steps = [
        (tokens, before, decodes)
        for tokens in (1, 512)
        for before in (0, 512, 2048)
        for decodes in (0, 1, 64)
    ]
    for tokens, before, decodes in [*steps, *reversed(steps), *steps]:
        work = ([Chunk(tokens, before)], decodes, 700 * decodes)
        fresh = build_cost("llama-3.1-8b", "a100-80g", 1, "calibrated")
        assert remembering.step_s(*work) == fresh.step_s(*work)
        assert len(remembering._single_cache) <= 8
