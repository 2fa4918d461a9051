"""The protocols of memory: which blocks go first, what becomes of a victim's cache, and the index
in which cached prefixes are found.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from superinfer.batch import DecodeBatch
    from superinfer.costs.base import CostModel
    from superinfer.draft import Draft
    from superinfer.engine import EngineConfig
    from superinfer.memory.blocks.pool import BlockPool, HostPool
    from superinfer.memory.blocks.slabs import Small
    from superinfer.memory.index.keys import Key
    from superinfer.memory.index.node import Node
    from superinfer.plan import PrefillChunk
    from superinfer.request import Request
    from superinfer.sequence import Sequence

Fate = Literal["recompute", "swap"]
"""What a preemption does with the KV cache: drop it, or copy it to host memory."""

Timing = Literal["before_step", "background"]
"""A copy that the batch waits for, or one that runs beside the computation."""


class MemoryPolicy(Protocol):
    """Owns unused blocks. Its constructor dataclass is the `[memory]` section of a config."""

    name: str

    @property
    def swap_in_timing(self) -> Timing:
        """How a swapped sequence comes back when the scheduler does not say."""
        ...

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixCache:
        """The index of cached prefixes, whose unused blocks go in this policy's order. With room on
        the host (`HostRoom`, `host.cache_total`) it is an `index.tiered.TieredIndex`, or an
        `OffloadTier`.
        """
        ...

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """What becomes of a victim's cache where the scheduler leaves it open."""
        ...


class LeafOrder(Protocol):
    """In which order a `PrefixIndex` loses leaves that no live sequence holds."""

    def unused(self, node: Node) -> None:
        """`node` became a leaf that no live sequence holds (or changed while it was one)."""
        ...

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The reclaimable leaf that loses blocks now, and how many: at least one, as many as it has
        at most; it may be more than `blocks`, those that are needed.
        """
        ...


class PrefixCache(Protocol):
    """Where cached prefixes are found. What a sequence holds in it (`Any` here) is its own affair.

    It keeps the pool's `cached` count and, for the blocks it holds, `referenced`.
    """

    shared_again: int
    """Blocks that it holds for live sequences, counted for each one beside the first."""

    def block_name(self, request: Request, keys: tuple[Key, ...], block: int) -> object:
        """A name that two prompts have in common for a block if they are equal up to its end."""
        ...

    def match(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> tuple[int, int]:
        """Blocks of the longest cached prefix, and how many of them no live sequence holds."""
        ...

    def acquire(
        self, request: Request, keys: tuple[Key, ...], limit_blocks: int
    ) -> tuple[Any, int]:
        """Lock the longest cached prefix; returns what is now held, and its length in blocks."""
        ...

    def release(self, node: Any, now: float) -> None:
        """Unlock what was in use until `now`."""
        ...

    def unlock(self, node: Any) -> None:
        """Undo `acquire`."""
        ...

    def relock(self, node: Any) -> None:
        """Undo `release`."""
        ...

    def insert(
        self, request: Request, keys: tuple[Key, ...], node: Any, stop_blocks: int
    ) -> tuple[Any, int]:
        """Make private blocks up to `stop_blocks` findable; returns what is held, and how many."""
        ...

    def add_answer(self, request: Request, node: Any, blocks: int, now: float) -> object:
        """Keep `blocks` blocks of an ended request's own text as cached ones."""
        ...

    def reclaim(self, blocks: int) -> Items[tuple[Any, int]]:
        """Drop so many cached blocks; returns what was taken from where."""
        ...


@runtime_checkable
class EagerCache(PrefixCache, Protocol):
    """An index that follows every decision at once, where others wait for the end of the plan.

    Blocks are findable as soon as their tokens are scheduled, what is taken costs cached blocks
    before the next look-up, and a preempted request's own text stays findable for itself.
    """

    def unpublish(self, node: Any, blocks: int) -> None:
        """Undo an `insert` that made so many blocks findable."""
        ...

    def add_own(self, request: Request, node: Any, blocks: int) -> None:
        """Keep `blocks` blocks of a preempted request's own text; `relock` takes it back."""
        ...

    def restore(self, taken: Items[tuple[Any, int]]) -> None:
        """Undo `reclaim`."""
        ...

    def end_order(self, seq: Sequence) -> tuple[int, int]:
        """Sequences that finish in the same step give their blocks back in this order."""
        ...


@runtime_checkable
class OffloadTier(Protocol):
    """What an eager index has beside that if it copies blocks to the host, and back, on its own
    account and always in the background. The engine books the copies, which are the tier's *jobs*.

    Between the plan in which a load was decided and its landing the request is one that moves in
    (`State.MOVING_IN`); its blocks are findable from `Draft.adopt` on. The scheduler has to ask for
    loads, and says that it does so by an attribute `loads_prefixes`.
    """

    def find(
        self, request: Request, keys: tuple[Key, ...], start_blocks: int, stop_blocks: int
    ) -> int | None:
        """Blocks on the host behind the first `start_blocks`, at most up to `stop_blocks`; None if
        copies under way have to land before that can be said.
        """
        ...

    def load(
        self, request: Request, keys: tuple[Key, ...], node: Any, start_blocks: int, blocks: int
    ) -> object:
        """Such blocks are wanted on the device, for the request that holds `node`: a job."""
        ...

    def unload(self, node: Any) -> None:
        """Undo `load`."""
        ...

    def adopt(self, node: Any) -> bool:
        """What was loaded for `node` becomes findable; False if it was before."""
        ...

    def unadopt(self, node: Any) -> None:
        """Undo `adopt`."""
        ...

    def begin(self, job: Any) -> None:
        """A load is part of a plan."""
        ...

    def store(self, batch: DecodeBatch, chunks: Items[PrefillChunk], decodes: int) -> None:
        """A plan has these chunks and, if `decodes`, the batch: prepare to copy what its first step
        completes. Those who `ended` since the last one are done with.
        """
        ...

    def steps_before_store(self, batch: DecodeBatch, steps: int) -> int:
        """How many of `steps` steps, but one at least, the batch can run before it has blocks to
        copy.
        """
        ...

    def take_stores(self) -> list[tuple[object, int]]:
        """Jobs that were prepared since last asked, with their blocks."""
        ...

    def landed(self, job: Any) -> None:
        """A copy is over."""
        ...

    def ended(self, seq: Sequence) -> None:
        """A request ends and still holds its blocks."""
        ...


@runtime_checkable
class Retention(Protocol):
    """What a memory policy has beside that if it matters who uses a block."""

    def retain(self, node: Node, request: Request) -> None:
        """`request` computed `node`, or was admitted with it as a part of its cached prefix. What
        the policy thinks of it goes into `node.priority`; `unused` follows when nobody holds it.
        """
        ...


@runtime_checkable
class WholeEdges(Protocol):
    """What a memory policy has beside that if it reclaims edges of the prefix tree as a whole: the
    index then keeps what each prompt added as an edge of its own.
    """

    whole_edges: bool


@runtime_checkable
class Ladder(Protocol):
    """What a memory policy has beside that if running requests lose bits when memory is short.

    The engine then demotes full blocks of members of the decode batch, never up again: to 8 bits
    while live requests take `shrink_8_at` of the memory, and to 4 while they take `shrink_4_at`.
    """

    shrink_8_at: float
    shrink_4_at: float
    tail_tokens: int
    """The latest tokens keep 16 bits, and the first block does."""

    def floor_bits(self, request: Request) -> int:
        """The fewest bits that the cache of a request may have: 16, 8 or 4."""
        ...

    def shrinks_first(self, request: Request) -> tuple[float, bool]:
        """The request with the lowest of these loses bits first."""
        ...


@runtime_checkable
class CachedLadder(Protocol):
    """What a memory policy has beside that if cached blocks that nobody holds may lose bits, too.

    Its classes' demands are kept in `Node.floor_bits`.
    """

    @property
    def shrinks_cached(self) -> bool:
        """False while there is nothing that might."""
        ...

    def shrinks(self, node: Node) -> tuple[int, int, int] | None:
        """Blocks of a leaf that was named as the `victim` lose bits instead: the first one, the one
        behind the last, and the bits that they get; None if it is to go.
        """
        ...


@runtime_checkable
class CostAware(Protocol):
    """What a memory policy has beside that if it weighs what blocks cost and save."""

    def bind_costs(
        self, cost: CostModel, copy_size: Callable[[int, Small], tuple[int, int]]
    ) -> None:
        """Learn the cost model and the bytes and separate copies of so many blocks, smaller ones
        among them, once, before `index`. They are not to be asked before that.
        """
        ...


@runtime_checkable
class HostRoom(Protocol):
    """What a memory policy has beside that if its index keeps blocks on the host, too."""

    def host_cache_blocks(self, config: EngineConfig) -> int:
        """Host blocks for cached prefixes; with 0 there is no host tier."""
        ...


@runtime_checkable
class LoadChoice(Protocol):
    """What a host tier has beside that if a copy back is not always better than computing."""

    def loads(self, start_blocks: int, stop_blocks: int, small: Small) -> bool:
        """Blocks from `start_blocks` to `stop_blocks` of a prompt, `small` ones among them, are on
        the host, what is before them on the device: copy them back?
        """
        ...


@runtime_checkable
class HostTier(HostRoom, Protocol):
    """What a memory policy has beside that if the shared tree keeps cached blocks on the host.

    Where there is room for them (`host_cache_blocks`) its `index` is an `index.tiered.TieredIndex`,
    and the device's leaves go in its order (`LeafOrder`). Copies to the host are made when blocks
    are evicted (`keep`, the step waits) or while they are on the device (`write_through`, in the
    background). What a request finds on the host is copied back when it is admitted.
    """

    @property
    def exclusive(self) -> bool:
        """True if blocks that are back on the device give up their copies on the host."""
        ...

    @property
    def writes_back(self) -> bool:
        """False if `keep` never says True: evictions then need no copies, and slices are longer."""
        ...

    @property
    def load_min_tokens(self) -> int:
        """A shorter stretch on the host is not worth a copy back: it is computed again."""
        ...

    @property
    def load_timing(self) -> Timing:
        """Whether the step waits for a copy back. In the background the request is admitted as one
        that moves in (`State.MOVING_IN`), which the scheduler has to be ready for: it hears of the
        landing by `resumed`.
        """
        ...

    def keep(self, node: Node) -> bool:
        """`node`, which has no copy, loses device blocks: copy them to the host, or drop them?"""
        ...

    def write_through(self, node: Node) -> bool:
        """`node`, which has no copy, was computed or found for the `hits`-th time: copy it now?"""
        ...

    def host_unused(self, node: Node) -> None:
        """`node` became a leaf that is on the host alone (or changed while it was one)."""
        ...

    def host_victim(self, blocks: int) -> tuple[Node, int] | None:
        """The `host_reclaimable` leaf that loses host blocks now, and how many: at least one, as
        many as it has at most; it may be more than `blocks`.
        """
        ...
