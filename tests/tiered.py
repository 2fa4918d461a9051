"""Memory policies whose every choice is a field, for tests of the mechanisms: a host tier, and
precisions that fall under pressure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

from superinfer.engine import EngineConfig
from superinfer.memory.base import Timing
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.leaves import Leaves
from superinfer.memory.lru import LruMemory
from superinfer.request import Request


def age(node: Node) -> tuple[float]:
    return (node.last_access_s,)


@dataclass
class TieredLru(LruMemory):
    """`lru` on both tiers; the defaults copy every evicted block."""

    host_size_blocks: int = 8
    exclusive: bool = False
    writes_back: bool = True
    write_through_hits: int = 0
    """Hits at which a node is copied ahead; 0: never."""
    load_min_tokens: int = 0
    load_timing: Timing = "before_step"
    _host: Leaves = field(init=False)

    def __post_init__(self) -> None:
        self._host = Leaves(age, attrgetter("host_reclaimable"))

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        if not host.cache_total:
            return PrefixIndex(pool, block_tokens, self)
        return TieredIndex(pool, host, block_tokens, self, self)

    def host_cache_blocks(self, config: EngineConfig) -> int:
        return self.host_size_blocks

    def keep(self, node: Node) -> bool:
        return self.writes_back

    def write_through(self, node: Node) -> bool:
        return 0 < self.write_through_hits <= node.hits

    def host_unused(self, node: Node) -> None:
        self._host.push(node)

    def host_victim(self, blocks: int) -> tuple[Node, int] | None:
        return self._host.victim(blocks)


@dataclass
class ShrinkingLru(TieredLru):
    """The same with precisions that fall under pressure."""

    host_size_blocks: int = 0
    shrink_8_at: float = 0.4
    shrink_4_at: float = 0.7
    tail_tokens: int = 3

    def floor_bits(self, request: Request) -> int:
        return request.slo_class.min_kv_bits

    def shrinks_first(self, request: Request) -> tuple[float, bool]:
        return request.slo_class.weight, False


@dataclass
class CachedShrinkingLru(ShrinkingLru):
    """And cached blocks lose bits before they go, one precision at a time."""

    shrinks_cached: bool = True
    spared: int = 1
    """Blocks at the end of a leaf that keep their bits."""
    now_s: float = 0.0

    def retain(self, node: Node, request: Request) -> None:
        node.floor_bits = max(node.floor_bits, self.floor_bits(request))

    def unused(self, node: Node) -> None:
        self.now_s = max(self.now_s, node.last_access_s)
        super().unused(node)

    def shrinks(self, node: Node) -> tuple[int, int, int] | None:
        bits, start, stop = node.bits // 2, max(1, node.start), node.stop - self.spared
        if node.bits == 4 or bits < node.floor_bits or start >= stop:
            return None
        return None if node.last_access_s >= self.now_s else (start, stop, bits)
