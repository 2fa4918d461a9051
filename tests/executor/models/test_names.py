"""Other spellings of tensor names, and weights in many files."""

from __future__ import annotations

import json

import pytest
import torch
from modelkit.folders import LLAMA, drawn_folder
from modelkit.harness import CPU, Harness
from safetensors.torch import load_file, save_file

from executor.kernels.reference import TorchOps
from executor.models import load_model

EXPERTS = {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2}
CONFIGS = {"llama": LLAMA, "mixtral": LLAMA | EXPERTS, "gpt2": GPT2 | {"n_positions": 64}}


def logits(folder, int8=False):
    model = load_model(folder, device=CPU, dtype=torch.float32, ops=TorchOps(), int8=int8)
    harness = Harness(model)
    sequence = harness.sequence([3, 1, 4, 1, 5, 9], 16)
    harness.step([], [(sequence, 6)])
    return sequence.logits[5]


def rewritten(folder, change, int8=False):
    """The folder's logits after its tensors went through `change`."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({k: v.contiguous() for k, v in change(tensors).items()}, path)
    return logits(folder, int8)


@pytest.mark.parametrize("kind", CONFIGS)
def test_files_of_a_bare_model(tmp_path, kind):
    drawn_folder(tmp_path, CONFIGS[kind])
    wanted = logits(tmp_path)

    def bare(tensors):
        return {
            name.removeprefix("model.").removeprefix("transformer."): tensor
            for name, tensor in tensors.items()
        }

    assert torch.equal(rewritten(tmp_path, bare), wanted)


@pytest.mark.parametrize("int8", [False, True])
def test_experts_that_are_stacked(tmp_path, int8):
    drawn_folder(tmp_path, CONFIGS["mixtral"])
    wanted = logits(tmp_path, int8)

    def stacked(tensors):
        kept = {name: tensor for name, tensor in tensors.items() if "block_sparse" not in name}
        for layer in range(3):
            single, prefix = (f"model.layers.{layer}.{x}" for x in ("block_sparse_moe.", "mlp."))
            parts = {
                name: torch.stack([tensors[f"{single}experts.{e}.{name}.weight"] for e in range(3)])
                for name in ("w1", "w2", "w3")
            }
            kept[prefix + "gate.weight"] = tensors[single + "gate.weight"]
            kept[prefix + "experts.gate_up_proj"] = torch.cat((parts["w1"], parts["w3"]), 1)
            kept[prefix + "experts.down_proj"] = parts["w2"]
        return kept

    assert torch.equal(rewritten(tmp_path, stacked, int8), wanted)


def test_shards_with_and_without_an_index(tmp_path):
    drawn_folder(tmp_path)
    wanted, tensors = logits(tmp_path), load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    places = {name: f"part-{n % 3}.safetensors" for n, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        held = {name: tensors[name] for name in tensors if places[name] == file}
        save_file(held, tmp_path / file)
    assert torch.equal(logits(tmp_path), wanted)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(logits(tmp_path), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_another_type_are_converted(tmp_path, dtype):
    drawn_folder(tmp_path)
    wanted = logits(tmp_path)

    def converted(tensors):
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    found = rewritten(tmp_path, converted)
    assert (found - wanted).norm() / wanted.norm() < 0.02


def test_a_rank_reads_its_part_alone(tmp_path, monkeypatch):
    """What is read of split matrices is half of them."""
    from executor.models import Group, weights

    drawn_folder(tmp_path)
    read = []
    whole = weights.FileWeights._read
    monkeypatch.setattr(
        weights.FileWeights,
        "_read",
        lambda self, piece: read.append((piece.name, tensor := whole(self, piece))) or tensor,
    )
    settings = {"device": CPU, "dtype": torch.float32, "ops": TorchOps()}
    load_model(tmp_path, group=Group(1, 2), **settings)
    shapes = {name: tuple(tensor.shape) for name, tensor in read}
    layer = "model.layers.0."
    assert shapes[layer + "self_attn.q_proj.weight"] == (32, 64)
    assert shapes[layer + "self_attn.k_proj.weight"] == (16, 64)
    assert shapes[layer + "self_attn.o_proj.weight"] == (64, 32)
    assert shapes[layer + "mlp.down_proj.weight"] == (64, 64)
    assert shapes["lm_head.weight"] == (150, 64)
    full = load_file(tmp_path / "model.safetensors")
    found = dict(read)[layer + "self_attn.o_proj.weight"]
    assert torch.equal(found, full[layer + "self_attn.o_proj.weight"][:, 32:])
