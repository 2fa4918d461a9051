"""What sequences hold in GPU memory: taken to be shared, kept when they end, given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superinfer.memory.base import PrefixCache
from superinfer.memory.blocks.runs import NO_RUNS, Runs, cut, joined, small_in
from superinfer.memory.blocks.slabs import Small
from superinfer.memory.index.keys import Key
from superinfer.sequence import Sequence

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine


class Holdings:
    """The blocks of one engine's sequences."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._pool = engine, engine.pool

    def runs_of(self, seq: Sequence) -> Runs:
        """Bits of the blocks that a resident sequence holds, shared ones included."""
        if seq.node is None or self._engine.tree is None or not self._pool.small:
            return seq.runs
        path = [(node.bits, node.blocks) for node in seq.node.path()]
        return joined([*path[::-1], *seq.runs])

    def small_blocks(self, seq: Sequence) -> Small:
        """How many of them have 8 and 4 bits."""
        return small_in(self.runs_of(seq))

    def room(self, seq: Sequence, private_blocks: int) -> int:
        """Device blocks of 16 bits in whose place a sequence has so many of its own."""
        if not seq.runs:
            return private_blocks
        eight, four = seq.small
        return private_blocks + self._pool.saving(-eight, -four)

    def free(self, seq: Sequence, now: float) -> int:
        """Give back a sequence's device blocks; returns how many private ones that were."""
        freed, seq.blocks = seq.blocks, 0
        self._pool.referenced -= freed
        if seq.runs:
            self._pool.release_small(seq.small)
            seq.runs = NO_RUNS
        seq.light_tokens = 0
        if seq.node is not None:
            assert self._engine.prefix is not None
            self._engine.prefix.release(seq.node, now)
            seq.node, seq.shared_blocks = None, 0
        return freed

    def keep_own(self, seq: Sequence, scheduled_tokens: int) -> None:
        """Before a preempted sequence is dropped: an eager index keeps its full private blocks.

        Those count that would have been full after the step in which it was `scheduled` first. With
        lag 1 the token that the step on the device is about to give is not known yet, and so
        neither is the content of the block that the step completes.
        """
        engine = self._engine
        if engine.eager is None or seq.node is None:
            return
        running, told = engine.running, seq.computed_tokens + scheduled_tokens
        if running is not None and running.decodes and seq.last_token_step == engine.batch.step - 1:
            told -= 1
        own = told // engine.block_tokens - seq.shared_blocks
        if 0 < own <= seq.blocks:
            engine.eager.add_own(seq.request, seq.node, own)

    def publish(self, seq: Sequence, computed_tokens: int) -> int:
        """Make the prompt blocks among so many tokens findable; returns how many that were.

        Not those of a prompt that came back from the host with fewer bits.
        """
        engine = self._engine
        assert engine.prefix is not None
        if seq.runs:
            return 0
        stop = min(computed_tokens, seq.request.prompt_tokens) // engine.block_tokens
        keys = engine.keys(seq)
        if not keys or stop <= seq.shared_blocks:
            return 0
        return self._share(engine.prefix, seq, keys, stop)

    def publish_text(self, seq: Sequence, ids: tuple[Key, ...]) -> None:
        """Make full blocks of a prompt and its answer findable, by the content of both; in an index
        that is the tree alone.
        """
        tree = self._engine.tree
        hash_tokens, block_tokens = seq.request.hash_block_tokens, self._engine.block_tokens
        stop = min(seq.computed_tokens, len(ids) * hash_tokens) // block_tokens
        own = stop - seq.shared_blocks
        # Where ids are longer than blocks the prompt's last ones bear that of a partial id. With
        # lag 1 a plan may have sent it to the host, or dropped it, before its end was known.
        fits = block_tokens % hash_tokens == 0 and 0 < own <= seq.blocks
        if tree is not None and fits and not seq.runs:
            self._share(tree, seq, ids, stop)

    def release(self, seq: Sequence, now: float) -> None:
        """Free everything an ended sequence holds; full blocks of its text stay as cached ones."""
        engine = self._engine
        if engine.prefix is not None and seq.blocks and seq.computed_tokens:
            answer = seq.computed_tokens // engine.block_tokens - seq.shared_blocks
            if 0 < answer <= seq.blocks and (engine.eager is not None or engine.keys(seq)):
                self._keep_answer(engine.prefix, seq, answer, now)
        if engine.placement is not None:
            engine.placement.released(seq)
        self.free(seq, now)
        if seq.host_blocks:
            engine.host.release(seq.host_blocks, seq.host_small)
            seq.host_blocks, seq.host_runs = 0, NO_RUNS

    # -- inside ---------------------------------------------------------------------------------

    def _share(
        self, prefix: PrefixCache, seq: Sequence, keys: tuple[Key, ...], stop_blocks: int
    ) -> int:
        """Make a sequence's first `stop_blocks` findable; returns how many of them were its own."""
        above = seq.node
        seq.node, moved = prefix.insert(seq.request, keys, above, stop_blocks)
        seq.blocks -= moved
        seq.shared_blocks += moved
        if moved and self._engine.placement is not None:
            self._engine.placement.published(seq, above)
        return moved

    def _keep_answer(self, prefix: PrefixCache, seq: Sequence, blocks: int, now: float) -> None:
        """Keep full blocks of a sequence's own text as cached ones, as they are."""
        engine = self._engine
        node = seq.node
        if not seq.runs:
            leaf = prefix.add_answer(seq.request, node, blocks, now)
            if engine.placement is not None:
                engine.placement.answered(seq, leaf)  # type: ignore[arg-type]
            return
        assert engine.tree is not None
        for bits, count in cut(seq.runs, 0, blocks):
            node = engine.tree.add_answer(seq.request, node, count, now, bits)
        if engine.placement is not None:
            engine.placement.answered(seq, node)
