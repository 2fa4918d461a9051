"""Decisions that go with an eager prefix cache, and loads of what it keeps on the host."""

from __future__ import annotations

from superinfer.draft.view import DraftView
from superinfer.errors import PlanError
from superinfer.memory.base import Timing
from superinfer.memory.blocks.slabs import NO_SMALL, Small
from superinfer.plan import Change, Direction, Transfer
from superinfer.sequence import Sequence, State


class DraftLoads(DraftView):
    """What a draft decides about an `EagerCache` and an `OffloadTier`."""

    __slots__ = ()

    def settle(self, seq: Sequence, growth_blocks: int) -> None:
        """With an eager index: what this plan has taken so far, and `growth_blocks` more for its
        decodes, costs cached blocks now, before `seq` looks for its prefix or gives blocks back.
        """
        cache = self._engine.eager
        excess = min(self.pool.excess + growth_blocks, self.pool.cached)
        if cache is not None and excess > 0:
            self.changes.append(Change("reclaim", seq, 0, tuple(cache.reclaim(excess))))

    def host_prefix(self, seq: Sequence) -> int | None:
        """Blocks that an offload tier has on the host behind those that a waiting sequence finds on
        the device: to be had by `try_load`, the only way to get them. None if copies under way have
        to land before that can be said.
        """
        engine = self._engine
        offload, prefix = engine.offload, engine.prefix
        if offload is None or prefix is None:
            return 0
        self.settle(seq, self.batch.next_growth() if self.decoding else 0)
        keys = engine.keys(seq)
        cached, _ = prefix.match(seq.request, keys, self._shareable(seq))
        stop = seq.prefill_tokens // engine.block_tokens
        return offload.find(seq.request, keys, cached, stop)

    def try_load(
        self,
        seq: Sequence,
        blocks: int,
        *,
        keep_free: int = 0,
        reserved_blocks: int = 0,
        fit_all: bool = True,
    ) -> bool:
        """Give a waiting sequence what the device has of its prefix and blocks for what the host
        has behind it, as many as `host_prefix` has just said; False if they do not fit.

        They fit if `keep_free` and `reserved_blocks` stay available, and, unless `fit_all` is off,
        if there is room for its whole prefill with `keep_free` left over. It can run once the load
        has landed, and `adopt` has made it findable.
        """
        self._expect(seq, State.WAITING)
        engine = self._engine
        offload, prefix, keys = engine.offload, engine.prefix, engine.keys(seq)
        assert offload is not None and prefix is not None
        cached, unreferenced = prefix.match(seq.request, keys, self._shareable(seq))
        whole = self.blocks_for(seq.prefill_tokens) - cached if fit_all else 0
        room = self.available - unreferenced - keep_free
        if whole > room or blocks + reserved_blocks > room:
            return False
        seq.node, seq.shared_blocks = prefix.acquire(seq.request, keys, cached)
        seq.blocks = blocks
        self.pool.referenced += blocks
        tokens = min((cached + blocks) * engine.block_tokens, seq.prefill_tokens - 1)
        seq.prefix_tokens = seq.computed_tokens = tokens
        seq.transfer = transfer = self._transfer(seq, "h2d", blocks, "background")
        transfer.job = offload.load(seq.request, keys, seq.node, cached, blocks)
        seq.state = State.MOVING_IN
        engine.resident += 1
        self.changes.append(Change("admit", seq, blocks, (blocks,)))
        return True

    def adopt(self, seq: Sequence) -> None:
        """What a sequence has loaded, which has landed, is its own and findable from now on."""
        self._expect(seq, State.PREFILLING)
        engine = self._engine
        assert engine.offload is not None
        if engine.offload.adopt(seq.node):
            self.changes.append(Change("adopt", seq, 0))
            self._grow(seq, (seq.shared_blocks + seq.blocks) * engine.block_tokens)

    # -- inside ---------------------------------------------------------------------------------

    def _expect(self, seq: Sequence, state: State) -> None:
        if seq.state is not state:
            raise PlanError(f"{seq!r}: expected state {state.value}")

    def _grow(self, seq: Sequence, tokens: int) -> None:
        """Take the blocks up to `tokens` that are lacking; an eager index knows them at once."""
        engine, node = self._engine, seq.node
        need = max(0, self.blocks_for(tokens) - seq.shared_blocks - seq.blocks)
        seq.blocks += need
        self.pool.referenced += need
        published = 0 if engine.eager is None else engine.holdings.publish(seq, tokens)
        if need or published:
            self.changes.append(Change("grow", seq, need, (published, node)))

    def _transfer(
        self,
        seq: Sequence,
        direction: Direction,
        blocks: int,
        timing: Timing,
        small: Small = NO_SMALL,
    ) -> Transfer:
        """Plan a copy of so many blocks of a sequence, `small` ones among them."""
        nbytes, pieces = self._engine.copy_size(blocks, small)
        transfer = Transfer(seq, direction, blocks, nbytes, pieces, timing)
        (self.before_step if timing == "before_step" else self.background).append(transfer)
        return transfer
