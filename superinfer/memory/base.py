"""The memory-policy protocol: which blocks go first, and what becomes of a victim's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.memory.prefix import Node
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
        """The reclaimable leaf that loses blocks now, and how many: at least one, `blocks` if no
        more are wanted, at most all that it has.
        """
        ...

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """What becomes of a victim's cache where the scheduler leaves it open."""
        ...
