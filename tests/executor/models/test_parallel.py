"""Tensor parallelism: two ranks over gloo give what one process gives."""

from __future__ import annotations

import json

import pytest
import torch
from modelkit.harness import CLOSE, saved, transformers
from modelkit.ranks import outcome, rank

from executor.models import Group
from superinfer.costs.shapes import PRESETS
from superinfer.errors import ConfigError

SIZES = {
    "vocab_size": 98,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": 98, "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 2, "num_heads": 4}
CASES = {
    "llama": ("LlamaForCausalLM", SIZES | {"attention_bias": True, "mlp_bias": True}),
    "tied": ("LlamaForCausalLM", SIZES | {"tie_word_embeddings": True}),
    "one-kv-head": ("Qwen3ForCausalLM", SIZES | {"num_key_value_heads": 1, "head_dim": 16}),
    "mixtral": ("MixtralForCausalLM", SIZES | {"num_local_experts": 4}),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "t5": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
}


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(tmp_path):
    library, cases = transformers(), {}
    for name, (kind, sizes) in CASES.items():
        family = kind.partition("For")[0].removesuffix("LMHeadModel")
        config = getattr(library, f"{family}Config")(**sizes)
        saved(getattr(library, kind)(config), tmp_path / name)
        cases[name] = (tmp_path / name, {})
    cases["random"] = (tmp_path / "llama", {"random_weights": True})
    cases["random-int8"] = (tmp_path / "mixtral", {"random_weights": True, "int8": True})
    cases["int8"] = (tmp_path / "llama", {"int8": True})
    meeting = (tmp_path / "meeting").as_uri()
    torch.multiprocessing.spawn(rank, (2, meeting, cases, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{index}.pt") for index in range(2)]
    for name, (folder, changes) in cases.items():
        alone = outcome(folder, **changes)
        # Ranks have scales of their own for the inputs that they split.
        tolerance = 0.05 * alone["logits"].std() if name == "int8" else CLOSE
        for found in ranks:
            assert (found[name]["logits"] - alone["logits"]).abs().max() <= tolerance, name
            if name != "int8":
                assert found[name]["tokens"] == alone["tokens"], name
        assert torch.equal(ranks[0][name]["logits"], ranks[1][name]["logits"]), name


def test_shares_of_ranks():
    last = Group(3, 4)
    assert last.part(12) == slice(9, 12)
    assert last.kv_part(8) == slice(6, 8)
    assert [Group(n, 4).kv_part(2) for n in range(4)] == [
        slice(n // 2, n // 2 + 1) for n in range(4)
    ]


@pytest.mark.parametrize(
    ("model", "size", "match"),
    [
        ("llama-3.1-8b", 3, "tp=3 does not divide the 32 attention heads"),
        ("qwen2.5-32b", 5, "tp=5 does not fit the KV heads"),
        ("t5-base", 12, None),
    ],
)
def test_groups_that_do_not_fit(model, size, match):
    if match is None:
        Group(0, size).require(PRESETS[model])
        return
    with pytest.raises(ConfigError, match=match):
        Group(0, size).require(PRESETS[model])


def test_columns_have_to_divide(tmp_path):
    from superinfer.costs.shapes import load_shape

    path = tmp_path / "config.json"
    sizes = SIZES | {"model_type": "llama", "intermediate_size": 95}
    path.write_text(json.dumps(sizes))
    with pytest.raises(ConfigError, match="tp=2 does not fit the MLP columns"):
        Group(0, 2).require(load_shape(path))
