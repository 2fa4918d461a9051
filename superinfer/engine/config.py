"""What one replica has: its sizes as configured, and the counters and descriptions made of them."""

from __future__ import annotations

from dataclasses import dataclass

from superinfer.costs.base import CostModel
from superinfer.memory.base import HostRoom, MemoryPolicy
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.blocks.slabs import NO_SMALL, ONE_BLOCK_SLABS, BlockSizes, Slabs
from superinfer.schedulers.base import Machine, Scheduler


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """Sizes of one replica and how plans overlap with execution."""

    total_blocks: int
    block_tokens: int
    block_bytes: int
    """Bytes of one block on one GPU."""
    small_block_bytes: tuple[int, int] = (0, 0)
    """The same for a block of 8 bits and one of 4 bits; 0: there are none."""
    kv_bits: int = 16
    """Of a cached value in a block of full size; with fewer than 16 there are no smaller blocks."""
    slabs: Slabs = ONE_BLOCK_SLABS
    host_blocks: int = 0
    max_model_len: int = 1 << 30
    layers: int = 1
    prefix_caching: bool = False
    lag: int = 0
    """1: the next plan is made while the last step of the current one runs."""

    @property
    def block_sizes(self) -> BlockSizes:
        """Bytes of a block of each precision."""
        if self.small_block_bytes == NO_SMALL:
            return BlockSizes(self.block_bytes, self.block_bytes, self.block_bytes)
        return BlockSizes(self.block_bytes, *self.small_block_bytes)


def device_pool(config: EngineConfig, scheduler: Scheduler) -> BlockPool:
    """The counters of its device blocks."""
    # A block of padding that the modelled system never hands out does not exist here.
    return BlockPool(config.total_blocks - getattr(scheduler, "null_blocks", 0), config.slabs)


def host_pool(config: EngineConfig, memory: MemoryPolicy) -> HostPool:
    """The counters of its host blocks."""
    return HostPool(config.host_blocks, _host_cache_blocks(config, memory), config.block_sizes)


def machine_of(config: EngineConfig, cost: CostModel) -> Machine:
    """What a scheduler is told of where it works."""
    return Machine(
        total_blocks=config.total_blocks,
        block_tokens=config.block_tokens,
        max_model_len=config.max_model_len,
        layers=config.layers,
        cost=cost,
        prefix_caching=config.prefix_caching,
        lag=config.lag,
    )


def _host_cache_blocks(config: EngineConfig, memory: MemoryPolicy) -> int:
    """Host blocks for cached prefixes, where there are any."""
    if not isinstance(memory, HostRoom):
        return 0
    blocks = memory.host_cache_blocks(config)
    return blocks if config.prefix_caching else 0
