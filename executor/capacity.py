"""How many KV blocks a device has room for beside a model, and the steps that warm it up."""

from __future__ import annotations

import numpy as np
import torch

from executor.device import free_bytes
from executor.inputs import ChunkRows, DecodeRow, build_inputs
from executor.kernels.ops import Ops
from executor.kv.arena import blocks_within
from executor.kv.layout import KVLayout
from executor.kv.tables import BlockTable
from executor.models import Model
from executor.runner import peak_bytes
from superinfer.errors import ConfigError
from superinfer.memory.slabs import ONE_BLOCK_SLABS, SLAB_BYTES, Slabs, slabs_of
from superinfer.schedulers.base import Scheduler

HOST_CACHE_BYTES = 256 << 20
"""KV cache on a CPU, where nothing says more."""
WARM_UP_TOKENS = 8192
"""Prefill tokens of a step, if the scheduler names no budget of its own."""
WARM_UP_ROWS = 256
WARM_UP_CHUNKS = (1, 16, 64, 256, 1024)
"""Tokens of chunks for which kernels may have tiles of their own."""
FEWEST_SLABS = 32
"""A small arena has smaller slabs, so that its precisions can still share it."""


def slab_bytes(nbytes: int, device: torch.device) -> int:
    """Of a slab of an arena of so many bytes."""
    return min(SLAB_BYTES, max(1, nbytes // FEWEST_SLABS))


def slabs_for(layout: KVLayout, blocks: int, device: torch.device, smaller: bool) -> Slabs:
    """How blocks of all precisions share an arena of so many 16-bit blocks."""
    if not smaller:
        return ONE_BLOCK_SLABS
    sizes = layout.block_bytes
    return slabs_of(sizes[16], sizes[8], sizes[4], slab_bytes(blocks * sizes[16], device))


def blocks_that_fit(model: Model, share: float, scheduler: Scheduler, smaller: bool) -> int:
    """16-bit blocks beside the weights and what a largest step needs; on a CPU a fixed amount.

    Raises ConfigError where there is room for none.
    """
    if model.device.type != "cuda":
        room = HOST_CACHE_BYTES
    else:
        tokens = int(getattr(scheduler, "max_num_batched_tokens", 0) or WARM_UP_TOKENS)
        tokens = min(tokens, model.max_model_len)
        peak = peak_bytes(lambda: warm_up(model, tokens, WARM_UP_ROWS), model.device)
        room = free_bytes(model.device, share) - peak
    blocks, _ = blocks_within(max(0, room), model.layout, smaller, slab_bytes(room, model.device))
    if blocks < 1:
        raise ConfigError(
            f"no room for KV cache: {room / 2**30:.1f} GiB are left of "
            f"run.gpu_memory_utilization={share} beside the weights and a step's own needs"
        )
    return blocks


def warm_up(model: Model, tokens: int, rows: int) -> None:
    """Run the largest prefill and the largest decode over one block, whose content is of no
    interest.
    """
    layout = model.layout
    arena = torch.zeros(layout.block_bytes[16], dtype=torch.uint8, device=model.device)
    table = BlockTable()
    table.append(np.zeros(-(-tokens // layout.block_tokens), np.int64), 16)
    chunk = ChunkRows(table, 0, np.zeros(tokens, np.int64), True)
    decodes = [DecodeRow(table, 1, 0)] * rows
    for step in (
        build_inputs([], [chunk], layout, model.device, item_blocks=1),
        build_inputs(decodes, [], layout, model.device, item_blocks=1),
    ):
        model.forward(step, arena)


def compile_kernels(model: Model, ops: Ops, smaller: bool) -> None:
    """Let everything that is compiled when it is first used be compiled before the clock starts."""
    for tokens in WARM_UP_CHUNKS:
        warm_up(model, min(tokens, model.max_model_len), min(tokens, WARM_UP_ROWS))
    if not smaller:
        return
    size = model.layout.block_bytes[16]
    arena = torch.zeros(2 * size, dtype=torch.uint8, device=model.device)
    source, target = torch.tensor([[0], [size]], device=model.device)
    for from_bits, to_bits in ((16, 8), (16, 4), (8, 4)):
        ops.requantise(arena, model.layout, source, target, from_bits, to_bits)
    ops.copy_blocks(arena, source, target, model.layout.block_bytes[4])
