"""`slo_aware`: the blocks go first that promise the fewest seconds of prefill saved.

A cached block is worth hits to expect for each second that it keeps its place (the reuse model and
its Gittins index, `memory.orders`), times the seconds that computing it again would take at its
place in the prompt, times the highest class weight among those who used it lately, for the room
that it takes: a block of 4 bits in a slab of 55, where 16 blocks of 16 bits have room, is worth 3.4
times as much. On the device that room is its share of a full slab, on the host its bytes. Marconi
(arXiv 2411.19379) weighs recency by FLOPs saved per byte, RAGCache (arXiv 2404.12457) frequency by
the time to compute; the order of leaves of the prefix tree is theirs, too.

* **Answers.** Generated text goes before all else, for nothing can match it.
* **Pins.** The most valuable leaves, together a share of the device's memory, keep their rank for a
  while although their age lowers their value. A cached block never stands in the way of a live
  request (`blocks.pool`), so a pin is an order and no lock: pinned blocks go when no other cached
  block is left. Continuum (arXiv 2511.02230) pins for a limited time, too, while a tool is called.
* **Host.** A block that leaves the device goes to the host if the probability of a use, times the
  seconds that loading saves over computing, exceeds the seconds of the copy there, for which the
  step waits; and if it is worth more than what it takes the place of. Ends of prompts that nobody
  will use again thus go for good, and generated text, which nothing can match.
* **Guard.** While a shadow LRU of the same size hits more, blocks go by age alone (`orders.guard`).
* **Precision.** Running requests lose bits under pressure, as far as their classes allow
  (`min_kv_bits`; `engine.demotion`): those of the lowest weight first, of equals those without
  a target. With or without prefix caching. Cached blocks that nobody holds lose bits before they
  go, where that keeps more value (`orders.shrinking`).

Left out: token types and tenants of a request, which traces do not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr

from superinfer.errors import ConfigError
from superinfer.memory.base import Fate, Timing
from superinfer.memory.blocks.slabs import NO_SMALL, Small
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.lru import Preemption, chosen_fate
from superinfer.memory.orders.base import Surroundings
from superinfer.memory.orders.guard import Guard
from superinfer.memory.orders.host import HostShelf, Pricing
from superinfer.memory.orders.pins import Pins
from superinfer.memory.orders.shrinking import Shrinking
from superinfer.memory.orders.slo_aware import LearnedAppraiser
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.reuse.model import ReuseModel, load_model
from superinfer.memory.reuse.prices import CopySize, Prices

if TYPE_CHECKING:
    from superinfer.costs.base import CostModel
    from superinfer.draft import Draft
    from superinfer.engine import EngineConfig
    from superinfer.memory.blocks.pool import BlockPool, HostPool
    from superinfer.request import Request
    from superinfer.sequence import Sequence


GRAIN_SHARE: Final = 0.001
"""Of the device's blocks: so many go together, from one leaf, where there is a host tier. There a
slice of steps ends where a block may have to be copied, so without it hardly one had two steps."""


@dataclass(slots=True, frozen=True)
class Costs:
    """What the engine tells."""

    model: CostModel
    copy_size: CopySize


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class SloAwareMemory:
    """Lowest value first on the device and on the host."""

    weights: str = ""
    """File of a reuse model that `train-reuse` wrote; empty takes the one that ships."""
    pin_share: float = 0.2
    """Of the device's memory, that may be pinned; smaller blocks take less of it."""
    pin_s: float = 30.0
    """A pin ends so long after the latest use: three in four of the pauses between the calls of
    coding agents are no longer (callanjfox/kv-cache-tester@94f6046d, 6,089 pauses: median 10 s,
    75 % up to 31 s)."""
    host_ratio: float = 1.0
    """Host blocks for cached prefixes as a multiple of the device's; 0 for none. A DGX A100 has
    2 TB for the 640 GB of its GPUs; SGLang's default is 2."""
    preemption: Preemption = "recompute"
    """Fate of a victim's cache; `cheaper` compares predicted seconds of both ways."""
    swap_in_timing: Timing = "before_step"
    guard: bool = True
    """Go by age while a shadow LRU hits more."""
    shrink_8_at: float = 0.7
    """Share of the memory that live requests have to take for caches to go to 8 bits; above
    1: never."""
    shrink_4_at: float = 0.85
    """The same for 4 bits."""
    tail_tokens: int = 128
    """The latest tokens of a request that keep 16 bits (KIVI's residual, arXiv 2402.02750)."""
    name: str = field(default_factory=lambda: "slo_aware", init=False)
    whole_edges: bool = field(default_factory=lambda: True, init=False)
    exclusive: bool = field(default_factory=lambda: True, init=False)
    writes_back: bool = field(default_factory=lambda: True, init=False)
    load_min_tokens: int = field(default_factory=int, init=False)
    load_timing: Timing = field(default_factory=lambda: "before_step", init=False)
    _model: ReuseModel | None = field(default_factory=lambda: None, init=False, repr=False)
    """Of `weights`, read at once so that a file that is none is met before anything runs."""
    shrinks_cached: bool = field(default_factory=bool, init=False, repr=False)
    _costs: Costs | None = field(default_factory=lambda: None, init=False, repr=False)
    _parts: Parts | None = field(default_factory=lambda: None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.weights:
            self._model = _load_weights(self.weights)
        if self.pin_share > 1:
            raise ConfigError(f"memory.pin_share: expected from 0 to 1, got {self.pin_share}")
        if self.shrink_4_at < self.shrink_8_at:
            expected = f"at least memory.shrink_8_at ({self.shrink_8_at:g})"
            raise ConfigError(f"memory.shrink_4_at: expected {expected}, got {self.shrink_4_at:g}")

    def bind_costs(self, cost: CostModel, copy_size: CopySize) -> None:
        """Keep them for `index`."""
        self._costs = Costs(cost, copy_size)

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        """A tree whose leaves go in this order, with a tier on the host if that has room."""
        assert self._costs is not None, "the engine tells the costs first"
        tree = (
            TieredIndex(pool, host, block_tokens, self, self)
            if host.cache_total
            else PrefixIndex(pool, block_tokens, self)
        )
        prices = Prices(self._costs.model, block_tokens, self._costs.copy_size)
        self._parts = Parts(self, prices, tree, host)
        self.shrinks_cached = False  # nobody has used this one
        return tree

    @property
    def counters(self) -> dict[str, float]:
        """What it did, for the result."""
        return {} if self._parts is None else self._parts.counters()

    @property
    def notes(self) -> list[str]:
        """What the guard has to say."""
        return [] if self._parts is None else self._parts.order.notes

    # -- device ---------------------------------------------------------------------------------

    def retain(self, node: Node, request: Request) -> None:
        """A use of the node's prompt."""
        floor_bits = self.floor_bits(request)
        node.floor_bits = max(node.floor_bits, floor_bits)
        if floor_bits < 16:
            self.shrinks_cached = self._used.shrinking is not None
        self._used.retain(node, request)

    def unused(self, node: Node) -> None:
        """Queue it by value."""
        self._used.unused(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """Generated text, then the lowest in value; a pinned one when there is no other."""
        return self._used.victim(blocks)

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """As configured."""
        return chosen_fate(self.preemption, seq, draft)

    # -- precision ------------------------------------------------------------------------------

    def floor_bits(self, request: Request) -> int:
        """What the class demands."""
        return request.slo_class.min_kv_bits

    def shrinks_first(self, request: Request) -> tuple[float, bool]:
        """By weight; of equals, who was promised nothing."""
        return request.slo_class.weight, not request.slo.empty

    def shrinks(self, node: Node) -> tuple[int, int, int] | None:
        """Where that keeps more value."""
        shrinking = self._used.shrinking
        return None if shrinking is None else shrinking.part(node)

    # -- host -----------------------------------------------------------------------------------

    def host_cache_blocks(self, config: EngineConfig) -> int:
        """So many times the device's."""
        return int(config.total_blocks * self.host_ratio)

    def keep(self, node: Node) -> bool:
        """Only what is worth the copy and its place."""
        return self._used.shelf.keep(node)

    def write_through(self, node: Node) -> bool:
        """Never: blocks are copied when they go."""
        return False

    def host_unused(self, node: Node) -> None:
        """Queue it by value."""
        self._used.shelf.push(node)

    def host_victim(self, blocks: int) -> tuple[Node, int] | None:
        """The lowest in value on the host."""
        return self._used.shelf.victim(blocks)

    def loads(self, start_blocks: int, stop_blocks: int, small: Small = NO_SMALL) -> bool:
        """True if that is predicted to be faster than to compute them."""
        prices, size = self._used.prices, self._used.tree.block_tokens
        compute_s = prices.compute_s(start_blocks * size, stop_blocks * size)
        return prices.copy_s(stop_blocks - start_blocks, "h2d", small) < compute_s

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _used(self) -> Parts:
        assert self._parts is not None
        return self._parts


class Parts:
    """What a policy works with once it has an index."""

    def __init__(
        self, settings: SloAwareMemory, prices: Prices, tree: PrefixIndex, host: HostPool
    ) -> None:
        pool, block_tokens = tree.pool, tree.block_tokens
        near = Surroundings(pool.total, block_tokens, None, None, True)
        pricing = Pricing(prices, block_tokens, pool, host.sizes)
        appraiser = LearnedAppraiser(settings._model or load_model())
        self.tree, self.host, self.prices = tree, host, prices
        shares = {bits: pool.share(bits) for bits in (16, 8, 4)}
        self.pins = Pins(int(settings.pin_share * pool.size), settings.pin_s, shares)
        # Values save seconds, and what goes to the host besides: they begin, and hits decide.
        self.guard = Guard(near, plain=False) if settings.guard else None
        self.order = ValuedOrder(near, appraiser, self.guard, pricing.on_device, self.pins)
        self.shelf = HostShelf(self.order, pricing, prices, host, block_tokens)
        self.answers: list[Node] = []
        """Leaves of generated text, which nothing can match: they go first."""
        self.grain_blocks = int(GRAIN_SHARE * pool.total) if host.cache_total else 1
        self.shrinking: Shrinking | None = None
        if settings.shrink_8_at <= 1:
            fewest_bits, tail_tokens = 4 if settings.shrink_4_at <= 1 else 8, settings.tail_tokens
            lost_s = self.shelf.lost_s
            self.shrinking = Shrinking(
                self.order, prices, pool, lost_s, fewest_bits, tail_tokens, block_tokens
            )

    def retain(self, node: Node, request: Request) -> None:
        """A use. The shadow of the guard has the room that prompts have now: the device, less what
        requests have for themselves, and what is kept on the host.
        """
        if self.guard is not None:
            pool = self.tree.pool
            private = pool.referenced - self.tree.locked_blocks
            self.guard.resize(pool.total - private + self.host.cached)
        if node.on_host:  # it was just copied back
            self.shelf.loaded(node)
        self.order.retain(node, request)

    def unused(self, node: Node) -> None:
        """A leaf that nobody holds."""
        if node.answer and not self.order.plain:
            self.order.now_s = max(self.order.now_s, node.last_access_s)
            self.answers.append(node)
        else:
            self.order.unused(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """One of the answers: none is worth anything, so they need no order. When all goes by age,
        they go by age, too.
        """
        blocks = max(blocks, self.grain_blocks)
        while self.answers:
            node = self.answers.pop()
            if not node.reclaimable:
                continue
            if not self.order.plain:
                return node, min(blocks, node.blocks)
            self.order.unused(node)
        return self.order.victim(blocks)

    def counters(self) -> dict[str, float]:
        """Pins and fallbacks."""
        pins = self.pins
        found = {
            "pins": pins.made,
            "pins_expired": pins.expired,
            "pinned_blocks_peak": pins.peak_blocks,
        }
        if self.guard is not None:
            found |= {
                "guard_requests": self.guard.requests,
                "guard_fallbacks": self.guard.falls,
                "guard_fallback_requests": self.guard.fallen_back,
            }
        return {name: float(value) for name, value in found.items()}


def _load_weights(path: str) -> ReuseModel:
    """The model of `memory.weights`; ConfigError names the setting."""
    try:
        return load_model(path)
    except ConfigError as error:
        raise ConfigError(f"memory.weights: {error}") from None
