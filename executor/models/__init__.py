"""Models: what they compute, where their weights come from, and how to get one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from executor.device import free_host_bytes, is_out_of_memory
from executor.kernels.ops import Ops, ops_for
from executor.models.base import Model, check_length
from executor.models.config import ModelConfig, read_config
from executor.models.gpt2 import load_gpt2
from executor.models.layers import Loader
from executor.models.llama import load_llama
from executor.models.mixtral import load_mixtral
from executor.models.parallel import Group, world
from executor.models.t5 import load_t5
from executor.models.weights import FileWeights, RandomWeights, Weights
from superinfer.costs.shapes import ModelShape
from superinfer.errors import ConfigError

__all__ = [
    "Group",
    "Model",
    "check_length",
    "load_model",
    "require_memory",
    "require_weights",
    "world",
]

_OLDEST_GPU = (8, 0)
_FAMILIES: dict[str, Callable[[ModelConfig, Loader, int, int], Model]] = {
    "llama": load_llama,
    "mixtral": load_mixtral,
    "gpt2": load_gpt2,
    "t5": load_t5,
}


def load_model(  # noqa: PLR0913
    source: str | Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    random_weights: bool = False,
    int8: bool = False,
    int8_head: bool = True,
    block_tokens: int = 32,
    max_model_len: int | None = None,
    ops: Ops | None = None,
    seed: int = 0,
    group: Group | None = None,
) -> Model:
    """A model on a device.

    `source` is a preset's name (with `random_weights`), a `config.json` or the folder of one with
    its safetensors. `int8` keeps the weights of linear layers in 8 bits, the head's too unless
    `int8_head` is off; embeddings, norms and routers stay as they are. `ops` replaces the device's
    own operations, `group` says which ranks share the model (all of torch.distributed).
    Raises ConfigError or InputError where that cannot be.
    """
    config, folder = read_config(source)
    group = group or world()
    group.require(config.shape)
    device = _device(device)
    length = _context(config, max_model_len)
    ops = ops or _ops(device)
    weights = _weights(config, folder, str(source), device, seed if random_weights else None)
    if device.type == "cpu":
        require_memory(config.shape, group.size, 1 if int8 else dtype.itemsize)
    loader = Loader(weights, device, dtype, ops, group, int8, int8 and int8_head)
    try:
        with torch.no_grad():
            return _FAMILIES[config.family](config, loader, block_tokens, length)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(_too_large(config, device, group, length, dtype)) from None


def require_weights(source: str | Path, random_weights: bool) -> None:
    """Raise ConfigError or InputError unless there are files, or random weights, for a model."""
    config, folder = read_config(source)
    _weights(config, folder, str(source), torch.device("cpu"), 0 if random_weights else None)


def require_memory(shape: ModelShape, tp: int, weight_bytes: int, ranks: int = 1) -> None:
    """Raise ConfigError where main memory has no room for the weights of so many of `tp` ranks: the
    system would end the process for them, without a word.

    A rank that loads asks for its own share alone, for others may have taken theirs already; who
    starts ranks on one machine asks for all of them before (`ranks.ranks_of`).
    """
    free = free_host_bytes()
    need = shape.gpu_parameters(tp) * ranks * weight_bytes
    if free is not None and need > free:
        raise ConfigError(
            f"out of memory at load: {shape.name} has {need / 2**30:.1f} GiB of weights at "
            f"{weight_bytes} bytes each, and {free / 2**30:.1f} GiB of memory are free"
        )


def _device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}: cpu and cuda are known") from None
    if found.type == "cuda":
        _require_gpu(found)
    return found


def _context(config: ModelConfig, asked: int | None) -> int:
    """Positions that the model is prepared for; a sliding window ends them."""
    limit = min(config.shape.max_model_len, config.window or config.shape.max_model_len)
    if asked is None:
        return limit
    # T5's distances have no end.
    if asked < 1 or (asked > limit and config.family != "t5"):
        raise ConfigError(f"max_model_len {asked} is not between 1 and the model's {limit}")
    return asked


def _layer_counts(config: ModelConfig) -> dict[str, int]:
    """Layers by what stands before their numbers in the names of tensors."""
    shape = config.shape
    if config.family == "t5":
        return {"encoder.block": shape.encoder_layers, "decoder.block": shape.layers}
    return {"h" if config.family == "gpt2" else "layers": shape.layers}


def _weights(
    config: ModelConfig, folder: Path | None, source: str, device: torch.device, seed: int | None
) -> Weights:
    """Random weights where there is a seed, else the folder's."""
    if seed is not None:
        return RandomWeights(device, seed)
    if folder is None:
        expected = "expected a folder with weights, or --random-weights"
        raise ConfigError(f"preset {source!r} has no weights: {expected}")
    weights = FileWeights(folder)
    weights.require_all_layers(_layer_counts(config))
    return weights


def _ops(device: torch.device) -> Ops:
    """The operations of a device; one clear line where it has none."""
    try:
        return ops_for(device)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ConfigError("a GPU needs Triton: pip install 'superinfer[exec]'") from None


def _require_gpu(device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA device: use the device cpu")
    found = torch.cuda.get_device_capability(device)
    if found < _OLDEST_GPU:
        major, minor = found
        raise ConfigError(f"the GPU is too old: sm_{major}{minor}, sm_80 or newer is needed")


def _too_large(
    config: ModelConfig, device: torch.device, group: Group, positions: int, dtype: torch.dtype
) -> str:
    """What takes most of the memory: weights, or the tables of rotary positions (float32)."""
    shape = config.shape
    weights = shape.gpu_parameters(group.size)
    rotary = config.family not in ("gpt2", "t5")
    if rotary and positions * shape.head_dim * 4 > weights * dtype.itemsize:
        return (
            f"out of memory at load: tables for {positions} positions do not fit on {device}; "
            "lower --max-model-len"
        )
    need = weights / 1e9
    total = ""
    if device.type == "cuda":
        total = f" ({torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} GB)"
    return (
        f"out of memory at load: {shape.name} has {need:.1f} billion weights per GPU, too many for "
        f"{device}{total} with what it holds already; int8 weights take half of bf16's"
    )
