"""Folders of models with drawn weights, written without any other library's models."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from safetensors.torch import save_file

from executor.kernels.reference import TorchOps
from executor.models import load_model
from executor.models.weights import RandomWeights
from modelkit.harness import CPU

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
}


def config_file(folder, config=LLAMA, **changes):
    """A `config.json` in the folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(config | changes))
    return path


def drawn_folder(folder, config=LLAMA, seed=0, **changes):
    """A folder with weights under the names for which a model asks."""
    path, asked = config_file(folder, config, **changes), {}
    plain = RandomWeights.fill

    def fill(self, out, piece):
        asked[piece.name] = replace(piece, part=(), transposed=False, std=_std(piece))
        plain(self, out, piece)

    RandomWeights.fill = fill
    try:
        load_model(path, device=CPU, dtype=torch.float32, random_weights=True, ops=TorchOps())
    finally:
        RandomWeights.fill = plain
    tensors = {name: torch.empty(piece.shape) for name, piece in asked.items()}
    for name, tensor in tensors.items():
        plain(RandomWeights(CPU, seed), tensor, asked[name])
    save_file(tensors, folder / "model.safetensors")
    return folder


def _std(piece):
    """Keep the spread of a matrix that is stored the other way round."""
    turned = piece.transposed and piece.std is None
    return piece.shape[0] ** -0.5 if turned else piece.std
