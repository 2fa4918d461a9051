"""Copies on the host of full blocks whose sequences go on running (write-through).

A full block never changes again, so a copy made while the link is idle saves one later: who leaves
the device for the host takes along only what has no copy yet. The idea is DuplexKV's eager rotation
(arXiv 2601.20309). Its public code copies every block as soon as it is full and counts no time for
that (`schedulers/rotasched.py`); here each copy is a background transfer of its own on the link.

The scheduler says whose blocks are worth it (`may_swap_out` in `schedulers/base.py`): those are the
members here. No block is looked at by itself. Members fill blocks in the order of steps, so one
watermark describes what they filled while decoding: a block that was full when the batch had done
so many steps, or fewer, has its copy. Blocks that were full when their sequence joined the batch
(its prompt; after a rotation, what came back) are counted by sequence, the latest first. How many
blocks all members have filled follows from sums (`mirrored.py`).

A block that loses bits loses its copy, which has others. Its member is counted anew then, as if it
had just joined with the copies that are left: so what is filled while decoding has 16 bits here,
and which of the first blocks have copies is known by the stretch.

Copies only ever use host blocks that nobody needs: they give way to caches that are rotated out,
those of the earliest member first. Whose first blocks go first and whose copies give way matters
where the host is small: of requests that owe the same, `rotating` takes the latest off the device.

Left out: two sequences that share a prefix on the device have two copies of it, as they have when
both are rotated out; blocks of unfinished prefills get no copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from superinfer.batch import DecodeBatch
from superinfer.draft.view import DraftView
from superinfer.memory.blocks.pool import HostPool
from superinfer.memory.blocks.runs import (
    Runs,
    Stretch,
    changed,
    first_of,
    length,
    merged,
    small_within,
    without,
)
from superinfer.memory.blocks.slabs import NO_BLOCKS, NO_SMALL, Blocks, Small, added, lacking
from superinfer.placement import Placement
from superinfer.plan import Transfer
from superinfer.sequence import Sequence, State
from superinfer.transfers.mirrored import FilledBlocks, Mirrored

Chosen = tuple[Mirrored, list[Stretch], Small]
"""Whose first blocks, which, and how many of them have 8 and 4 bits."""


class Mirror:
    """The copies of one engine: what there is, and the one transfer that may be under way.

    It is told of decisions when a plan is made of them, so taking decisions back costs nothing.
    """

    def __init__(
        self,
        host: HostPool,
        block_tokens: int,
        wanted: Callable[[Sequence], bool],
        runs_of: Callable[[Sequence], Runs],
    ) -> None:
        """`wanted` is asked when a sequence has joined the batch: may it be swapped out? `runs_of`
        tells the bits of the blocks that one holds.
        """
        self.active = False
        """False until there is the first copy to be kept: nobody is counted till then."""
        self.transfer: Transfer | None = None
        """The copy under way."""
        self.backlog = False
        """True if the latest transfer had to leave full blocks behind because of its limit."""
        self.written_bytes = 0
        """Copied so far; what is neither useful nor wasted yet may still be either."""
        self.useful_bytes = 0
        """Of these, what did not have to be copied when its sequence was rotated out."""
        self.wasted_bytes = 0
        """Of these, copies of blocks that lost bits, or whose sequence went on to its end or gave
        its copies up."""
        self.placement: Placement | None = None
        """Who gives places to the copies, if anybody does."""
        self._host = host
        self._block_tokens = block_tokens
        self._wanted, self._runs_of = wanted, runs_of
        self._members: dict[Sequence, Mirrored] = {}
        """In the order in which they joined, gave their copies up, or lost bits."""
        self._filled = FilledBlocks(block_tokens)
        self._watermark = 0
        self._grown_synced = 0
        """Sum over members of the blocks filled since counting began that have a copy."""
        self._queue: deque[tuple[Sequence, Mirrored]] = deque()
        """Members, the latest first; those whose first blocks all have copies drop out in time."""
        self._under_way: list[Chosen] = []
        """First blocks in the transfer, by member."""
        self._next_watermark = 0
        """The watermark when the transfer has landed."""
        self._held = NO_BLOCKS
        """Host blocks that the transfer takes."""
        self._grown_under_way = 0
        """Blocks filled while decoding that are in the transfer and whose member stayed."""

    # -- questions ------------------------------------------------------------------------------

    def synced(self, seq: Sequence) -> Blocks:
        """Blocks of a sequence that has been in the batch which have copies."""
        member = self._members.get(seq)
        return NO_BLOCKS if member is None else self._synced(member)

    def concerns(self, draft: DraftView) -> bool:
        """True if it has to be told of a draft: always once there are copies."""
        return self.active or draft.write_blocks > 0 or bool(draft.before_step)

    def chosen(self) -> list[tuple[Sequence, int, int]]:
        """What the transfer copies, just after `begin`: stretches of blocks, each by whose they
        are, the first one and the one behind the last. Looks at every member.
        """
        owners = {member: seq for seq, member in self._members.items()}
        found = [
            (owners[member], *stretch)
            for member, stretches, _ in self._under_way
            for stretch in stretches
        ]
        for member, seq in owners.items():
            start = member.first_blocks + member.grown(self._watermark)
            stop = member.first_blocks + member.grown(self._next_watermark)
            if stop > start:
                found.append((seq, start, stop))
        return found

    # -- who comes and goes ---------------------------------------------------------------------

    def activate(self, batch: DecodeBatch) -> None:
        """Count who is in the batch from now on: all their full blocks are first blocks. Who joined
        since the plan before comes with `take_in`.
        """
        self.active, self._watermark = True, batch.step
        members = [seq for seq in batch.members if seq not in batch.joined and self._wanted(seq)]
        for seq in sorted(members, key=_join_order):
            self._count(seq, self._anew(batch, seq))

    def join(self, seq: Sequence, kept_blocks: int = 0) -> None:
        """A sequence has joined the batch, with copies of its first `kept_blocks` left over."""
        if seq in self._members or not self._wanted(seq):
            return
        member = Mirrored(seq.join_step, seq.computed_tokens, self._block_tokens)
        if kept_blocks:
            kept = [(0, kept_blocks)]
            member.keep(kept, small_within(self._runs_of(seq), kept))
        if self.placement is not None:
            self.placement.mirror_joined(seq, kept_blocks)
        self._count(seq, member)

    def leave(self, seq: Sequence, to_host: bool) -> None:
        """A member has left the batch; if `to_host`, its copies are part of what is there now."""
        member = self._members.pop(seq, None)
        if member is not None:
            written_bytes = self._forget(member)
            if self.placement is not None:
                self.placement.mirror_left(seq, to_host)
            if to_host:
                self.useful_bytes += written_bytes
            else:
                self.wasted_bytes += written_bytes

    def requantised(self, batch: DecodeBatch, seq: Sequence, before: Runs) -> None:
        """Blocks of a sequence have fewer bits than `before`: those copies are none any more, and
        nothing that is under way is kept.
        """
        member = self._members.get(seq)
        if member is None:
            return
        first = member.first_blocks
        grown = [(first, first + member.grown(self._watermark))]
        after = self._runs_of(seq)
        lost = changed(before, after)
        left = self._anew(batch, seq)
        kept = without(member.kept, lost)
        left.keep(kept, small_within(after, kept))
        written = without(without(merged(member.copied, grown), lost), kept)
        left.copy(written, small_within(after, written))
        del self._members[seq]
        self.wasted_bytes += self._forget(member)
        self._count(seq, left)
        self.wasted_bytes -= self._written_bytes(left)
        if self.placement is not None:
            self.placement.mirror_requantised(seq)

    def take_in(self, batch: DecodeBatch) -> None:
        """Count who joined the batch since the plan before."""
        for seq in batch.joined:
            if seq.state is State.DECODING:
                self.join(seq)

    def give_way(self, batch: DecodeBatch) -> None:
        """Give copies up until the host holds no more than it can."""
        host = self._host
        if host.mirror_room >= 0:
            return
        for seq, member in list(self._members.items()):
            if member.synced or member.grown(self._watermark):
                del self._members[seq]
                self.wasted_bytes += self._forget(member)
                if self.placement is not None:
                    self.placement.mirror_left(seq, False)
                self._count(seq, self._anew(batch, seq))
                if host.mirror_room >= 0:
                    return
        self._give_up_transfer()

    # -- copies ---------------------------------------------------------------------------------

    def start(self, batch: DecodeBatch, limit_blocks: int) -> Blocks:
        """Choose what the next transfer copies, about `limit_blocks` at most and no more than the
        host has room for at 16 bits; returns how many blocks, and expects `begin` unless there are
        none.
        """
        room = self._host.mirror_room
        limit = min(limit_blocks, room)
        if self.transfer is not None or limit < 1:
            return NO_BLOCKS
        stop, grown = self._grown_until(batch, limit)
        full = grown > room or room < limit_blocks
        if grown > room:
            stop, grown = self._watermark, 0
        self._next_watermark, self._grown_under_way = stop, grown
        first = self._take_first_blocks(limit - grown)
        self.backlog = not full and (stop < batch.step or self._waits())
        self._held = Blocks(grown + first.number, first.small)
        return self._held

    def begin(self, transfer: Transfer) -> None:
        """The chosen blocks are on their way."""
        self.transfer = transfer
        self._host.mirror(self._held.number, self._held.small)
        self.written_bytes += self._host.sizes.total(self._held.number, self._held.small)

    def landed(self) -> None:
        """The transfer is over: what it copied has copies, unless its member has left."""
        arrived, small = self._grown_under_way, NO_SMALL
        self._grown_synced += arrived
        self._watermark = self._next_watermark
        for member, stretches, some in self._under_way:
            if member.alive:
                member.copy(stretches, some)
                arrived += length(stretches)
                small = added(small, some)
        self._drop_transfer(Blocks(self._held.number - arrived, lacking(self._held.small, small)))
        self.transfer, self._held = None, NO_BLOCKS

    # -- inside ---------------------------------------------------------------------------------

    def _anew(self, batch: DecodeBatch, seq: Sequence) -> Mirrored:
        """A sequence as if it joined the batch now, with no copies."""
        return Mirrored(batch.step, batch.length(seq) - 1, self._block_tokens)

    def _synced(self, member: Mirrored) -> Blocks:
        return Blocks(member.synced + member.grown(self._watermark), member.small)

    def _written_bytes(self, member: Mirrored) -> int:
        """Of its copies, what was written through."""
        blocks = self._synced(member).number - length(member.kept)
        return self._host.sizes.total(blocks, lacking(member.small, member.kept_small))

    def _count(self, seq: Sequence, member: Mirrored) -> None:
        self._members[seq] = member
        self._host.mirror(member.synced, member.small)
        self._filled.add(member)
        if member.lacking > 0:
            self._queue.appendleft((seq, member))
        if len(self._queue) > 2 * len(self._members):
            self._queue = deque([entry for entry in self._queue if entry[1].alive])

    def _forget(self, member: Mirrored) -> int:
        """Take a member out of all sums; returns the bytes that were written through for it."""
        member.alive = False
        self._filled.remove(member)
        grown = member.grown(self._watermark)
        self._grown_synced -= grown
        if self.transfer is not None:
            self._grown_under_way -= member.grown(self._next_watermark) - grown
        written_bytes = self._written_bytes(member)
        self._host.mirror(-member.synced - grown, lacking(NO_SMALL, member.small))
        return written_bytes

    def _grown_until(self, batch: DecodeBatch, limit: int) -> tuple[int, int]:
        """How far the watermark goes with about `limit` blocks, and how many blocks that takes."""
        step, start = batch.step, self._watermark
        blocks = self._filled.grown(step) - self._grown_synced
        if blocks <= limit:
            return step, blocks
        # Behind by more than one transfer, after a time without any: as many steps as cannot fill
        # much more. Nobody knows how many they did fill without asking every member.
        step = min(step, start + max(1, limit * self._block_tokens // len(self._members)))
        members = self._members.values()
        return step, sum(m.grown(step) - m.grown(start) for m in members)

    def _take_first_blocks(self, limit: int) -> Blocks:
        """Choose up to `limit` of the blocks that were full when their members joined."""
        self._under_way, taken, small = [], 0, NO_SMALL
        queue = self._queue
        while taken < limit and self._waits():
            seq, member = queue[0]
            chosen = self._choose(seq, member, limit - taken)
            self._under_way.append(chosen)
            taken, small = taken + length(chosen[1]), added(small, chosen[2])
            if length(chosen[1]) < member.lacking:
                break
            queue.popleft()
        return Blocks(taken, small)

    def _choose(self, seq: Sequence, member: Mirrored, limit: int) -> Chosen:
        """The first blocks of a member without a copy, up to `limit`."""
        whole = [(0, member.first_blocks)]
        stretches = first_of(without(whole, member.copied), limit)
        return member, stretches, small_within(self._runs_of(seq), stretches)

    def _waits(self) -> bool:
        """True if first blocks of a member have no copy and are not under way."""
        queue = self._queue
        while queue and not (queue[0][1].alive and queue[0][1].lacking):
            queue.popleft()
        return bool(queue)

    def _give_up_transfer(self) -> None:
        """What is under way is not kept: a rotation that follows on the link takes its place."""
        if self.placement is not None:
            self.placement.mirror_given_up()
        self._under_way = []
        self._queue = deque(reversed(list(self._members.items())))
        self._grown_under_way, self._next_watermark = 0, self._watermark
        self._drop_transfer(self._held)
        self._held = NO_BLOCKS

    def _drop_transfer(self, blocks: Blocks) -> None:
        """So many blocks of the transfer are of no use."""
        self._host.mirror(-blocks.number, lacking(NO_SMALL, blocks.small))
        self.wasted_bytes += self._host.sizes.total(blocks.number, blocks.small)


def _join_order(seq: Sequence) -> tuple[int, int]:
    return seq.join_step, seq.request.index
