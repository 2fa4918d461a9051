"""Small models: where no large one is needed, and what a CPU can carry."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from executor.models import Model, load_model
from experiments.gpu_check.checks import Context
from experiments.gpu_check.setting import device_of, dtype_of

SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 2048,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
TINY = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
}


def config_file(context: Context, name: str, sizes: Mapping[str, object]) -> str:
    """A `config.json` of the small model with some other sizes, in a folder of this process: those
    that rehearse side by side would read what others are writing.
    """
    return _written(context.work / f"{name}-{os.getpid()}", sizes)


def tiny_config(context: Context) -> str:
    """A `config.json` that a CPU can carry."""
    return _written(context.work / "tiny", TINY)


def small_model(context: Context, int8: bool = False, **sizes: object) -> Model:
    """A Llama of three layers with random weights."""
    source = config_file(context, "small", sizes)
    place = {"device": device_of(context), "dtype": dtype_of(context)}
    return load_model(source, random_weights=True, int8=int8, **place)


def _written(folder: Path, sizes: Mapping[str, object]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**SMALL, **sizes}), encoding="utf-8")
    return str(path)
