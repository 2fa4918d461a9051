"""Who loses bits when memory is short: the ladder of a memory policy, carried out on the engine.

Full blocks of members of the decode batch are demoted, never up again: first to 8 bits, and to 4
under more pressure, as far as the classes of all who hold them allow. Nothing here is done while
live requests take less memory than the lowest threshold, and not again before they take more by a
share of the pool, so the work of a step does not grow with the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from superinfer.memory.base import Ladder, MemoryPolicy
from superinfer.memory.blocks.runs import Runs, cut, demoted, small_in
from superinfer.memory.blocks.slabs import FIRST_BLOCKS, NO_SMALL, Small
from superinfer.plan import Requantise

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine
    from superinfer.memory.index.node import Node
    from superinfer.memory.index.prefix import Shrunk
    from superinfer.sequence import Sequence

GRAIN: Final = 0.02
"""Share of the pool by which demotion goes below a threshold, and by which more is taken before it
looks again."""


def demotion_for(engine: Engine, memory: MemoryPolicy) -> Demotion | None:
    """Who demotes, if the memory policy wants it and the cache has smaller blocks."""
    if isinstance(memory, Ladder) and engine.config.small_block_bytes != NO_SMALL:
        return Demotion(engine, memory)
    return None


class Demotion:
    """The demotions of one engine."""

    def __init__(self, engine: Engine, ladder: Ladder) -> None:
        self._engine, self._ladder, self._pool = engine, ladder, engine.pool
        config = engine.config
        self._bytes = {16: config.block_bytes}
        self._bytes.update(zip((8, 4), config.small_block_bytes, strict=True))
        self._saved_tokens = {
            bits: config.block_tokens * (1.0 - self._time_share(bits)) for bits in (8, 4)
        }
        size = self._pool.size
        self._grain = max(1, int(GRAIN * size))
        shares = ((4, ladder.shrink_4_at), (8, ladder.shrink_8_at))
        self._levels = [
            (bits, int(share * size)) for bits, share in shares if share <= 1 and self._pays(bits)
        ]
        self._tail_blocks = -(-ladder.tail_tokens // config.block_tokens)
        self._lowest = min([taken for _, taken in self._levels], default=size + 1)
        self._next = self._lowest
        """Nothing is done while live requests take less."""
        self._changed: dict[Sequence, Runs] = {}
        """Bits that their blocks had before, of those who lose some in this decision."""

    @property
    def room(self) -> int:
        """Blocks that can be taken before there may be something to do."""
        return max(0, self._next - 1 - self._pool.taken)

    def relieve(self, now: float) -> None:
        """Take bits from the caches of running requests, as far as memory is short."""
        engine, batch = self._engine, self._engine.batch
        done = self._relieve()
        for seq in batch.lightened:
            batch.count_reads(seq)
            seq.seen_small = engine.holdings.small_blocks(seq)
        batch.lightened.clear()
        changed, self._changed = self._changed, {}
        if engine.mirror is not None:
            for seq, before in changed.items():
                engine.mirror.requantised(batch, seq, before)
        for job in done:
            assert job.sequence is not None
            numbers = (job.blocks, job.from_bits, job.to_bits)
            engine.journal.note(now, "requantise", job.sequence, numbers)
        engine.room.note_requantised(done)

    def shrunk(self, shrunk: Shrunk) -> Requantise:
        """The conversion of cached blocks that nobody holds."""
        blocks, from_bits, to_bits = shrunk
        return self._job(None, from_bits, to_bits, blocks)

    # -- what a sequence holds ------------------------------------------------------------------

    def light_tokens(self, small: Small) -> int:
        """Tokens of context that attention saves where so many blocks have fewer bits."""
        eight, four = small
        return int(self._saved_tokens[8] * eight + self._saved_tokens[4] * four)

    def read_shares(self, seq: Sequence, on_device: bool) -> tuple[float, float]:
        """Shares of 8 and 4 bits in all that the decode steps of an ended sequence have read; an
        answer of one token has none, so there it is the cache at the end that counts.
        """
        steps = seq.output_tokens - 1
        if steps < 1:
            return self._shares(seq) if self._pool.small and on_device else (0.0, 0.0)
        tokens = steps * seq.request.prompt_tokens + steps * (steps + 1) // 2
        eight, four = seq.small_reads
        block_tokens = self._engine.block_tokens
        return eight * block_tokens / tokens, four * block_tokens / tokens

    # -- inside ---------------------------------------------------------------------------------

    def _relieve(self) -> list[Requantise]:
        """Demote what has to be; returns what was."""
        taken = self._pool.taken
        self._next = min(self._next, self._after(taken))
        joined = self._engine.batch.joined
        if taken >= self._next:
            done = self._demote(list(self._engine.batch.members))
        elif joined and taken >= self._lowest:
            done = self._demote([seq for seq in joined if seq in self._engine.batch.members])
        else:
            return []
        self._next = self._after(self._pool.taken)
        return done

    def _shares(self, seq: Sequence) -> tuple[float, float]:
        """Shares of its blocks that have 8 and 4 bits."""
        eight, four = self._engine.holdings.small_blocks(seq)
        blocks = seq.blocks + seq.shared_blocks
        return (eight / blocks, four / blocks) if blocks else (0.0, 0.0)

    def _pays(self, bits: int) -> bool:
        """Whether blocks are smaller than with more bits: where they are short, the scales of the
        channels outweigh 4-bit values.
        """
        return all(self._bytes[bits] < self._bytes[more] for more in (16, 8) if more > bits)

    def _time_share(self, bits: int) -> float:
        byte_share = self._bytes[bits] / self._bytes[16]
        return self._engine.cost.attention_share(bits, byte_share)

    def _after(self, taken: int) -> int:
        """At how many blocks to look again when so many are taken."""
        if taken < self._lowest:
            return self._lowest
        over = [level for _, level in self._levels if level > taken]
        return min([*over, taken + self._grain])

    def _demote(self, members: list[Sequence]) -> list[Requantise]:
        """Demote blocks of these members until the memory is below the thresholds, to 4 bits first:
        nothing loses bits twice at once.
        """
        done: list[Requantise] = []
        members.sort(key=self._turn)
        for bits, level in self._levels:
            if self._pool.taken >= level:
                self._demote_to(bits, level - self._grain, members, done)
        return done

    def _turn(self, seq: Sequence) -> tuple[float, bool, int]:
        return (*self._ladder.shrinks_first(seq.request), seq.request.index)

    def _demote_to(
        self, bits: int, goal: int, members: list[Sequence], done: list[Requantise]
    ) -> None:
        floors = {seq: self._ladder.floor_bits(seq.request) for seq in members}
        lower = [seq for seq in members if floors[seq] <= bits]
        holders = self._holders(lower) if self._engine.tree is not None else {}
        for seq in lower:
            if self._pool.taken <= goal:
                return
            for node in list(_path(seq)):
                if node.bits > bits and len(holders.get(node, ())) == node.refs:
                    self._demote_node(node, bits, holders[node], done)
            self._demote_own(seq, bits, done)

    @staticmethod
    def _holders(members: list[Sequence]) -> dict[Node, list[Sequence]]:
        """Which of these members hold each part of the prefix tree."""
        holders: dict[Node, list[Sequence]] = {}
        for seq in members:
            for node in _path(seq):
                holders.setdefault(node, []).append(seq)
        return holders

    def _demote_node(
        self, node: Node, bits: int, holders: list[Sequence], done: list[Requantise]
    ) -> None:
        """Demote a part of the prefix tree, all of whose holders allow it."""
        tree = self._engine.tree
        assert tree is not None
        if node.start < FIRST_BLOCKS < node.stop:
            tree.cut(node, FIRST_BLOCKS)  # `node` is what comes after
        latest = min(self._full_blocks(seq) for seq in holders) - self._tail_blocks
        if node.start < latest < node.stop:
            node = tree.cut(node, latest)
        if node.start < FIRST_BLOCKS or node.stop > latest:
            return
        for seq in holders:
            self._note_change(seq)
        done.append(self._job(holders[0], node.bits, bits, node.blocks))
        if node.bits < 16:
            self._pool.count_small(node.bits, -node.blocks, 0)
        self._pool.count_small(bits, node.blocks, 0)
        before = node.bits
        tree.set_bits(node, bits)
        if self._engine.placement is not None:
            self._engine.placement.demoted(holders[0], node, before, bits, node.blocks)
        for seq in holders:
            self._relight(seq)

    def _demote_own(self, seq: Sequence, bits: int, done: list[Requantise]) -> None:
        """Demote the full blocks that a member has for itself, but the first and the latest."""
        start = max(FIRST_BLOCKS - seq.shared_blocks, 0)
        stop = self._full_blocks(seq) - self._tail_blocks - seq.shared_blocks
        eight, four = small_in(tuple(cut(seq.runs, start, stop)))
        moved = max(0, stop - start - eight - four)
        if not moved and (bits == 8 or not eight):
            return
        self._note_change(seq)
        self._pool.release_small(seq.small)
        if moved:
            self._note_own(seq, 16, bits, moved, done)
            seq.runs = demoted(seq.runs, start, moved, 16, bits)
        if bits == 4 and eight:
            self._note_own(seq, 8, 4, eight, done)
            seq.runs = demoted(seq.runs, start, eight, 8, 4)
        self._pool.hold_small(seq.small)
        self._relight(seq)

    def _note_change(self, seq: Sequence) -> None:
        if seq not in self._changed:
            self._changed[seq] = self._engine.holdings.runs_of(seq)

    def _note_own(
        self, seq: Sequence, from_bits: int, to_bits: int, blocks: int, done: list[Requantise]
    ) -> None:
        done.append(self._job(seq, from_bits, to_bits, blocks))
        if self._engine.placement is not None:
            self._engine.placement.demoted(seq, None, from_bits, to_bits, blocks)

    def _full_blocks(self, seq: Sequence) -> int:
        return (self._engine.batch.length(seq) - 1) // self._engine.block_tokens

    def _relight(self, seq: Sequence) -> None:
        light_tokens = self.light_tokens(self._engine.holdings.small_blocks(seq))
        self._engine.batch.lighten(seq, light_tokens - seq.light_tokens)

    def _job(self, seq: Sequence | None, from_bits: int, to_bits: int, blocks: int) -> Requantise:
        nbytes = blocks * (self._bytes[from_bits] + self._bytes[to_bits])
        return Requantise(seq, from_bits, to_bits, blocks, nbytes)


def _path(seq: Sequence) -> Any:
    """The parts of the prefix tree that a sequence holds, the last one first."""
    return seq.node.path() if seq.node is not None else ()
