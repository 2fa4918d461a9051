"""`vllm_v1`: the memory of vLLM's V1 engine, as of release 0.33.0.

Its prefix cache stands in `cache.py`. With `offload` full blocks are copied to the host and
loaded back, as the release does with `--kv-offloading-size`, or with a `--kv-transfer-config` that
names the OffloadingConnector: `offload.py` says by which rules, and what is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mypy_extensions import mypyc_attr

from superinfer.errors import ConfigError
from superinfer.memory.base import Fate, Timing
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.vllm_v1.cache import BlockCache
from superinfer.memory.vllm_v1.offload import OffloadingCache
from superinfer.memory.vllm_v1.orders import ArcOrder, LruOrder

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.engine import EngineConfig
    from superinfer.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class VllmV1Memory:
    """The memory policy that belongs to the scheduler `vllm_v1`: victims are computed again."""

    offload: bool = False
    """Copy full blocks to the host, all of whose memory (`run.host_memory_gib`) is for them."""
    offload_policy: Literal["lru", "arc"] = "lru"
    """Which blocks make way on the host: the release's `eviction_policy`."""
    offload_prompt_only: bool = True
    """Blocks that end in an answer are not copied, as the release has it."""
    name: str = field(default_factory=lambda: "vllm_v1", init=False)
    swap_in_timing: Timing = field(default_factory=lambda: "before_step", init=False)

    def __post_init__(self) -> None:
        if self.offload_policy not in ("lru", "arc"):
            raise ConfigError(
                f"memory.offload_policy: expected lru or arc, got {self.offload_policy!r}"
            )

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> BlockCache:
        """Blocks on the device, with copies on the host if there is room for them."""
        if not host.cache_total:
            return BlockCache(pool, block_tokens)
        order = LruOrder() if self.offload_policy == "lru" else ArcOrder(host.cache_total)
        return OffloadingCache(pool, host, block_tokens, order, self.offload_prompt_only)

    def host_cache_blocks(self, config: EngineConfig) -> int:
        """All that the host has, if blocks are to be copied there."""
        if not self.offload:
            return 0
        if not config.prefix_caching:
            raise ConfigError("memory.offload: expected run.prefix_caching = true, got false")
        if config.lag:
            raise ConfigError("memory.offload: expected run.lag = 0, got 1")
        if config.host_blocks < 1:
            raise ConfigError("memory.offload: expected room on the host (run.host_memory_gib)")
        return config.host_blocks

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """V1 has no swapping."""
        return "recompute"
