"""The memory-policy protocol: which blocks go first, and what becomes of a victim's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.engine import EngineConfig
    from superinfer.memory.prefix import Node
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

    def unused(self, node: Node) -> None:
        """`node` became a leaf that no live sequence holds (or changed while it was one)."""
        ...

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The reclaimable leaf that loses blocks now, and how many: at least one, as many as it has
        at most; it may be more than `blocks`, those that are needed.
        """
        ...

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """What becomes of a victim's cache where the scheduler leaves it open."""
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
class HostTier(Protocol):
    """What a memory policy has beside that if it keeps cached blocks on the host, too.

    With a prefix cache the engine then keeps a `memory.tiered.TieredIndex`. Copies to the host are
    made when blocks are evicted (`keep`, the step waits) or while they are on the device
    (`write_through`, in the background). What a request finds on the host is copied back when it is
    admitted.
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

    def host_cache_blocks(self, config: EngineConfig) -> int:
        """Host blocks for cached prefixes; with 0 there is no host tier."""
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
