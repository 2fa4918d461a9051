"""How many KV blocks fit beside the weights, counted the way vLLM or TensorRT-LLM does.

`floor((memory * utilisation - weights - activation reserve) * free share / block bytes)`, per GPU.
vLLM has a utilisation and takes all that is left; TensorRT-LLM has a share of what is free. vLLM
finds the reserve by a dummy forward of the largest batch; here a formula stands in for it.
"""

from __future__ import annotations

import math

from superinfer.costs.devices import GIB, DeviceSpec
from superinfer.costs.shapes import ModelShape
from superinfer.errors import ConfigError


def activation_reserve_bytes(
    shape: ModelShape,
    tp: int = 1,
    max_batched_tokens: int = 8192,
    max_sequences: int = 256,
) -> int:
    """Peak activation bytes of one step on one GPU, an estimate.

    The larger of the MLP's peak (residual, its input, and the up projection with its activation:
    2 hidden + 3 intermediate / tp values per token) and the sampler's (16-bit logits with two
    32-bit copies: 10 bytes per vocabulary entry and sequence).
    """
    width = 2 * shape.hidden + 3 * shape.intermediate // tp
    layers = max_batched_tokens * width * shape.dtype_bytes
    return max(layers, max_sequences * shape.vocab * 10)


def kv_capacity_blocks(
    shape: ModelShape,
    device: DeviceSpec,
    tp: int,
    block_tokens: int,
    gpu_memory_utilization: float = 0.90,
    free_share: float = 1.0,
) -> int:
    """KV blocks of `block_tokens` per GPU; ConfigError when the weights leave room for none.

    They take `free_share` of what weights and activations leave free.
    """
    if not device.memory_bytes:
        raise ConfigError(f"{device.name}: its memory is not known: set run.kv_blocks")
    free = _free_bytes(shape, device, tp, gpu_memory_utilization)
    blocks = math.floor(free * free_share / (shape.kv_bytes_per_token(tp) * block_tokens))
    if blocks >= 1:
        return blocks
    weights = shape.weight_bytes(tp) / GIB
    room = device.memory_bytes * gpu_memory_utilization / GIB
    raise ConfigError(
        f"{shape.name} needs {weights:.1f} GiB of weights per GPU at tp={tp} and {device.name} "
        f"offers {room:.1f} GiB: " + _advice(shape, device, block_tokens, gpu_memory_utilization)
    )


def _free_bytes(shape: ModelShape, device: DeviceSpec, tp: int, utilization: float) -> float:
    taken = shape.weight_bytes(tp) + activation_reserve_bytes(shape, tp)
    return device.memory_bytes * utilization - taken


def _advice(shape: ModelShape, device: DeviceSpec, block_tokens: int, utilization: float) -> str:
    for tp in (1, 2, 4, 8, 16, 32):
        if shape.heads % tp:
            continue
        free = _free_bytes(shape, device, tp, utilization)
        if free >= shape.kv_bytes_per_token(tp) * block_tokens:
            return f"it fits on {tp} GPUs"
    return "no number of GPUs up to 32 is enough"
