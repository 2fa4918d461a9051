"""How many KV blocks a device has room for beside a model, and the sizes that follow from it."""

from __future__ import annotations

import torch

from executor.device import free_bytes
from executor.kv.arena import HostArena, blocks_within
from executor.kv.layout import KVLayout
from executor.models import Model
from executor.ranks.orders import Channel
from executor.steps.runner import peak_bytes
from executor.warm_up import WARM_UP_ROWS, most_rows, most_tokens, warm_up
from superinfer.engine import Engine, EngineConfig
from superinfer.errors import ConfigError
from superinfer.lab.config import RunConfig
from superinfer.memory.blocks.slabs import NO_SMALL, ONE_BLOCK_SLABS, SLAB_BYTES, Slabs, slabs_of
from superinfer.schedulers.base import Scheduler, largest_step_of

HOST_CACHE_BYTES = 256 << 20
"""KV cache on a CPU, where nothing says more."""
FEWEST_SLABS = 32
"""A small arena has smaller slabs, so that its precisions can still share it."""
PINNED_AT_ONCE_BYTES = 8 << 30


def slab_bytes(nbytes: int) -> int:
    """Of a slab of an arena of so many bytes."""
    return min(SLAB_BYTES, max(1, nbytes // FEWEST_SLABS))


def slabs_for(layout: KVLayout, blocks: int, smaller: bool) -> Slabs:
    """How blocks of all precisions share an arena of so many 16-bit blocks."""
    if not smaller:
        return ONE_BLOCK_SLABS
    sizes = layout.block_bytes
    return slabs_of(sizes[16], sizes[8], sizes[4], slab_bytes(blocks * sizes[16]))


def step_tokens(scheduler: Scheduler, max_model_len: int, prefix_caching: bool) -> int:
    """Prefill tokens of the largest step that a scheduler may plan, and at least those with which
    a run is warmed up: where prompts are never cut, the longest one may come whole.
    """
    step = largest_step_of(scheduler, max_model_len, prefix_caching)
    planned = getattr(scheduler, "largest_prefill", None)
    most = planned(max_model_len) if planned else 0
    return max(step.tokens, most, most_tokens(scheduler))


def blocks_that_fit(
    model: Model, share: float, scheduler: Scheduler, smaller: bool, prefix_caching: bool
) -> int:
    """16-bit blocks beside the weights and what a largest step needs; on a CPU a fixed amount.

    Raises ConfigError where there is room for none.
    """
    if model.device.type != "cuda":
        room = HOST_CACHE_BYTES
    else:
        tokens = step_tokens(scheduler, model.max_model_len, prefix_caching)
        rows = max(WARM_UP_ROWS, most_rows(scheduler))
        peak = peak_bytes(lambda: warm_up(model, tokens, rows), model.device)
        room = free_bytes(model.device, share) - peak
    blocks, _ = blocks_within(max(0, room), model.layout, smaller, slab_bytes(room))
    if blocks < 1:
        raise ConfigError(
            f"no room for KV cache: {room / 2**30:.1f} GiB are left of "
            f"run.gpu_memory_utilization={share} beside the weights and a step's own needs"
        )
    return blocks


def sizes_of(
    run: RunConfig, model: Model, scheduler: Scheduler, smaller: bool, channel: Channel | None
) -> EngineConfig:
    """Sizes of the engine that counts the blocks of this model."""
    layout = model.layout
    blocks = run.kv_blocks or blocks_that_fit(
        model, run.gpu_memory_utilization, scheduler, smaller, run.prefix_caching
    )
    blocks = channel.least(blocks) if channel else blocks
    nbytes = layout.block_bytes
    return EngineConfig(
        total_blocks=blocks,
        block_tokens=layout.block_tokens,
        block_bytes=nbytes[16],
        small_block_bytes=(nbytes[8], nbytes[4]) if smaller else NO_SMALL,
        slabs=slabs_for(layout, blocks, smaller),
        host_blocks=int(run.host_memory_gib * 2**30 // nbytes[16]),
        max_model_len=model.max_model_len,
        layers=layout.layers,
        prefix_caching=run.prefix_caching,
        lag=run.lag,
    )


def host_arena(engine: Engine, device: torch.device) -> HostArena | None:
    """Host memory for swapped caches and cached prefixes; what is not pinned at once comes when it
    is needed.
    """
    blocks, nbytes = engine.host.total + engine.host.cache_total, engine.config.block_bytes
    if not blocks:
        return None
    first = min(blocks, max(1, PINNED_AT_ONCE_BYTES // nbytes))
    slab_blocks = engine.config.slabs.blocks_16
    return HostArena(nbytes, first, pinned=device.type == "cuda", slab_blocks=slab_blocks)
