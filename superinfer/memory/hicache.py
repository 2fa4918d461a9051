"""`hicache`: SGLang's radix cache with a second tier in host memory.

Source: sgl-project/sglang v0.4.6 (commit 84022c0e5), `mem_cache/hiradix_cache.py`,
`managers/cache_controller.py`, `server_args.py` (`hicache_ratio`, `hicache_write_policy`): a host
pool of twice the device's; a node is copied there after its third hit (`write_through_selective`),
its first (`write_through`) or when it leaves the device (`write_back`, the step waits). A node with
a copy keeps it and stays findable when its device tokens go; without one it goes for good. What a
request finds on the host is loaded back all or nothing, and only from ten tokens on. The oldest
leaves on the host make room there.

Every insertion is a hit there, and a request inserts its prompt twice: when it has been computed,
and when the request ends. The third hit of a node is thus the second request that uses it, and the
first hit the first request: so they are counted here.

Left out: loads overlap with the computation layer by layer there; here the step waits for them. The
memory quota of a load never binds, for who is admitted has room for its whole prompt. Copies under
way lock their nodes there; here a copy counts from its start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from mypy_extensions import mypyc_attr

from superinfer.errors import ConfigError
from superinfer.memory.base import Timing
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.radix import OldestFirst, RadixMemory

if TYPE_CHECKING:
    from superinfer.engine import EngineConfig
    from superinfer.memory.blocks.pool import BlockPool, HostPool

LOAD_BACK_TOKENS = 10
"""`load_back_threshold`."""


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class HiCacheMemory(RadixMemory):
    """`radix` on both tiers."""

    host_ratio: float = 2.0
    """Host pool as a multiple of the device's."""
    write_policy: Literal["write_through_selective", "write_through", "write_back"] = (
        "write_through_selective"
    )
    name: str = field(default_factory=lambda: "hicache", init=False)
    exclusive: bool = field(default_factory=bool, init=False)
    writes_back: bool = field(default_factory=bool, init=False)
    load_min_tokens: int = field(default_factory=lambda: LOAD_BACK_TOKENS, init=False)
    load_timing: Timing = field(default_factory=lambda: "before_step", init=False)
    _host_leaves: OldestFirst = field(init=False, repr=False)
    _requests: int = field(default_factory=lambda: 1, init=False)
    """Requests that have to use a node before it is copied."""

    def __post_init__(self) -> None:
        RadixMemory.__post_init__(self)
        if not self.host_ratio > 0:
            raise ConfigError(f"memory.host_ratio: expected more than 0, got {self.host_ratio}")
        self._host_leaves = OldestFirst(attrgetter("host_reclaimable"))
        self.writes_back = self.write_policy == "write_back"
        self._requests = 2 if self.write_policy == "write_through_selective" else 1

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        """A tree whose leaves go in this order, with a tier on the host if that has room."""
        if not host.cache_total:
            return PrefixIndex(pool, block_tokens, self)
        return TieredIndex(pool, host, block_tokens, self, self)

    def host_cache_blocks(self, config: EngineConfig) -> int:
        """So many times the device's pool."""
        return int(config.total_blocks * self.host_ratio)

    def keep(self, node: Node) -> bool:
        """Only with `write_back` is a copy made as late as this."""
        return self.writes_back

    def write_through(self, node: Node) -> bool:
        """The other policies copy what enough requests have used."""
        return not self.writes_back and node.hits >= self._requests

    def host_unused(self, node: Node) -> None:
        """Queue a leaf of the host by the time of its last use."""
        self._host_leaves.push(node)

    def host_victim(self, blocks: int) -> tuple[Node, int] | None:
        """The oldest leaf of the host, all of it."""
        node = self._host_leaves.pop()
        return None if node is None else (node, node.blocks)
