"""Room for what runs: cached blocks that are in the way go, or lose bits, and a plan is no longer
than its memory lasts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superinfer.draft import Draft
from superinfer.plan import Requantise

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine


class Room:
    """The room in one engine's block pool."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._pool = engine, engine.pool
        self._requantised: list[Requantise] = []
        """Conversions for the next plan."""

    def settle(self, now: float) -> None:
        """After blocks were taken: reclaim cached ones that are in the way, note the peak.

        Without a prefix cache it may be left out below the peak. The peak comes first: a policy may
        give back more than is asked for.
        """
        self._pool.note_peak()
        while self._pool.excess > 0:  # smaller blocks make less room than they count
            self._reclaim(self._pool.excess, now)

    def clear(self, blocks: int, now: float) -> None:
        """Reclaim cached blocks until `blocks` are free, as far as there are any."""
        while (lacking := min(self._pool.excess + blocks, self._pool.cached)) > 0:
            self._reclaim(lacking, now)

    def note_requantised(self, done: list[Requantise]) -> None:
        """The next plan converts these blocks of running requests, too."""
        self._requantised += done

    def take_requantised(self) -> list[Requantise]:
        """Conversions since last asked."""
        taken, self._requantised = self._requantised, []
        return taken

    def steps_of(self, draft: Draft, decodes: int) -> int:
        """How many steps a draft stands for: fewer where memory has to be seen to in between."""
        engine = self._engine
        steps = draft.steps if decodes else draft.chunk_steps
        if draft.chunks and steps > draft.chunk_steps:
            steps = draft.chunk_steps
        if steps > 0 and (
            (engine.tier is not None or engine.offload is not None) or self._shrinks_cached
        ):
            steps = self._steps_without_copies(steps, bool(draft.chunks))
        if steps > 1 and decodes and engine.demotion is not None:
            steps = min(steps, engine.batch.steps_within(engine.demotion.room, steps) + 1)
        return steps

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _shrinks_cached(self) -> bool:
        """True if cached blocks may lose bits when they are in the way."""
        engine = self._engine
        if engine.demotion is None or engine.tree is None or engine.tree.ladder is None:
            return False
        return engine.tree.ladder.shrinks_cached

    def _steps_without_copies(self, steps: int, chunks: bool) -> int:
        """Copies of cached blocks, and conversions, come before a step, or follow on one: a slice
        ends where one may be needed. With an offload tier a waiting request may also miss a block
        that goes.
        """
        engine = self._engine
        tier, offload = engine.tier, engine.offload
        if offload is not None:
            steps = offload.steps_before_store(engine.batch, steps)
        if chunks or steps == 1:
            return 1
        if self._shrinks_cached:
            return self._steps_without_eviction(steps)
        if len(engine.live) == engine.resident if tier is None else not tier.tier.writes_back:
            return steps
        return self._steps_without_eviction(steps)

    def _steps_without_eviction(self, steps: int) -> int:
        """How many of so many decodes, one at least, take free blocks alone."""
        pool, batch = self._pool, self._engine.batch
        free = pool.total - pool.referenced - pool.cached
        return batch.steps_within(max(free, batch.next_growth()), steps)

    def _reclaim(self, wanted: int, now: float) -> None:
        engine = self._engine
        assert engine.prefix is not None
        if not self._shrinks_cached:
            engine.journal.note_reclaimed(engine.prefix.reclaim(wanted), now)
            return
        assert engine.tree is not None and engine.demotion is not None
        engine.journal.note_reclaimed(engine.tree.make_room(wanted), now)
        for shrunk in engine.tree.take_shrunk():
            self._requantised.append(engine.demotion.shrunk(shrunk))
            engine.journal.note_cached(now, "requantise", *shrunk)
