"""A small model of each family that the kernels fit, and what it gives."""

from __future__ import annotations

import torch

from executor.models import load_model
from executor.models.seq2seq import generate
from executor.models.t5 import T5
from modelkit.folders import LLAMA
from modelkit.harness import Harness

SMALL = {"num_hidden_layers": 1, "hidden_size": 128, "num_attention_heads": 2}
GPT2 = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 128, "n_layer": 1, "n_head": 2}
FLAN = {
    "model_type": "t5",
    "vocab_size": 300,
    "d_model": 96,
    "d_kv": 64,
    "d_ff": 128,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}
EXPERTS = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
GROUPED = SMALL | {"num_key_value_heads": 1}
CASES = {
    "llama": (LLAMA | GROUPED, False),
    "llama-int8": (LLAMA | GROUPED, True),
    "qwen3": (LLAMA | GROUPED | {"model_type": "qwen3", "head_dim": 64}, False),
    "mixtral": (LLAMA | GROUPED | EXPERTS, False),
    "mixtral-int8": (LLAMA | GROUPED | EXPERTS, True),
    "gpt2": (GPT2 | {"n_positions": 128}, False),
    "t5": (FLAN, False),
}
PROMPTS = ([5, 9, 60, 7, 7, 31, 2, 80] * 3, [3] * 17 + [11, 12])


def outcome(model):
    """Logits of a chunk, of a mixed step and of decodes that are padded."""
    harness = Harness(model)
    first, second = (harness.sequence(prompt, 32) for prompt in PROMPTS)
    harness.step([], [(first, 20)])
    harness.step([], [(first, 4)])
    first.tokens.append(17)
    harness.step([first], [(second, 19)])
    for sequence in (first, second):
        sequence.tokens.append(4)
    harness.step([second, first], pad_rows=4, pad_items=6)
    rows = [row for s in (first, second) for _, row in sorted(s.logits.items())]
    return torch.stack(rows).cpu()


def outcome_of_t5(model):
    """Logits of the last of some steps, with the encoder's blocks."""
    kept = []
    forward = model.forward
    model.forward = lambda *inputs: kept.append(forward(*inputs)) or kept[-1]
    generate(model, PROMPTS, 2)
    return torch.cat(kept).cpu()


def both(folder, wanted, given, **changes):
    """What two devices or sets of operations give for the same weights."""
    found = []
    for settings in (wanted, given):
        model = load_model(folder, block_tokens=16, **(settings | changes))
        found.append((outcome_of_t5 if isinstance(model, T5) else outcome)(model))
    return found
