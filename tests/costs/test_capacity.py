"""KV blocks beside the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from one_line import error_of

from superinfer.costs import DEVICES, kv_capacity_blocks, load_shape
from superinfer.costs.capacity import LargestStep, activation_reserve_bytes
from superinfer.errors import ConfigError

A100 = DEVICES["a100-80g"]


def test_formula() -> None:
    shape = load_shape("llama-3.1-8b")
    free = 85899345920 * 0.9 - shape.weight_bytes(1) - activation_reserve_bytes(shape)
    assert kv_capacity_blocks(shape, A100, 1, 16, 0.9) == int(free // (16 * 131072))


def test_a_share_of_what_is_free() -> None:
    shape = load_shape("llama-3.1-8b")
    free = 85899345920 - shape.weight_bytes(1) - activation_reserve_bytes(shape)
    blocks = kv_capacity_blocks(shape, A100, 1, 32, 1.0, 0.9)
    assert blocks == int(free * 0.9 // (32 * 131072))
    # With vLLM's 0.9 of the whole, a tenth of weights and activations less is left for blocks.
    assert blocks > kv_capacity_blocks(shape, A100, 1, 32, 0.9)


def test_estimated_reserve_is_near_what_vllm_leaves() -> None:
    shape = load_shape("llama-3.1-8b")
    # vLLM reports about 27,000 to 29,000 blocks of 16 for this pair.
    assert 27_000 < kv_capacity_blocks(shape, A100, 1, 16) < 29_000
    assert 0.3e9 < activation_reserve_bytes(shape) < 2e9
    assert activation_reserve_bytes(shape, 4) < activation_reserve_bytes(shape)


def test_the_reserve_is_that_of_the_largest_step() -> None:
    shape = load_shape("llama-3.1-8b")
    token_bytes, row_bytes = 2 * (2 * 4096 + 3 * 14336), 10 * 128_256
    assert activation_reserve_bytes(shape) == 8192 * token_bytes
    assert activation_reserve_bytes(shape, 1, LargestStep(131_072, 256)) == 131_072 * token_bytes
    assert activation_reserve_bytes(shape, 1, LargestStep(512, 256)) == 256 * row_bytes
    assert activation_reserve_bytes(shape, 1, LargestStep(512, 512, 2)) == 512 * 2 * 128_256
    assert activation_reserve_bytes(shape, 8, LargestStep(512, 256)) == 256 * row_bytes


def test_larger_steps_leave_fewer_blocks() -> None:
    shape = load_shape("llama-3.1-8b")
    steps = [LargestStep(tokens, 256) for tokens in (2048, 16_384, 131_072)]
    blocks = [kv_capacity_blocks(shape, A100, 1, 16, step=step) for step in steps]
    more_bytes = 131_072 * 102_400 - 256 * 1_282_560
    assert blocks[0] - blocks[2] == pytest.approx(more_bytes / (16 * 131_072), abs=1)
    assert blocks == sorted(blocks, reverse=True)


def test_more_gpus_hold_more() -> None:
    shape = load_shape("llama-3.1-70b")
    blocks = [kv_capacity_blocks(shape, A100, tp, 16) for tp in (2, 4, 8)]
    assert blocks == sorted(blocks)


def test_memory_that_nobody_knows_is_asked_for() -> None:
    unknown = replace(A100, name="cpu", memory_bytes=0)
    with pytest.raises(ConfigError, match=r"cpu: its memory is not known: set run\.kv_blocks"):
        kv_capacity_blocks(load_shape("llama-3.1-8b"), unknown, 1, 16)


def test_advice_for_a_model_with_few_heads() -> None:
    shape = replace(load_shape("llama-3.1-8b"), heads=4, kv_heads=4)
    with pytest.raises(ConfigError, match="it fits on 4 GPUs"):
        kv_capacity_blocks(shape, replace(A100, memory_bytes=6 * 2**30), 1, 16)
    with pytest.raises(ConfigError, match="no number of GPUs up to 32 is enough"):
        kv_capacity_blocks(shape, replace(A100, memory_bytes=2**30), 1, 16)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"131\.4 GiB of weights.*72\.0 GiB: it fits on 2 GPUs"):
        kv_capacity_blocks(load_shape("llama-3.1-70b"), A100, 1, 16)


def refusal(step: LargestStep, model: str = "llama-3.1-8b", tp: int = 1) -> str:
    return error_of(lambda: kv_capacity_blocks(load_shape(model), A100, tp, 16, step=step))


def test_a_step_that_does_not_fit_names_its_setting() -> None:
    assert refusal(LargestStep(10**9, 256, tokens_by="a", logits_by="b")) == (
        "a: a step of 1,000,000,000 tokens needs 95,367.4 GiB per GPU at tp=1 beside 15.0 GiB of "
        "weights, a100-80g offers 72.0 GiB: lower it or set run.kv_blocks"
    )
    assert refusal(LargestStep(10**5, 10**5, tokens_by="a", logits_by="b")) == (
        "b: a step with 100,000 rows of logits needs 119.4 GiB per GPU at tp=1 beside 15.0 GiB of "
        "weights, a100-80g offers 72.0 GiB: lower it or set run.kv_blocks"
    )


def test_advice_reckons_with_the_step() -> None:
    """Two GPUs are enough for the weights, and not for a step of the model's length as well."""
    long = LargestStep(131_072, 256, tokens_by="a", logits_by="b")
    assert "it fits on 2 GPUs" in refusal(LargestStep(), "llama-3.1-70b")
    assert "it fits on 4 GPUs" in refusal(long, "llama-3.1-70b")
    assert refusal(long, "llama-3.1-70b", 2).startswith("a: a step of 131,072 tokens needs 14.5 ")
    assert refusal(long, "llama-3.1-70b", 2).endswith("set run.kv_blocks or run.tp=4")


def test_a_step_of_no_setting_is_not_blamed() -> None:
    assert refusal(LargestStep(10**9, 256)).startswith("llama-3.1-8b needs 15.0 GiB of weights")
