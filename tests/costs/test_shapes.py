"""Known parameter counts, KV bytes, and shapes read from Hugging Face configs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from superinfer.costs.shapes import PRESETS, load_shape
from superinfer.errors import ConfigError, InputError

PARAMETERS = {
    "llama-2-7b": 6.74e9,
    "llama-2-13b": 13.02e9,
    "llama-2-70b": 68.98e9,
    "llama-3-8b": 8.03e9,
    "llama-3.1-8b": 8.03e9,
    "llama-3.1-70b": 70.55e9,
    "llama-3.1-405b": 405.85e9,
    "mixtral-8x7b": 46.7e9,
    "qwen2.5-32b": 32.76e9,
    "qwen3-32b": 32.76e9,
    "gpt2": 124.4e6,
    "opt-30b": 29.97e9,
    "opt-175b": 174.6e9,
    "t5-base": 222.9e6,
    "flan-t5-xl": 2.85e9,
}

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


def write(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_the_published_ones(name: str, parameters: float) -> None:
    assert PRESETS[name].parameters == pytest.approx(parameters, rel=0.01)


def test_kv_bytes_per_token() -> None:
    shape = load_shape("llama-3.1-8b")
    assert [shape.kv_bytes_per_token(tp) for tp in (1, 2, 8, 16)] == [131072, 65536, 16384, 16384]
    assert load_shape("t5-base").kv_bytes_per_token(1) == 2 * 12 * 12 * 64 * 2


def test_weights_divide_by_tensor_parallelism() -> None:
    shape = load_shape("llama-3.1-70b")
    assert shape.weight_bytes(1) == 2 * shape.parameters
    assert shape.weight_bytes(4) == pytest.approx(shape.weight_bytes(1) / 4, rel=1e-3)
    with pytest.raises(ConfigError, match="tp=3 does not divide the 64 attention heads"):
        shape.weight_bytes(3)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B-Instruct"])
def test_names_in_any_spelling(name: str) -> None:
    assert load_shape(name) is PRESETS["llama-3.1-8b"]


@pytest.mark.parametrize(
    ("name", "preset"),
    [("GPT-2", "gpt2"), ("t5", "t5-base"), ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b")],
)
def test_aliases(name: str, preset: str) -> None:
    assert load_shape(name).name == preset


def test_llama_config_equals_the_preset(tmp_path: Path) -> None:
    for path in (write(tmp_path, LLAMA), tmp_path):
        shape = load_shape(path)
        assert shape.parameters == PRESETS["llama-3.1-8b"].parameters
        assert (shape.name, shape.head_dim) == (tmp_path.name, 128)


def test_tied_embeddings_and_explicit_head_dim(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 64}
    shape = load_shape(write(tmp_path, config))
    assert shape.tied_embeddings
    assert shape.kv_bytes_per_token(1) == 65536


def test_mixtral_config(tmp_path: Path) -> None:
    config = LLAMA | {
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 32000,
    }
    assert load_shape(write(tmp_path, config)).parameters == PRESETS["mixtral-8x7b"].parameters


def test_qwen3_moe_config_has_other_names_for_its_experts(tmp_path: Path) -> None:
    config = LLAMA | {
        "model_type": "qwen3_moe",
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    }
    shape = load_shape(write(tmp_path, config))
    assert (shape.experts, shape.experts_per_token, shape.intermediate) == (128, 8, 768)
    assert shape.qk_norm and not load_shape("llama-3.1-8b").qk_norm
    assert PRESETS["qwen3-32b"].qk_norm


def test_eight_bits_halve_matrices_and_cache_but_not_the_vocabulary() -> None:
    plain = load_shape("llama-3.1-70b")
    fp8 = replace(plain, weight_dtype="fp8", kv_dtype="fp8")
    vocabulary = 2 * plain.vocab * plain.hidden * 2
    norms = (2 * plain.layers + 1) * plain.hidden * 2
    halved = (plain.weight_bytes() - vocabulary - norms) // 2
    assert fp8.weight_bytes() == halved + vocabulary + norms
    assert fp8.kv_bytes_per_token(8) == plain.kv_bytes_per_token(8) // 2


def test_gpt2_config(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12}
    config |= {"n_positions": 1024, "vocab_size": 50257}
    assert load_shape(write(tmp_path, config)).parameters == PRESETS["gpt2"].parameters


def test_t5_config(tmp_path: Path) -> None:
    config = {"model_type": "t5", "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24}
    config |= {"num_heads": 32, "vocab_size": 32128, "tie_word_embeddings": False}
    config |= {"feed_forward_proj": "gated-gelu"}
    assert load_shape(write(tmp_path, config)).parameters == PRESETS["flan-t5-xl"].parameters


def test_unknown_name_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'opt-66b'.*llama-3\.1-8b"):
        load_shape("opt-66b")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "model_type: expected one of llama"),
        ({"model_type": "llama"}, "hidden_size: expected an integer >= 1, found None"),
        (LLAMA | {"vocab_size": -1}, "vocab_size: expected an integer >= 1, found -1"),
        ([1], "expected a JSON object"),
    ],
)
def test_bad_configs_name_the_field(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_shape(write(tmp_path, config))


def test_broken_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON: "):
        load_shape(tmp_path)
    (tmp_path / "config.json").write_bytes('{"a": "\xe9"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"expected JSON in UTF-8$"):
        load_shape(tmp_path)
