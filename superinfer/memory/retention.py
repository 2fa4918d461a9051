"""`retention`: block reuse of TensorRT-LLM, with retention priorities and a tier on the host.

Source: NVIDIA/TensorRT-LLM `cpp/tensorrt_llm/batch_manager/evictionPolicy.cpp` at 05a91919 and
`docs/source/features/kvcache.md` of 1.0. Free blocks wait in one queue per priority; the lowest
priority goes first, within one the least recently used, and only leaves of the tree. A block that
goes and whose priority reaches a threshold is copied to the host, where it stays findable, until
the host needs its place by the same order; below the threshold it is dropped. A hit moves it back.

There a request names priorities for ranges of its tokens, and how long they hold. Traces have none
of these, so here a service class stands for its requests, prompts and generated text each with one
priority that holds for good. Requests without one leave shared blocks as they are, as there. Left
out: reuse of part of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from superinfer.errors import ConfigError
from superinfer.memory.base import Fate, Timing
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.leaves import Leaves
from superinfer.request import Request

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.engine import EngineConfig
    from superinfer.memory.blocks.pool import BlockPool, HostPool
    from superinfer.sequence import Sequence

DEFAULT_PRIORITY = 35
HIGHEST_PRIORITY = 100


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class RetentionMemory:
    """Lowest retention priority first, least recently used within one."""

    priorities: dict[str, int] = field(default_factory=dict)
    """Retention priority (0 to 100) of prompts by service class; others have 35."""
    answer_priorities: dict[str, int] = field(default_factory=dict)
    """The same for generated text."""
    host_cache_gib: float = 0.0
    """Host memory for blocks that left the device, per GPU; 0 drops them."""
    offload_min_priority: int = 30
    """Lowest priority that goes to the host: 30 in the source, 35 in the documentation."""
    name: str = field(default_factory=lambda: "retention", init=False)
    swap_in_timing: Timing = field(default_factory=lambda: "before_step", init=False)
    exclusive: bool = field(default_factory=lambda: True, init=False)
    writes_back: bool = field(default_factory=lambda: True, init=False)
    load_min_tokens: int = field(default_factory=int, init=False)
    load_timing: Timing = field(default_factory=lambda: "before_step", init=False)
    _device: Leaves = field(init=False, repr=False)
    _host: Leaves = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("priorities", "answer_priorities"):
            for cls, priority in getattr(self, name).items():
                _check_priority(f"memory.{name}.{cls}", priority)
        _check_priority("memory.offload_min_priority", self.offload_min_priority)
        self._device = Leaves(_rank, attrgetter("reclaimable"))
        self._host = Leaves(_rank, attrgetter("host_reclaimable"))

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        """A tree whose leaves go in this order, with a tier on the host if that has room."""
        if not host.cache_total:
            return PrefixIndex(pool, block_tokens, self)
        return TieredIndex(pool, host, block_tokens, self, self)

    # -- device ---------------------------------------------------------------------------------

    def retain(self, node: Node, request: Request) -> None:
        """A request's own priority overrides what was there."""
        chosen = self.answer_priorities if node.answer else self.priorities
        priority = chosen.get(request.slo_class.name)
        if priority is not None:
            node.priority = priority

    def unused(self, node: Node) -> None:
        """Queue it by priority and last use."""
        self._device.push(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The lowest in rank."""
        victim = self._device.victim(blocks)
        assert victim is not None, "nothing left to reclaim"
        return victim

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """A pause drops the cache: sequences are never copied to the host."""
        return "recompute"

    # -- host -----------------------------------------------------------------------------------

    def host_cache_blocks(self, config: EngineConfig) -> int:
        """As configured."""
        return int(self.host_cache_gib * 2**30 // config.block_bytes)

    def keep(self, node: Node) -> bool:
        """Only what is worth it."""
        return _priority(node) >= self.offload_min_priority

    def write_through(self, node: Node) -> bool:
        """Never: blocks are copied when they go."""
        return False

    def host_unused(self, node: Node) -> None:
        """Queue it by priority and last use."""
        self._host.push(node)

    def host_victim(self, blocks: int) -> tuple[Node, int] | None:
        """The lowest in rank on the host."""
        return self._host.victim(blocks)


def _priority(node: Node) -> int:
    return DEFAULT_PRIORITY if node.priority is None else node.priority


def _rank(node: Node) -> tuple[float, float]:
    return (_priority(node), node.last_access_s)


def _check_priority(place: str, priority: int) -> None:
    if not 0 <= priority <= HIGHEST_PRIORITY:
        raise ConfigError(f"{place}: expected from 0 to {HIGHEST_PRIORITY}, got {priority}")
