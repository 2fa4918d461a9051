"""How a draft becomes a plan: checked as a whole, noted, and given the memory that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superinfer.draft import Draft
from superinfer.engine.copies_ahead import CopiesAhead
from superinfer.engine.plan_checks import check_work
from superinfer.errors import PlanError
from superinfer.plan import Plan

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine


class Commits:
    """Makes the plans of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._pool = engine, engine.pool
        self._copies = CopiesAhead(engine)

    def commit(self, draft: Draft, now: float) -> Plan | None:
        """The plan of a draft, or None where it leaves the device nothing to do. Raises PlanError,
        with nothing noted yet, where the draft asks for the impossible.
        """
        batch, chunks = self._engine.batch, draft.chunks
        decodes = batch.size if draft.decoding else 0
        steps = self._engine.room.steps_of(draft, decodes)
        if steps < 1:
            raise PlanError("no memory for the next step: preempt or park before decoding")
        taken = batch.next_growth() if decodes else 0
        reserved = taken if steps == 1 else batch.growth(steps)
        self._check(draft, decodes, steps, reserved)
        self._note(draft, decodes, now)
        if not (decodes or chunks or draft.before_step or draft.background):
            return None
        self._make_room(draft, taken, now)
        if draft.before_step or draft.background:
            self._engine.links.start(draft.before_step, draft.background, now)
        self._engine.recorder.plans += 1
        joined, batch.joined = batch.joined, []
        return Plan(
            now,
            chunks,
            decodes,
            batch.context_tokens if decodes else 0,
            steps,
            draft.until,
            draft.before_step,
            draft.background,
            batch.step,
            joined,
            draft.changes,
            reserved,
            taken,
            draft.full_duplex,
            draft.padded,
            self._engine.room.take_requantised(),
            batch.light_tokens if decodes else 0,
            batch.longest_tokens() if decodes and not chunks else 0,
        )

    # -- inside ---------------------------------------------------------------------------------

    def _check(self, draft: Draft, decodes: int, steps: int, reserved: int) -> None:
        """Raises PlanError if memory or device cannot do what a draft asks."""
        pool = self._pool
        if reserved > pool.available:
            raise PlanError(f"{pool.referenced + reserved} blocks asked of {pool.total}")
        if draft.chunks or draft.padded is not None:
            check_work(draft.padded, draft.chunks, decodes, steps)

    def _note(self, draft: Draft, decodes: int, now: float) -> None:
        """Tell what was decided, and book the copies ahead that go with it."""
        engine = self._engine
        if draft.changes:
            engine.journal.note_changes(draft, now)
            if engine.placement is not None:
                engine.placement.decided(draft.changes)
        if self._copies.concern(draft):
            self._copies.book(draft, decodes, now)

    def _make_room(self, draft: Draft, taken: int, now: float) -> None:
        """Take the blocks of the next step; cached ones that are in the way go."""
        engine, pool = self._engine, self._pool
        if draft.clear_blocks:
            engine.room.clear(draft.clear_blocks, now)
        pool.referenced += taken
        if pool.referenced > pool.peak_referenced or engine.prefix is not None:
            engine.room.settle(now)
        if engine.tier is not None:
            self._copies.book_evicted(draft, now)
