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
blocks all members have filled follows from sums, kept as `batch.DecodeBatch` keeps its own.

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
from superinfer.draft_view import DraftView
from superinfer.memory.pool import HostPool
from superinfer.placement import Placement
from superinfer.plan import Transfer
from superinfer.sequence import Sequence, State


class Mirrored:
    """What has a copy of one member of the batch."""

    __slots__ = ("alive", "kept", "start_step", "start_tokens", "synced")

    def __init__(self, start_step: int, start_tokens: int, kept: int) -> None:
        self.start_step = start_step
        """Steps that the batch had done when counting began."""
        self.start_tokens = start_tokens
        """Tokens in its cache then."""
        self.synced = kept
        """Of the blocks that were full then, those with a copy."""
        self.kept = kept
        """Of these, those whose copy is left over from a rotation."""
        self.alive = True


class Mirror:
    """The copies of one engine: what there is, and the one transfer that may be under way.

    It is told of decisions when a plan is made of them, so taking decisions back costs nothing.
    """

    def __init__(
        self, host: HostPool, block_tokens: int, wanted: Callable[[Sequence], bool]
    ) -> None:
        """`wanted` is asked when a sequence has joined the batch: may it be swapped out?"""
        self.active = False
        """False until there is the first copy to be kept: nobody is counted till then."""
        self.transfer: Transfer | None = None
        """The copy under way."""
        self.backlog = False
        """True if the latest transfer had to leave full blocks behind because of its limit."""
        self.written_blocks = 0
        """Copied so far; what is neither useful nor wasted yet may still be either."""
        self.useful_blocks = 0
        """Of these, blocks that did not have to be copied when their sequence was rotated out."""
        self.wasted_blocks = 0
        """Of these, blocks whose sequence went on to its end or gave its copies up."""
        self.placement: Placement | None = None
        """Who gives places to the copies, if anybody does."""
        self._host = host
        self._block_tokens = block_tokens
        self._wanted = wanted
        self._members: dict[Sequence, Mirrored] = {}
        """In the order in which they joined, or gave their copies up."""
        self._tokens = 0
        """Sum over members of their tokens at the start less the step then."""
        self._residues = [0] * block_tokens
        """Members by that difference, modulo the tokens of a block."""
        self._watermark = 0
        self._start_blocks = 0
        """Sum over members of the blocks that were full when counting began."""
        self._grown_synced = 0
        """Sum over members of the blocks filled since then that have a copy."""
        self._queue: deque[Mirrored] = deque()
        """Members, the latest first; those whose first blocks all have copies drop out in time."""
        self._under_way: list[tuple[Mirrored, int]] = []
        """First blocks in the transfer, by member."""
        self._next_watermark = 0
        """The watermark when the transfer has landed."""
        self._held_blocks = 0
        """Host blocks that the transfer takes."""
        self._grown_under_way = 0
        """Blocks filled while decoding that are in the transfer and whose member stayed."""

    # -- questions ------------------------------------------------------------------------------

    def synced_blocks(self, seq: Sequence) -> int:
        """Blocks of a sequence that has been in the batch which have copies."""
        member = self._members.get(seq)
        return 0 if member is None else member.synced + self._grown(member, self._watermark)

    def concerns(self, draft: DraftView) -> bool:
        """True if it has to be told of a draft: always once there are copies."""
        return self.active or draft.write_blocks > 0 or bool(draft.before_step)

    def chosen(self) -> list[tuple[Sequence, int, int]]:
        """What the transfer copies, just after `begin`: stretches of blocks, each by whose they
        are, the first one and the one behind the last. Looks at every member.
        """
        owners = {member: seq for seq, member in self._members.items()}
        found = [(owners[m], m.synced, m.synced + blocks) for m, blocks in self._under_way]
        for member, seq in owners.items():
            first = member.start_tokens // self._block_tokens
            start = first + self._grown(member, self._watermark)
            stop = first + self._grown(member, self._next_watermark)
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
            self._count(seq, Mirrored(batch.step, batch.length(seq) - 1, 0))

    def join(self, seq: Sequence, kept_blocks: int = 0) -> None:
        """A sequence has joined the batch, with copies of its first `kept_blocks` left over."""
        if seq in self._members or not self._wanted(seq):
            return
        self._host.mirrored += kept_blocks
        if self.placement is not None:
            self.placement.mirror_joined(seq, kept_blocks)
        self._count(seq, Mirrored(seq.join_step, seq.computed_tokens, kept_blocks))

    def leave(self, seq: Sequence, to_host: bool) -> None:
        """A member has left the batch; if `to_host`, its copies are part of what is there now, but
        for those of blocks that have fewer bits, which were copied again (`dirty_blocks`).
        """
        synced = self.synced_blocks(seq)
        member = self._members.pop(seq, None)
        if member is not None:
            written = self._forget(member)
            if self.placement is not None:
                self.placement.mirror_left(seq, to_host)
            useful = min(written, max(0, synced - sum(seq.host_small))) if to_host else 0
            self.useful_blocks += useful
            self.wasted_blocks += written - useful

    def take_in(self, batch: DecodeBatch) -> None:
        """Count who joined the batch since the plan before."""
        for seq in batch.joined:
            if seq.state is State.DECODING:
                self.join(seq)

    def give_way(self, batch: DecodeBatch) -> None:
        """Give copies up until the host holds no more than it can."""
        host = self._host
        if host.used + host.mirrored <= host.total:
            return
        for seq, member in list(self._members.items()):
            if member.synced or self._grown(member, self._watermark):
                del self._members[seq]
                self.wasted_blocks += self._forget(member)
                if self.placement is not None:
                    self.placement.mirror_left(seq, False)
                self._count(seq, Mirrored(batch.step, batch.length(seq) - 1, 0))
                if host.used + host.mirrored <= host.total:
                    return
        self._give_up_transfer()

    # -- copies ---------------------------------------------------------------------------------

    def start(self, batch: DecodeBatch, limit_blocks: int) -> int:
        """Choose what the next transfer copies, about `limit_blocks` at most and no more than the
        host has room for; returns how many blocks, and expects `begin` unless there are none.
        """
        host = self._host
        room = host.total - host.used - host.mirrored
        limit = min(limit_blocks, room)
        if self.transfer is not None or limit < 1:
            return 0
        stop, grown = self._grown_until(batch, limit)
        full = grown > room or room < limit_blocks
        if grown > room:
            stop, grown = self._watermark, 0
        self._next_watermark, self._grown_under_way = stop, grown
        blocks = grown + self._take_first_blocks(limit - grown)
        self.backlog = not full and (stop < batch.step or self._waits())
        return blocks

    def begin(self, transfer: Transfer) -> None:
        """The chosen blocks are on their way."""
        self.transfer = transfer
        self._held_blocks = transfer.blocks
        self._host.mirrored += transfer.blocks
        self.written_blocks += transfer.blocks

    def landed(self) -> None:
        """The transfer is over: what it copied has copies, unless its member has left."""
        arrived = self._grown_under_way
        self._grown_synced += arrived
        self._watermark = self._next_watermark
        for member, blocks in self._under_way:
            if member.alive:
                member.synced += blocks
                arrived += blocks
        self._drop_transfer(self._held_blocks - arrived)
        self.transfer, self._held_blocks = None, 0

    # -- inside ---------------------------------------------------------------------------------

    def _grown(self, member: Mirrored, step: int) -> int:
        """Blocks that a member filled from its start until the batch had done `step` steps."""
        size, tokens = self._block_tokens, member.start_tokens
        done = step - member.start_step
        return (tokens + done) // size - tokens // size if done > 0 else 0

    def _full_blocks(self, step: int) -> int:
        """Blocks that the members have filled when the batch has done `step` steps."""
        size = self._block_tokens
        rest = sum(n * ((place + step) % size) for place, n in enumerate(self._residues))
        return (self._tokens + len(self._members) * step - rest) // size

    def _add(self, member: Mirrored, count: int) -> None:
        tokens = member.start_tokens - member.start_step
        self._tokens += count * tokens
        self._residues[tokens % self._block_tokens] += count

    def _count(self, seq: Sequence, member: Mirrored) -> None:
        self._members[seq] = member
        first = member.start_tokens // self._block_tokens
        self._add(member, 1)
        self._start_blocks += first
        if member.synced < first:
            self._queue.appendleft(member)

    def _forget(self, member: Mirrored) -> int:
        """Take a member out of all sums; returns the blocks that were written through for it."""
        member.alive = False
        self._add(member, -1)
        grown = self._grown(member, self._watermark)
        self._start_blocks -= member.start_tokens // self._block_tokens
        self._grown_synced -= grown
        if self.transfer is not None:
            self._grown_under_way -= self._grown(member, self._next_watermark) - grown
        self._host.mirrored -= member.synced + grown
        return member.synced + grown - member.kept

    def _grown_until(self, batch: DecodeBatch, limit: int) -> tuple[int, int]:
        """How far the watermark goes with about `limit` blocks, and how many blocks that takes."""
        step, start = batch.step, self._watermark
        blocks = self._full_blocks(step) - self._start_blocks - self._grown_synced
        if blocks <= limit:
            return step, blocks
        # Behind by more than one transfer, after a time without any: as many steps as cannot fill
        # much more. Nobody knows how many they did fill without asking every member.
        step = min(step, start + max(1, limit * self._block_tokens // len(self._members)))
        members = self._members.values()
        return step, sum(self._grown(m, step) - self._grown(m, start) for m in members)

    def _take_first_blocks(self, limit: int) -> int:
        """Choose up to `limit` of the blocks that were full when their members joined."""
        self._under_way, taken = [], 0
        queue = self._queue
        while taken < limit and self._waits():
            member = queue[0]
            blocks = min(limit - taken, self._lacking(member))
            self._under_way.append((member, blocks))
            taken += blocks
            if blocks < self._lacking(member):
                break
            queue.popleft()
        return taken

    def _waits(self) -> bool:
        """True if first blocks of a member have no copy and are not under way."""
        queue = self._queue
        while queue and not (queue[0].alive and self._lacking(queue[0])):
            queue.popleft()
        return bool(queue)

    def _lacking(self, member: Mirrored) -> int:
        return member.start_tokens // self._block_tokens - member.synced

    def _give_up_transfer(self) -> None:
        """What is under way is not kept: a rotation that follows on the link takes its place."""
        if self.placement is not None:
            self.placement.mirror_given_up()
        self._under_way = []
        self._queue = deque(reversed(list(self._members.values())))
        self._grown_under_way, self._next_watermark = 0, self._watermark
        self._drop_transfer(self._held_blocks)
        self._held_blocks = 0

    def _drop_transfer(self, blocks: int) -> None:
        """So many blocks of the transfer are of no use."""
        self._host.mirrored -= blocks
        self.wasted_blocks += blocks


def _join_order(seq: Sequence) -> tuple[int, int]:
    return seq.join_step, seq.request.index
