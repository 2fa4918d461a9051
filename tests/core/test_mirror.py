"""The mirror's watermark and sums against a simulation that looks at every block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import request
from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.batch import DecodeBatch
from superinfer.memory.blocks.pool import HostPool
from superinfer.memory.blocks.runs import cut, demoted, joined
from superinfer.memory.blocks.slabs import BlockSizes
from superinfer.plan import Transfer
from superinfer.sequence import Sequence, State
from superinfer.transfers.mirror import Mirror

BLOCK = 4
SIZES = BlockSizes(4, 2, 1)
DIRTY, MOVING, SYNCED = "dirty", "moving", "synced"


@dataclass(eq=False)
class Block:
    """One full block of one member."""

    filled_at: int | None
    """Steps that the batch had done when a decode filled it; None for those from before."""
    state: str = DIRTY
    written: bool = False
    """True if its copy was written through, and not left over from a rotation."""
    bits: int = 16

    @property
    def nbytes(self) -> int:
        return SIZES.of(self.bits)


def bits_of(seq: Sequence, blocks: int) -> list[int]:
    return [bits for bits, count in cut(seq.runs, 0, blocks) for _ in range(count)]


def total(blocks: Iterable[Block]) -> int:
    return sum(block.nbytes for block in blocks)


@dataclass
class Shadow:
    """The same rules, block by block, in bytes."""

    total: int
    members: dict[Sequence, list[Block]] = field(default_factory=dict)
    moving: list[Block] = field(default_factory=list)
    reserved: int = 0
    stop: int = 0
    watermark: int = 0
    used: int = 0
    written: int = 0
    useful: int = 0
    wasted: int = 0

    @property
    def mirrored(self) -> int:
        """Host bytes that copies take."""
        blocks = [block for owned in self.members.values() for block in owned]
        return total(block for block in blocks if block.state == SYNCED) + self.reserved

    @property
    def room(self) -> int:
        """Blocks of 16 bits that there is room for."""
        return (4 * (self.total - self.used) - self.mirrored) // 4

    def activate(self, batch: DecodeBatch) -> None:
        self.watermark = batch.step
        self.members = {seq: self.first(seq, len(owned)) for seq, owned in self.members.items()}

    @staticmethod
    def first(seq: Sequence, blocks: int) -> list[Block]:
        return [Block(None, bits=bits) for bits in bits_of(seq, blocks)]

    def join(self, seq: Sequence, kept: int) -> None:
        if seq.request.index % 4 == 3:
            return
        first = self.first(seq, seq.computed_tokens // BLOCK)
        for block in first[:kept]:
            block.state = SYNCED
        self.members[seq] = first

    def advance(self, batch: DecodeBatch) -> None:
        for seq, blocks in self.members.items():
            if (batch.length(seq) - 1) % BLOCK == 0:
                blocks.append(Block(batch.step))

    def leave(self, seq: Sequence, to_host: bool) -> None:
        self._part(self.members.pop(seq, []), to_host)

    def _part(self, blocks: list[Block], to_host: bool) -> None:
        written = total(block for block in blocks if block.state == SYNCED and block.written)
        self.useful += written if to_host else 0
        self.wasted += 0 if to_host else written
        self.moving = [block for block in self.moving if block not in blocks]

    def demote(self, seq: Sequence) -> None:
        """What has other bits now has no copy, and nothing of it is under way."""
        blocks = self.members.pop(seq, None)
        if blocks is None:
            return
        lost = [block for block, bits in zip(blocks, bits_of(seq, len(blocks)), strict=True)
                if block.bits != bits]  # fmt: skip
        self.wasted += total(b for b in lost if b.state == SYNCED and b.written)
        self.moving = [block for block in self.moving if block not in blocks]
        for block in blocks:
            if block.state == MOVING or block in lost:
                block.state, block.written = DIRTY, False
            block.filled_at = None
        for block, bits in zip(blocks, bits_of(seq, len(blocks)), strict=True):
            block.bits = bits
        self.members[seq] = blocks

    def start(self, batch: DecodeBatch, limit: int) -> int:
        room = self.room
        limit = min(limit, room)
        if self.reserved or limit < 1:
            return 0
        owned = self.members.values()
        grown = [b for o in owned for b in o if b.filled_at is not None and b.state == DIRTY]
        self.stop = batch.step
        if len(grown) > limit:
            steps = max(1, limit * BLOCK // len(self.members))
            self.stop = min(batch.step, self.watermark + steps)
            grown = [b for b in grown if b.filled_at is not None and b.filled_at <= self.stop]
        if len(grown) > room:
            grown, self.stop = [], self.watermark
        left = limit - len(grown)
        first = [
            block
            for owned in reversed(list(self.members.values()))
            for block in owned
            if block.filled_at is None and block.state == DIRTY
        ]
        chosen = grown + (first[:left] if left > 0 else [])
        for block in chosen:
            block.state = MOVING
        self.moving, self.reserved = chosen, total(chosen)
        self.written += total(chosen)
        return len(chosen)

    def land(self) -> None:
        for block in self.moving:
            block.state, block.written = SYNCED, True
        self.wasted += self.reserved - total(self.moving)
        self.moving, self.reserved, self.watermark = [], 0, self.stop

    def give_way(self) -> None:
        for seq, blocks in list(self.members.items()):
            if self.room >= 0:
                return
            if any(block.state == SYNCED for block in blocks):
                self._part(blocks, False)
                del self.members[seq]
                self.members[seq] = self.first(seq, len(blocks))
        if self.room < 0:
            for block in self.moving:
                block.state = DIRTY
            self.wasted += self.reserved
            self.moving, self.reserved, self.stop = [], 0, self.watermark


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(1, 30), st.integers(0, 8)),
        st.tuples(st.just("advance"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.integers(0, 1)),
        st.tuples(st.just("start"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("land"), st.just(0), st.just(0)),
        st.tuples(st.just("host"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("demote"), st.integers(0, 9), st.integers(1, 6)),
    ),
    max_size=60,
)


class Both:
    """A mirror and its shadow, on one batch."""

    def __init__(self, host_blocks: int) -> None:
        self.batch = DecodeBatch(BLOCK)
        self.host = HostPool(host_blocks, sizes=SIZES)
        self.mirror = Mirror(
            self.host, BLOCK, lambda seq: seq.request.index % 4 != 3, lambda seq: seq.runs
        )
        self.shadow = Shadow(host_blocks)
        self.made = 0

    def join(self, tokens: int, kept: int) -> None:
        seq = Sequence(request(self.made, tokens, 0))
        self.made += 1
        seq.computed_tokens, seq.state = tokens, State.DECODING
        if tokens % 5 == 2:  # it came back with fewer bits
            seq.runs = joined([(16, 1), (8, tokens // BLOCK - 1)])
        kept = min(kept, tokens // BLOCK, max(0, self.host.mirror_room))
        if kept:
            self.activate()
        self.batch.join(seq)
        if self.mirror.active:
            self.mirror.join(seq, kept)
        self.shadow.join(seq, kept)

    def activate(self) -> None:
        """As the engine does before the first copy."""
        if not self.mirror.active:
            self.batch.joined.clear()
            self.mirror.activate(self.batch)
            self.shadow.activate(self.batch)

    def advance(self, steps: int, _: int) -> None:
        for _step in range(steps):
            self.batch.advance(1)
            self.shadow.advance(self.batch)

    def leave(self, place: int, to_host: int) -> None:
        members = list(self.batch.members)
        if place < len(members):
            self.batch.leave(members[place])
            self.mirror.leave(members[place], bool(to_host))
            self.shadow.leave(members[place], bool(to_host))

    def demote(self, place: int, count: int) -> None:
        """The first blocks, but one, lose bits: those of 16, or, if `count` is odd, those of 8."""
        members = list(self.batch.members)
        if place >= len(members):
            return
        seq = members[place]
        eight, four = seq.small
        sixteen = (self.batch.length(seq) - 1) // BLOCK - 1 - eight - four
        before = seq.runs
        if count % 2:
            seq.runs = demoted(before, 1, min(count, eight), 8, 4)
        elif sixteen > 0:
            seq.runs = demoted(before, 1, min(count, sixteen), 16, 8)
        if self.mirror.active:
            self.mirror.requantised(self.batch, seq, before)
            self.shadow.demote(seq)

    def start(self, limit: int, _: int) -> None:
        self.activate()
        blocks, small = self.mirror.start(self.batch, limit)
        assert blocks == self.shadow.start(self.batch, limit)
        assert SIZES.total(blocks, small) == (self.shadow.reserved if blocks else 0)
        if blocks:
            self.mirror.begin(Transfer(None, "d2h", blocks, blocks, 1, "background"))

    def land(self, *_: int) -> None:
        if self.mirror.transfer is not None:
            self.mirror.landed()
            self.shadow.land()

    def host_holds(self, used: int, _: int) -> None:
        self.host.used = self.shadow.used = min(used, self.host.total)
        self.mirror.give_way(self.batch)
        self.shadow.give_way()

    def check(self) -> None:
        mirror, shadow = self.mirror, self.shadow
        for seq, blocks in shadow.members.items():
            assert len(blocks) == (self.batch.length(seq) - 1) // BLOCK
            copied = [b.bits for b in blocks if b.state == SYNCED]
            small = copied.count(8), copied.count(4)
            assert mirror.synced(seq) == (len(copied), small)
        assert self.host.nbytes == 4 * self.host.used + shadow.mirrored
        assert self.host.mirror_room == shadow.room >= 0
        counts = (mirror.written_bytes, mirror.useful_bytes, mirror.wasted_bytes)
        assert counts == (shadow.written, shadow.useful, shadow.wasted)


def play(ops: list[Any], host_blocks: int) -> Both:
    both = Both(host_blocks)
    for name, first, second in ops:
        getattr(both, {"host": "host_holds"}.get(name, name))(first, second)
        both.check()
    return both


@settings(deadline=None, derandomize=True, max_examples=400)
@given(ops=OPS, host_blocks=st.sampled_from([20, 60, 1000]))
def test_watermark_and_sums_are_what_every_block_tells(ops: list[Any], host_blocks: int) -> None:
    both = play(ops, host_blocks)
    for _ in range(len(both.batch.members)):
        both.leave(0, 0)
    both.land()
    both.check()
    assert both.host.mirrored == 0
    done = both.mirror.useful_bytes + both.mirror.wasted_bytes
    assert done == both.mirror.written_bytes


def test_a_slow_link_lags_behind_in_order() -> None:
    """Two members of 8 tokens, one of which came with a copy of its first block; after 8 steps each
    has filled two more blocks, at steps 4 and 8.
    Three blocks do not take them all: 3 * 4 // 2 = 6 steps' worth are those of step 4, and then one
    of the first blocks of the one that came last. The next three take those of step 8 and its other
    first block; the next the one that is left.
    """
    both = play([("join", 8, 1), ("join", 8, 0), ("advance", 8, 0)], 1000)
    copies = []
    for _ in range(3):
        both.start(3, 0)
        backlog = both.mirror.backlog
        both.land()
        both.check()
        copies.append(([both.mirror.synced(s).number for s in both.batch.members], backlog))
    assert copies == [([2, 2], True), ([3, 4], True), ([4, 4], False)]


@pytest.mark.parametrize(("host_blocks", "copied"), [(3, 3), (100, 3)])
def test_what_the_host_has_no_room_for_is_no_backlog(host_blocks: int, copied: int) -> None:
    """Of a member's four blocks three are copied, because of the limit or for want of room; only
    what the limit left behind is to follow at once.
    """
    both = play([("join", 16, 0)], host_blocks)
    both.start(3 if host_blocks > copied else 9, 0)
    assert both.mirror._held.number == copied
    assert both.mirror.backlog == (host_blocks > copied)


@pytest.mark.parametrize(
    ("used", "synced", "wasted"), [(16, [4, 2], 0), (17, [0, 2], 16), (20, [0, 2], 16)]
)
def test_copies_give_way_earliest_member_first(used: int, synced: list[int], wasted: int) -> None:
    """Of 22 host blocks six hold copies: sixteen can be taken, and with one to four more the first
    member loses its copies.
    """
    both = play([("join", 16, 0), ("join", 8, 0), ("start", 9, 0), ("land", 0, 0)], 22)
    both.host_holds(used, 0)
    both.check()
    assert [both.mirror.synced(seq).number for seq in both.batch.members] == synced
    assert both.mirror.wasted_bytes == wasted


def test_who_left_is_forgotten_while_no_copy_is_made() -> None:
    """Members with full blocks come and go beside one that stays; nobody asks for a copy."""
    both = play([("join", 8, 0)], 1000)
    both.activate()
    for _ in range(200):
        both.join(8, 0)
        both.leave(1, 0)
    both.check()
    assert len(both.mirror._queue) <= 2 * len(both.batch.members) + 2
    both.start(9, 0)
    both.land()
    both.check()
    assert [both.mirror.synced(seq).number for seq in both.batch.members] == [2]


def test_a_copy_under_way_gives_way_too() -> None:
    """The room of a copy that has not landed is taken; when it lands nothing has a copy, and the
    same blocks are copied again, in the order that they had.
    """
    both = play([("join", 8, 0), ("join", 8, 0), ("start", 9, 0), ("host", 20, 0)], 22)
    assert (both.host.mirrored, both.mirror.wasted_bytes) == (0, 4 * 4)
    both.land()
    both.host_holds(0, 0)
    both.start(3, 0)
    both.land()
    both.check()
    assert [both.mirror.synced(seq).number for seq in both.batch.members] == [1, 2]


def test_only_blocks_that_lost_bits_are_copied_again() -> None:
    """Six blocks have copies, 24 bytes; those of the second to the fourth are none any more when
    the blocks go to 8 bits, and a transfer of 3 x 2 bytes brings new ones. Only 18 bytes of copies
    are left over at the end, all of use: 12 of the first transfer were in vain.
    """
    both = play([("join", 24, 0), ("start", 9, 0), ("land", 0, 0)], 100)
    (seq,) = both.batch.members
    assert both.mirror.synced(seq) == (6, (0, 0))
    seq.runs = demoted(seq.runs, 1, 3, 16, 8)
    both.mirror.requantised(both.batch, seq, ())
    assert (both.mirror.synced(seq), both.host.nbytes) == ((3, (0, 0)), 12)
    assert both.mirror.start(both.batch, 9) == (3, (3, 0))
    both.mirror.begin(Transfer(None, "d2h", 3, 6, 3, "background"))
    assert both.mirror.chosen() == [(seq, 1, 4)]
    both.mirror.landed()
    assert (both.mirror.synced(seq), both.host.nbytes) == ((6, (3, 0)), 18)
    both.mirror.leave(seq, True)
    counts = (both.mirror.written_bytes, both.mirror.useful_bytes, both.mirror.wasted_bytes)
    assert counts == (24 + 6, 12 + 6, 12)
    assert both.host.nbytes == 0


def test_a_small_copy_left_over_from_a_rotation_is_one() -> None:
    """Back from the host with the second to fifth of its five blocks at 8 bits, all copies kept:
    nothing is dirty. Two of them go on to 4 bits, and only these are.
    """
    both = play([("join", 20, 0)], 100)
    (seq,) = both.batch.members
    seq.runs = ((16, 1), (8, 4))
    both.activate()
    both.mirror.leave(seq, False)
    both.mirror.join(seq, 5)
    assert (both.mirror.synced(seq), both.host.nbytes) == ((5, (4, 0)), 4 + 4 * 2)
    before, seq.runs = seq.runs, demoted(seq.runs, 1, 2, 8, 4)
    both.mirror.requantised(both.batch, seq, before)
    assert (both.mirror.synced(seq), both.host.nbytes) == ((3, (2, 0)), 4 + 2 * 2)
    assert both.mirror.wasted_bytes == 0  # nothing was written through
