"""What a scheduler can ask while it builds a plan: the read side of a draft."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from superinfer.costs.base import Chunk
from superinfer.memory.blocks.runs import small_within
from superinfer.memory.blocks.slabs import NO_SMALL, Blocks, Small, added, lacking
from superinfer.plan import Change, Direction, PrefillChunk, Transfer, Work
from superinfer.sequence import Sequence, State
from superinfer.transfers.links import OTHER

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine
    from superinfer.memory.index.node import Node


class DraftView:
    """The plan so far, and questions about the engine as the decisions so far have left it."""

    __slots__ = (
        "_engine",
        "background",
        "batch",
        "before_step",
        "changes",
        "chunk_steps",
        "chunks",
        "clear_blocks",
        "decoding",
        "full_duplex",
        "now",
        "padded",
        "pool",
        "steps",
        "until",
        "write_blocks",
    )

    def __init__(self, engine: Engine, now: float) -> None:
        self._engine = engine
        self.now = now
        self.batch = engine.batch
        self.pool = engine.pool
        self.chunks: list[PrefillChunk] = []
        self.before_step: list[Transfer] = []
        self.background: list[Transfer] = []
        self.changes: list[Change] = []
        self.chunk_steps = 1
        self.clear_blocks = 0
        """Blocks that have to be free before the step, and not merely reclaimable."""
        self.decoding = False
        self.full_duplex = False
        """Whether `before_step` copies run both ways at once, from the decision on (`Plan`)."""
        self.padded: Work | None = None
        self.steps = 1
        self.until = math.inf
        self.write_blocks = 0
        """Full blocks to be written through, at most."""

    @property
    def ahead(self) -> bool:
        """True if a step is on the device (lag 1): what is decided now follows it."""
        return self._engine.running is not None

    @property
    def available(self) -> int:
        """Device blocks that can still be taken, before the decode batch grows."""
        return self.pool.available

    @property
    def leaving_blocks(self) -> int:
        """Device blocks that come free when the copies under way have landed."""
        return self._engine.landings.leaving_blocks

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self._engine.block_tokens)

    def chunk_blocks(self, seq: Sequence, tokens: int) -> int:
        """Blocks that a prefilling sequence lacks for a chunk of `tokens` tokens."""
        need = self.blocks_for(seq.computed_tokens + tokens) - seq.shared_blocks - seq.blocks
        return max(0, need)

    @property
    def host_free(self) -> int:
        """Host blocks of 16 bits that nobody holds."""
        return self._engine.host.free

    @property
    def host_occupancy(self) -> float:
        """Share of the host's room that swapped sequences take; 0 where there is none."""
        return self._engine.host.occupancy

    def host_fits(self, seq: Sequence, *others: Sequence) -> bool:
        """True if the host has room for the cache of the sequence, and of the others with it."""
        engine, blocks = self._engine, self.held_blocks(seq)
        small = self.held_small(seq)
        for other in others:
            blocks += self.held_blocks(other)
            small = added(small, self.held_small(other))
        return engine.host.fits(blocks, small)

    def held_blocks(self, seq: Sequence) -> int:
        """Blocks that hold the computed tokens of a resident sequence, shared ones included."""
        return self.blocks_for(self._computed(seq))

    def held_small(self, seq: Sequence) -> Small:
        """How many of the `held_blocks` have 8 and 4 bits; of a cached prefix over which its chunks
        still walk, it may share more.
        """
        runs = self._engine.holdings.runs_of(seq)
        return small_within(runs, [(0, self.held_blocks(seq))]) if runs else NO_SMALL

    def private_blocks(self, seq: Sequence) -> int:
        """Device blocks of 16 bits that come free when this sequence leaves, shared ones not
        counted.
        """
        blocks = seq.blocks
        if seq.state is State.DECODING:
            blocks = self.held_blocks(seq) - seq.shared_blocks
        return self._engine.holdings.room(seq, blocks)

    @property
    def saved_by_sharing(self) -> int:
        """Device blocks that the live sequences would hold more if each had its own."""
        prefix = self._engine.prefix
        return prefix.shared_again if prefix is not None else 0

    def first_new_block(self, seq: Sequence) -> object:
        """Names the first full block of a prompt that the prefix cache does not hold; None if it
        holds all of them, or if nothing is known of the content. Equal names, equal prefixes.
        """
        engine = self._engine
        prefix, keys = engine.prefix, engine.keys(seq)
        if prefix is None or not keys:
            return None
        blocks = seq.request.prompt_tokens // engine.block_tokens
        cached, _ = prefix.match(seq.request, keys, blocks)
        return prefix.block_name(seq.request, keys, cached) if cached < blocks else None

    def cached_tokens(self, seq: Sequence) -> int:
        """Leading tokens of a waiting sequence's prefill that the prefix cache holds now."""
        engine = self._engine
        prefix = engine.prefix
        if prefix is None or seq.state is not State.WAITING or not (keys := engine.keys(seq)):
            return 0
        cached, _ = prefix.match(seq.request, keys, self._shareable(seq))
        return cached * engine.block_tokens

    def grows(self, seq: Sequence) -> bool:
        """True if the sequence decodes and needs a new block in the next step."""
        return seq.state is State.DECODING and self.batch.grows(seq)

    def admits(self, seq: Sequence) -> bool:
        """True if this plan begins the prefill of a resident sequence, maybe anew: it cannot leave
        for the host in it.
        """
        if seq.state is not State.PREFILLING:
            return False
        return any(change.kind == "admit" and change.sequence is seq for change in self.changes)

    def dirty(self, seq: Sequence) -> Blocks:
        """Blocks of a resident sequence that a swap-out has to copy: the others have copies of the
        bits that they have now.
        """
        mirror, held = self._engine.mirror, self.held_blocks(seq)
        small = self.held_small(seq)
        # An unfinished prefill has no copies; those of a cache that this plan drops are still told.
        if mirror is None or seq.state is State.PREFILLING:
            return Blocks(held, small)
        synced = mirror.synced(seq)
        return Blocks(held - synced.number, lacking(small, synced.small))

    def queued_s(self, direction: Direction) -> float:
        """Predicted seconds until a direction of the link is through with the copies under way and
        those that this plan has so far.
        """
        links = self._engine.links
        queued_s = links.queued_s(direction, self.now)
        planned = (*self.before_step, *self.background)
        if not planned:
            return queued_s
        company = not self.link_idle(OTHER[direction])
        for transfer in planned:
            if transfer.direction == direction:
                queued_s += links.copy_s(transfer, company)
        return queued_s

    def link_idle(self, direction: Direction) -> bool:
        """True if no copy in a direction is under way or planned."""
        if self._engine.links.busy(direction):
            return False
        planned = (*self.before_step, *self.background)
        return all(transfer.direction != direction for transfer in planned)

    @property
    def write_backlog(self) -> bool:
        """True if the latest write-through left full blocks behind for another one."""
        mirror = self._engine.mirror
        return mirror is not None and mirror.backlog

    @property
    def written_through(self) -> tuple[float, float]:
        """What was written through so far, in blocks of 16 bits: of use, and in vain."""
        mirror, size = self._engine.mirror, self._engine.config.block_bytes
        if mirror is None:
            return 0.0, 0.0
        return mirror.useful_bytes / size, mirror.wasted_bytes / size

    def swap_s(self, seq: Sequence) -> float:
        """Predicted seconds to copy what has no copy yet to the host, and all of it back; each
        way behind what waits for the link now.
        """
        dirty, small = self.dirty(seq), self.held_small(seq)
        out_s = self.queued_s("d2h") + self.copy_s(dirty.number, "d2h", dirty.small)
        return out_s + self.queued_s("h2d") + self.copy_s(self.held_blocks(seq), "h2d", small)

    def offload_loses(self, seq: Sequence) -> bool:
        """True if copying a sequence out and back would take no less than computing it again."""
        return self.swap_s(seq) >= self.recompute_s(seq)

    def copy_s(self, blocks: int, direction: Direction, small: Small = NO_SMALL) -> float:
        """Predicted seconds to copy so many blocks, `small` ones among them, over an idle link."""
        nbytes, pieces = self._engine.copy_size(blocks, small)
        return self._engine.believed.transfer_s(nbytes, pieces, direction)

    def full_blocks(self, blocks: int, small: Small = NO_SMALL) -> float:
        """As many blocks of 16 bits as have the bytes of these, `small` ones among them."""
        config = self._engine.config
        return config.block_sizes.total(blocks, small) / config.block_bytes

    def recompute_s(self, seq: Sequence) -> float:
        """Predicted seconds to compute the cache again in one prefill."""
        return self._engine.believed.step_s([Chunk(self._computed(seq), 0)], 0, 0)

    def find_prefix(self, seq: Sequence, *, touch: bool = False) -> Node | None:
        """Deepest node of the cached prefix that a waiting sequence would share, if there is one
        and the prefix index is a tree.

        `touch` counts the look-up as a use of its blocks, which stays so even after a `rollback`.
        """
        engine = self._engine
        tree = engine.tree
        if tree is None or not (keys := engine.keys(seq)):
            return None
        limit = self._shareable(seq)
        if engine.tier is not None:  # it does not share all that it finds
            limit, _ = tree.match(seq.request, keys, limit)
        node = tree.find(seq.request, keys, limit)
        if touch and node is not None:
            tree.touch(node, self.now)
        return node

    # -- inside ---------------------------------------------------------------------------------

    def _computed(self, seq: Sequence) -> int:
        if seq.state is State.DECODING:
            return self.batch.length(seq) - 1
        return seq.computed_tokens

    def _shareable(self, seq: Sequence) -> int:
        """Most blocks that may come from the prefix index: one token at least is computed, and only
        an eager index knows a request's own answer.
        """
        shareable = seq.prefill_tokens - 1
        if self._engine.eager is None:
            shareable = min(shareable, seq.request.prompt_tokens)
        return shareable // self._engine.block_tokens
