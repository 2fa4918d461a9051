"""What is known of sequences whose full blocks are copied while they run: of each, and in sums.

Members of the decode batch fill blocks in the order of steps, so how many blocks one has filled is
told by the step, and how many all of them have by sums, kept as `batch.DecodeBatch` keeps its own.
"""

from __future__ import annotations

from superinfer.memory.blocks.runs import Stretch, length, merged
from superinfer.memory.blocks.slabs import NO_SMALL, Small, added


class Mirrored:
    """What has a copy of one member of the batch."""

    __slots__ = (
        "_block_tokens",
        "alive",
        "copied",
        "first_blocks",
        "kept",
        "kept_small",
        "small",
        "start_step",
        "start_tokens",
        "synced",
    )

    def __init__(self, start_step: int, start_tokens: int, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self.start_step = start_step
        """Steps that the batch had done when counting began."""
        self.start_tokens = start_tokens
        """Tokens in its cache then."""
        self.first_blocks = start_tokens // block_tokens
        """Blocks that were full then."""
        self.copied: list[Stretch] = []
        """Of these, those with a copy."""
        self.synced = 0
        """So many are these."""
        self.small = NO_SMALL
        """Of them, those of 8 and 4 bits."""
        self.kept: list[Stretch] = []
        """Those whose copy is left over from a rotation."""
        self.kept_small = NO_SMALL
        self.alive = True

    @property
    def lacking(self) -> int:
        """First blocks without a copy."""
        return self.first_blocks - self.synced

    def grown(self, step: int) -> int:
        """Blocks that it filled from its start until the batch had done `step` steps."""
        done = step - self.start_step
        if done <= 0:
            return 0
        return (self.start_tokens + done) // self._block_tokens - self.first_blocks

    def copy(self, stretches: list[Stretch], small: Small) -> None:
        """These blocks have copies, too."""
        self.copied = merged(self.copied, stretches)
        self.synced += length(stretches)
        self.small = added(self.small, small)

    def keep(self, stretches: list[Stretch], small: Small) -> None:
        """These blocks have copies that are left over from a rotation."""
        self.copy(stretches, small)
        self.kept, self.kept_small = stretches, small


class FilledBlocks:
    """How many blocks all members have filled, without asking each."""

    def __init__(self, block_tokens: int) -> None:
        self._members = 0
        self._tokens = 0
        """Sum over members of their tokens at the start less the step then."""
        self._residues = [0] * block_tokens
        """Members by that difference, modulo the tokens of a block."""
        self._first_blocks = 0
        """Sum over members of the blocks that were full when counting began."""

    def add(self, member: Mirrored) -> None:
        """Count a member."""
        self._count(member, 1)

    def remove(self, member: Mirrored) -> None:
        """Do not count it any more."""
        self._count(member, -1)

    def grown(self, step: int) -> int:
        """Blocks that all of them filled from their starts until the batch had done `step` steps,
        which none of them started after.
        """
        size = len(self._residues)
        rest = sum(n * ((place + step) % size) for place, n in enumerate(self._residues))
        return (self._tokens + self._members * step - rest) // size - self._first_blocks

    # -- inside ---------------------------------------------------------------------------------

    def _count(self, member: Mirrored, count: int) -> None:
        tokens = member.start_tokens - member.start_step
        self._members += count
        self._tokens += count * tokens
        self._residues[tokens % len(self._residues)] += count
        self._first_blocks += count * member.first_blocks
