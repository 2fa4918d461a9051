"""Copies to the host that no request asked for: blocks that a cache evicts into its host tier or
backs up there, and what running sequences have written, ahead of their rotation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from superinfer.draft import Draft
from superinfer.engine.journal import LEAVING
from superinfer.memory.base import OffloadTier, Timing
from superinfer.memory.blocks.slabs import NO_BLOCKS, Blocks
from superinfer.plan import Transfer
from superinfer.schedulers.base import Scheduler
from superinfer.sequence import Sequence, State
from superinfer.transfers.mirror import Mirror

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine


def mirror_for(engine: Engine, scheduler: Scheduler) -> Mirror | None:
    """Where copies of running sequences are counted, if the scheduler wants any."""
    if not getattr(scheduler, "write_through", False):
        return None
    wanted: Callable[[Sequence], bool] = getattr(scheduler, "may_swap_out")  # noqa: B009
    return Mirror(engine.host, engine.block_tokens, wanted, engine.holdings.runs_of)


class CopiesAhead:
    """Books them for one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_host = engine.tier is not None or engine.offload is not None

    def concern(self, draft: Draft) -> bool:
        """True if `book` may have something to do."""
        mirror = self._engine.mirror
        return self._has_host or (mirror is not None and mirror.concerns(draft))

    def book(self, draft: Draft, decodes: int, now: float) -> None:
        """Copies in the background, ahead of need."""
        mirror, batch = self._engine.mirror, self._engine.batch
        if mirror is not None and mirror.concerns(draft):
            self._follow(mirror, draft)
            written = NO_BLOCKS
            if draft.write_blocks and decodes:
                written = mirror.start(batch, draft.write_blocks)
            if written.number:
                self._copy("write_through", written, draft.background, "background", now)
                mirror.begin(draft.background[-1])
        if self._has_host:
            self._back_up(draft, decodes, now)

    def book_evicted(self, draft: Draft, now: float) -> None:
        """What the tier has just evicted has to be on the host before the step that overwrites
        it.
        """
        tier = self._engine.tier
        if tier is not None:
            self._copy("offload", tier.take_evicted(), draft.before_step, "before_step", now)

    # -- inside ---------------------------------------------------------------------------------

    def _follow(self, mirror: Mirror, draft: Draft) -> None:
        """Tell the mirror who comes and goes by a draft."""
        batch, block_tokens = self._engine.batch, self._engine.block_tokens
        if not mirror.active:
            mirror.activate(batch)
        # Who stands aside and then leaves for the host, all in one draft, has its copies there.
        swaps = {
            seq: place
            for place, (kind, seq, _, _) in enumerate(draft.changes)
            if kind == "swap_out"
        }
        for place, (kind, seq, _, saved) in enumerate(draft.changes):
            if kind in LEAVING:
                mirror.leave(seq, place <= swaps.get(seq, -1))
            elif kind == "swap_in" and seq.state is State.DECODING and saved[0] == "before_step":
                mirror.join(seq, seq.computed_tokens // block_tokens)
        if batch.joined:
            mirror.take_in(batch)
        mirror.give_way(batch)

    def _back_up(self, draft: Draft, decodes: int, now: float) -> None:
        """Book copies to the host that no step waits for."""
        tier, offload = self._engine.tier, self._engine.offload
        if tier is not None:
            self._copy("backup", tier.take_backed_up(), draft.background, "background", now)
        if offload is not None:
            for job, blocks in self._due_stores(offload, draft, decodes):
                self._copy("backup", Blocks(blocks), draft.background, "background", now)
                draft.background[-1].job = job

    def _due_stores(
        self, offload: OffloadTier, draft: Draft, decodes: int
    ) -> list[tuple[object, int]]:
        """What the step before completed is copied from this one on; what this plan's first step
        completes, with the next plan.
        """
        for transfer in draft.background:
            if transfer.job is not None:
                offload.begin(transfer.job)
        due = offload.take_stores()
        offload.store(self._engine.batch, draft.chunks, decodes)
        if not (decodes or draft.chunks):
            due += offload.take_stores()
        return due

    def _copy(
        self, kind: str, copied: Blocks, transfers: list[Transfer], timing: Timing, now: float
    ) -> None:
        blocks = copied.number
        if not blocks:
            return
        engine = self._engine
        nbytes, pieces = engine.copy_size(blocks, copied.small)
        transfer = Transfer(None, "d2h", blocks, nbytes, pieces, timing)
        transfers.append(transfer)
        engine.recorder.cache_d2h_bytes += nbytes
        engine.recorder.note_copy(transfer, now)
        engine.journal.note_cached(now, kind, blocks)
