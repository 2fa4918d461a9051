"""The protocols of memory: which blocks go first, what becomes of a victim's cache, and the index
in which cached prefixes are found.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.memory.pool import BlockPool
    from superinfer.memory.prefix import Key, Node
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

    def index(self, pool: BlockPool, block_tokens: int) -> PrefixCache:
        """The index of cached prefixes, whose unused blocks go in this policy's order."""
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
        """The reclaimable leaf that loses blocks now, and how many (1 to `blocks`)."""
        ...


class PrefixCache(Protocol):
    """Where cached prefixes are found. What a sequence holds in it (`Any` here) is its own affair.

    It keeps the pool's `cached` count and, for the blocks it holds, `referenced`.
    """

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

    def add_answer(self, request: Request, node: Any, blocks: int, now: float) -> None:
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
