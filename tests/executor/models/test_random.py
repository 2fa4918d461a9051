"""Models of random weights, int8 weights, presets, and what cannot be loaded."""

from __future__ import annotations

import math

import pytest
import torch
from modelkit.folders import config_file, drawn_folder
from modelkit.harness import CPU, Harness
from modelkit.plain_ops import PlainOps

from executor.models import load_model
from executor.models.config import read_config
from executor.models.weights import Piece, RandomWeights, quantise_rows
from superinfer.costs.shapes import PRESETS
from superinfer.errors import ConfigError

UNKNOWN = ("opt-30b", "opt-175b", "qwen3-30b-a3b")
"""Presets of which the simulator alone knows the sizes."""


def load(path, **changes):
    settings = {"device": CPU, "dtype": torch.float32, "block_tokens": 16, "ops": PlainOps()}
    return load_model(path, **({"random_weights": True} | settings | changes))


def logits(model, tokens=(5, 17, 3, 99, 250, 8)):
    harness = Harness(model)
    sequence = harness.sequence(tokens, 16)
    harness.step([], [(sequence, len(tokens))])
    return sequence.logits[len(tokens) - 1]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral"])
@pytest.mark.parametrize("int8", [False, True])
def test_random_weights_are_lively_and_repeatable(tmp_path, kind, int8):
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "mixtral" else {}
    path = config_file(tmp_path, model_type=kind, **experts)
    first = logits(load(path, int8=int8, seed=3))
    assert first.isfinite().all()
    assert 0.3 < first.std() < 3
    assert torch.equal(first, logits(load(path, int8=int8, seed=3)))
    assert not torch.equal(first, logits(load(path, int8=int8, seed=4)))


def test_the_part_of_a_random_tensor_is_that_of_the_whole():
    weights = RandomWeights(CPU, 1)
    whole, part = torch.empty(8, 6), torch.empty(3, 6)
    weights.fill(whole, Piece("a", (8, 6)))
    weights.fill(part, Piece("a", (8, 6), (slice(2, 5), slice(None))))
    assert torch.equal(whole[2:5], part)
    turned = torch.empty(6, 8)
    weights.fill(turned, Piece("a", (8, 6), transposed=True))
    codes, scales = torch.empty(8, 6, dtype=torch.int8), torch.empty(8)
    few, few_scales = torch.empty(8, 2, dtype=torch.int8), torch.empty(8)
    weights.fill_int8(codes, scales, Piece("b", (8, 6)))
    weights.fill_int8(few, few_scales, Piece("b", (8, 6), (slice(None), slice(1, 3))))
    assert torch.equal(codes[:, 1:3], few)
    assert torch.equal(scales, few_scales)


@pytest.mark.parametrize("shape", [(400, 256), (256, 400)])
def test_spread_of_random_weights(shape):
    weights, wanted = RandomWeights(CPU, 0), 1 / math.sqrt(shape[1])
    values = torch.empty(shape)
    weights.fill(values, Piece("a", shape))
    assert values.std() == pytest.approx(wanted, rel=0.02)
    codes, scales = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0])
    weights.fill_int8(codes, scales, Piece("a", shape))
    assert (codes * scales[:, None]).std() == pytest.approx(wanted, rel=0.02)
    assert codes.min() == -127 and codes.max() == 127


def test_rows_are_quantised_by_their_largest_value():
    weight = torch.tensor([[0.5, -1.27, 0.01], [0.0, 0.0, 0.0]])
    codes, scales = torch.empty(2, 3, dtype=torch.int8), torch.empty(2)
    quantise_rows(weight, codes, scales)
    assert codes.tolist() == [[50, -127, 1], [0, 0, 0]]
    assert scales[0] == pytest.approx(0.01)


@pytest.mark.parametrize("tied", [False, True])
def test_int8_weights_are_close_to_what_they_stand_for(tmp_path, tied):
    """A folder's weights as they are, as int8, and as int8 but for the head."""
    folder = drawn_folder(tmp_path, tie_word_embeddings=tied)
    exact = logits(load(folder, random_weights=False))
    close = logits(load(folder, random_weights=False, int8=True))
    closer = logits(load(folder, random_weights=False, int8=True, int8_head=False))
    assert 1e-4 < (exact - closer).norm() / exact.norm() < 0.03
    assert 1e-4 < (exact - close).norm() / exact.norm() < 0.03
    assert not torch.equal(close, closer)


def test_experts_become_int8(tmp_path):
    """All experts work on every token, so that rounding cannot send one elsewhere."""
    experts = {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 2}
    folder = drawn_folder(tmp_path, **experts)
    exact = logits(load(folder, random_weights=False))
    model = load(folder, random_weights=False, int8=True)
    for layer in model._layers:
        assert layer.mlp.gate_up.weight.dtype == layer.mlp.down.weight.dtype == torch.int8
        assert layer.mlp.router.dtype == torch.float32
    assert 1e-4 < (exact - logits(model)).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in UNKNOWN])
def test_every_preset_has_settings(name):
    config, folder = read_config(name)
    assert folder is None
    assert config.shape is PRESETS[name]
    families = {"gpt2": "gpt2", "mixtral-8x7b": "mixtral", "t5-base": "t5", "flan-t5-xl": "t5"}
    assert config.family == families.get(name, "llama")


@pytest.mark.parametrize("name", UNKNOWN)
def test_presets_that_only_the_simulator_knows(name):
    assert name in PRESETS
    with pytest.raises(ConfigError, match=f"unknown architecture of {name}"):
        read_config(name)


def test_settings_of_presets():
    llama3 = read_config("meta-llama/Llama-3.1-8B-Instruct")[0]
    assert (llama3.rope.kind, llama3.rope.theta, llama3.rope.factor) == ("llama3", 5e5, 8.0)
    assert read_config("llama-2-7b")[0].rope.theta == 1e4
    assert read_config("qwen3-32b")[0].qk_norm
    assert read_config("qwen2.5-32b")[0].qkv_bias
