"""What a block manager is told, who gives places to the blocks that the core counts.

The core calls it at once when something happens that no plan tells in full; a simulation has none.
It may look at the engine, and changes nothing there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from superinfer.memory.index.node import Node
    from superinfer.memory.vllm_v1.cache import Block
    from superinfer.plan import Change, Transfer
    from superinfer.sequence import Sequence


class Placement(Protocol):
    """Follows where blocks belong."""

    # -- the engine -----------------------------------------------------------------------------

    def decided(self, changes: Items[Change]) -> None:
        """A draft with these changes was taken; there may be no plan of it."""
        ...

    def demoted(
        self, seq: Sequence, node: Node | None, from_bits: int, to_bits: int, blocks: int
    ) -> None:
        """All blocks of `node`, or so many of the sequence's own, have fewer bits from now on: the
        first ones that have `from_bits`, behind the first block of all.
        """
        ...

    def published(self, seq: Sequence, above: Node | None) -> None:
        """The sequence's own blocks behind `above` became those of the path down to its node, or
        were duplicates of what that has. With an eager index they may be taken back: what a
        sequence holds is certain once a draft is `decided`.
        """
        ...

    def answered(self, seq: Sequence, leaf: Node | Block) -> None:
        """Its own full blocks became those of the path from its node down to `leaf`; with an eager
        index (`EagerCache`) those of the entry `leaf`.
        """
        ...

    def reclaimed(self, taken: Items[tuple[Block, int]]) -> None:
        """An eager index dropped so many blocks of these entries, for good."""
        ...

    def released(self, seq: Sequence) -> None:
        """An ended sequence gives back all that it holds anywhere."""
        ...

    def landed(self, transfer: Transfer) -> None:
        """A background copy counts as over. What follows from that comes next."""
        ...

    # -- the prefix tree ------------------------------------------------------------------------

    def split(self, upper: Node, lower: Node) -> None:
        """`lower` gave its first blocks to the new node `upper`."""
        ...

    def trimmed(self, node: Node, blocks: int) -> None:
        """The last `blocks` blocks of a leaf, which has them still, are dropped."""
        ...

    def shrunk(self, node: Node, from_bits: int, to_bits: int) -> None:
        """All blocks of a cached node have fewer bits from now on."""
        ...

    # -- its host tier --------------------------------------------------------------------------

    def backed_up(self, node: Node) -> None:
        """`node`, all of it, gets a copy on the host while it stays on the device."""
        ...

    def moved_to_host(self, node: Node) -> None:
        """`node` leaves the device; it is `on_host` already, or gets a copy there now."""
        ...

    def dropped_on_host(self, node: Node, blocks: int) -> None:
        """The last `blocks` blocks of a node, which has them still, have no copy any more."""
        ...

    def joined_on_host(self, node: Node, child: Node) -> None:
        """The blocks of `child` become the last ones of `node`; both are on the host alone."""
        ...

    # -- copies of running sequences ------------------------------------------------------------

    def mirror_joined(self, seq: Sequence, kept_blocks: int) -> None:
        """Copies of a member's blocks are kept: for now of the first `kept_blocks`, left over from
        its time on the host.
        """
        ...

    def mirror_left(self, seq: Sequence, to_host: bool) -> None:
        """They are no longer kept; if `to_host`, they are part of what is there now."""
        ...

    def mirror_requantised(self, seq: Sequence) -> None:
        """Blocks of a member have lost bits: those copies are no longer kept, nor is what the copy
        under way brings for it.
        """
        ...

    def mirror_given_up(self) -> None:
        """What the copy under way brings is not kept."""
        ...
