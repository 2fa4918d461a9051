"""Decoders against transformers: logits, and greedy tokens where they are clear."""

from __future__ import annotations

import random

import pytest
import torch
from modelkit.harness import CPU, Harness, check, saved, transformers
from modelkit.plain_ops import PlainOps

from executor.models import load_model

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
GPT2 = {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0}
CASES = {
    "gqa": ("Llama", {}),
    "one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "three-per-group": ("Llama", {"hidden_size": 96, "num_attention_heads": 6}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0}},
    ),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {}),
    "gpt2-wide": ("GPT2", {"n_inner": 96, "tie_word_embeddings": False}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """A model here, and the same in transformers."""
    kind, extra = CASES[request.param]
    library = transformers()
    sizes, name = (GPT2, "LMHeadModel") if kind == "GPT2" else (SIZES, "ForCausalLM")
    config = getattr(library, f"{kind}Config")(**(sizes | extra))
    folder = tmp_path_factory.mktemp(request.param)
    oracle = saved(getattr(library, kind + name)(config), folder)
    ours = load_model(folder, device=CPU, dtype=torch.float32, block_tokens=16, ops=PlainOps())
    return ours, oracle


def prompt(length, seed=0):
    return random.Random(seed).choices(range(97), k=length)


def test_prompt_and_greedy_tokens(pair):
    ours, oracle = pair
    harness = Harness(ours)
    for length in (1, 16, 41):
        sequence = harness.sequence(prompt(length, length), length + 8)
        harness.generate(sequence, 6)
        assert len(sequence.logits) == 6
        check(sequence, oracle)
