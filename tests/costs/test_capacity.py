"""KV blocks beside the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superinfer.costs import DEVICES, kv_capacity_blocks, load_shape
from superinfer.costs.capacity import activation_reserve_bytes
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
