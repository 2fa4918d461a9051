"""Decoders against transformers: logits, and greedy tokens where they are clear."""

from __future__ import annotations

import random

import pytest
import torch
from modelkit.harness import CPU, Harness, check, saved, transformers

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
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "three-per-group": ("Llama", {"hidden_size": 96, "num_attention_heads": 6}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "llama3": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "llama3.2": (
        "Llama",
        {"rope_parameters": LLAMA3 | {"factor": 32.0}, "tie_word_embeddings": True},
    ),
    "linear": ("Llama", {"rope_parameters": LINEAR}),
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
    ours = load_model(folder, device=CPU, dtype=torch.float32, block_tokens=16)
    return ours, oracle


def prompt(length, seed=0):
    return random.Random(seed).choices(range(97), k=length)


def test_prompts_and_greedy_tokens(pair):
    ours, oracle = pair
    harness = Harness(ours)
    for length in (1, 16, 41):
        sequence = harness.sequence(prompt(length, length), length + 8)
        harness.generate(sequence, 6)
        assert len(sequence.logits) == 6
        check(sequence, oracle)


def test_a_mixed_batch_in_any_order(pair):
    """Decodes of different lengths beside chunks; some rows are padding, and order is free."""
    ours, oracle = pair
    for seed in range(2):
        shuffled = random.Random(seed)
        harness = Harness(ours)
        old = [harness.sequence(prompt(length, length), length + 8) for length in (1, 15, 16, 33)]
        new = [harness.sequence(prompt(length, length), length + 8) for length in (5, 20, 32)]
        for sequence in old:
            harness.generate(sequence, 1)
        shuffled.shuffle(old)
        shuffled.shuffle(new)
        harness.step(old, [(s, min(11, len(s.tokens))) for s in new], pad_rows=6, pad_items=30)
        rest = [(s, len(s.tokens) - s.done) for s in new if s.done < len(s.tokens)]
        harness.step([], rest)
        harness.decode(new + old[::-1], 3)
        for sequence in old + new:
            check(sequence, oracle)


def test_some_chunk_sizes(pair):
    ours, oracle = pair
    tokens = prompt(35, 1)
    for size in (1, 7, 16, 33):
        harness = Harness(ours)
        sequence = harness.sequence(tokens, 40)
        harness.generate(sequence, 2, size)
        check(sequence, oracle)


@pytest.mark.slow
def test_all_chunk_sizes(pair):
    ours, oracle = pair
    for size in range(1, 36):
        harness = Harness(ours)
        sequence = harness.sequence(prompt(35, size), 40)
        harness.generate(sequence, 2, size)
        check(sequence, oracle)
