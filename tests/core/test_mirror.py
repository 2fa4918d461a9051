"""The mirror's watermark and sums against a simulation that looks at every block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import request
from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.batch import DecodeBatch
from superinfer.memory.pool import HostPool
from superinfer.mirror import Mirror
from superinfer.plan import Transfer
from superinfer.sequence import Sequence, State

BLOCK = 4
DIRTY, MOVING, SYNCED = "dirty", "moving", "synced"


@dataclass(eq=False)
class Block:
    """One full block of one member."""

    filled_at: int | None
    """Steps that the batch had done when a decode filled it; None for those from before."""
    state: str = DIRTY
    written: bool = False
    """True if its copy was written through, and not left over from a rotation."""


@dataclass
class Shadow:
    """The same rules, block by block."""

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
        """Host blocks that copies take."""
        blocks = [block for owned in self.members.values() for block in owned]
        return sum(block.state == SYNCED for block in blocks) + self.reserved

    def activate(self, batch: DecodeBatch) -> None:
        self.watermark = batch.step
        self.members = {seq: [Block(None) for _ in owned] for seq, owned in self.members.items()}

    def join(self, seq: Sequence, kept: int) -> None:
        if seq.request.index % 4 == 3:
            return
        first = [Block(None) for _ in range(seq.computed_tokens // BLOCK)]
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
        written = sum(block.state == SYNCED and block.written for block in blocks)
        self.useful += written if to_host else 0
        self.wasted += 0 if to_host else written
        self.moving = [block for block in self.moving if block not in blocks]

    def start(self, batch: DecodeBatch, limit: int) -> int:
        room = self.total - self.used - self.mirrored
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
        self.moving, self.reserved = chosen, len(chosen)
        self.written += len(chosen)
        return len(chosen)

    def land(self) -> None:
        for block in self.moving:
            block.state, block.written = SYNCED, True
        self.wasted += self.reserved - len(self.moving)
        self.moving, self.reserved, self.watermark = [], 0, self.stop

    def give_way(self) -> None:
        for seq, blocks in list(self.members.items()):
            if self.used + self.mirrored <= self.total:
                return
            if any(block.state == SYNCED for block in blocks):
                self._part(blocks, False)
                del self.members[seq]
                self.members[seq] = [Block(None) for _ in blocks]
        if self.used + self.mirrored > self.total:
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
    ),
    max_size=60,
)


class Both:
    """A mirror and its shadow, on one batch."""

    def __init__(self, host_blocks: int) -> None:
        self.batch = DecodeBatch(BLOCK)
        self.host = HostPool(host_blocks)
        self.mirror = Mirror(self.host, BLOCK, lambda seq: seq.request.index % 4 != 3)
        self.shadow = Shadow(host_blocks)
        self.made = 0

    def join(self, tokens: int, kept: int) -> None:
        seq = Sequence(request(self.made, tokens, 0))
        self.made += 1
        seq.computed_tokens, seq.state = tokens, State.DECODING
        room = self.host.total - self.host.used - self.host.mirrored
        kept = min(kept, tokens // BLOCK, max(0, room))
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

    def start(self, limit: int, _: int) -> None:
        self.activate()
        blocks = self.mirror.start(self.batch, limit)
        assert blocks == self.shadow.start(self.batch, limit)
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
            assert mirror.synced_blocks(seq) == sum(b.state == SYNCED for b in blocks)
        assert self.host.mirrored == shadow.mirrored
        assert self.host.used + self.host.mirrored <= self.host.total
        counts = (mirror.written_blocks, mirror.useful_blocks, mirror.wasted_blocks)
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
    done = both.mirror.useful_blocks + both.mirror.wasted_blocks
    assert done == both.mirror.written_blocks


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
        copies.append(([both.mirror.synced_blocks(s) for s in both.batch.members], backlog))
    assert copies == [([2, 2], True), ([3, 4], True), ([4, 4], False)]


@pytest.mark.parametrize(("used", "synced", "wasted"), [(16, [4, 2], 0), (17, [0, 2], 4)])
def test_copies_give_way_earliest_member_first(used: int, synced: list[int], wasted: int) -> None:
    """Of 22 host blocks six hold copies: sixteen can be taken, and with one more the first member
    loses its copies.
    """
    both = play([("join", 16, 0), ("join", 8, 0), ("start", 9, 0), ("land", 0, 0)], 22)
    both.host_holds(used, 0)
    both.check()
    assert [both.mirror.synced_blocks(seq) for seq in both.batch.members] == synced
    assert both.mirror.wasted_blocks == wasted


def test_a_copy_under_way_gives_way_too() -> None:
    """The room of a copy that has not landed is taken; when it lands nothing has a copy, and the
    same blocks are copied again, in the order that they had.
    """
    both = play([("join", 8, 0), ("join", 8, 0), ("start", 9, 0), ("host", 20, 0)], 22)
    assert (both.host.mirrored, both.mirror.wasted_blocks) == (0, 4)
    both.land()
    both.host_holds(0, 0)
    both.start(3, 0)
    both.land()
    both.check()
    assert [both.mirror.synced_blocks(seq) for seq in both.batch.members] == [1, 2]
