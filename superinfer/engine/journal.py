"""How an engine's decisions are told: counted on their sequences and in the recorder, and given to
whoever listens to the run (`events.py`).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Final

from superinfer.draft import Draft
from superinfer.events import Sink
from superinfer.plan import NOTES, Direction, Plan, Transfer
from superinfer.sequence import Sequence

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine

LEAVING: Final = ("swap_out", "preempt", "park")
"""Changes that take a sequence out of the decode batch."""
_KINDS: Final = {
    "preempt": "preempt",
    "swap_out": "rotate_out",
    "swap_in": "rotate_in",
    **{kind: kind for kind in NOTES},
}
"""Names of events by those of changes."""
_COPIES: dict[str, Direction] = {"swap_out": "d2h", "swap_in": "h2d"}


class Journal:
    """What one engine tells."""

    def __init__(self, engine: Engine, sink: Sink | None) -> None:
        self._engine, self._recorder, self._sink = engine, engine.recorder, sink

    def tell(self, now: float, kind: str, seq: Sequence, numbers: tuple[object, ...] = ()) -> None:
        """Give an event of a sequence to the listener, without counting it."""
        if self._sink is not None:
            self._sink((now, kind, seq.request.request_id, *numbers))

    def note(self, now: float, kind: str, seq: Sequence, numbers: tuple[object, ...] = ()) -> None:
        """Count and tell an event of a sequence."""
        self._recorder.events += 1
        if self._sink is not None:
            self._sink((now, kind, seq.request.request_id, *numbers))

    def note_cached(self, now: float, kind: str, *numbers: int) -> None:
        """Count and tell an event of cached blocks, which are of no sequence."""
        self._recorder.events += 1
        if self._sink is not None:
            self._sink((now, kind, "", *numbers))

    def note_reclaimed(self, taken: Items[tuple[object, int]], now: float) -> None:
        """Cached blocks are gone."""
        engine = self._engine
        if engine.placement is not None and engine.eager is not None:
            engine.placement.reclaimed(taken)  # type: ignore[arg-type]
        for _, blocks in taken:
            self.note_cached(now, "evict", blocks)

    def note_steps(self, plan: Plan, ends: list[float]) -> None:
        """Steps of a plan whose ends are known are over."""
        if plan.chunks:
            self._recorder.events += len(ends) * len(plan.chunks)
        if self._sink is None:
            return
        for step, end_s in enumerate(ends, plan.done_steps):
            for seq, tokens, context, _ in plan.chunks_at(step):
                self._sink((end_s, "prefill", seq.request.request_id, tokens, context))
            if plan.decodes:
                context = plan.context_tokens + step * plan.decodes
                self._sink((end_s, "decode", "", plan.decodes, context))

    def note_changes(self, draft: Draft, now: float) -> None:
        """A draft's decisions are committed."""
        moved, tree = draft.before_step or draft.background, self._engine.tree
        copied = self._note_copies(draft.before_step + draft.background, now) if moved else {}
        for kind, seq, blocks, saved in draft.changes:
            if kind == "admit":
                if seq.first_scheduled_s is None:
                    self._note_admission(seq, now)
                self.note(now, kind, seq, (blocks, seq.prefix_tokens))
                if saved or (tree is not None and tree.notes_hits):
                    self._note_reuse(seq, saved, now)
            elif kind in _COPIES:
                transfer = copied[seq, _COPIES[kind]]
                self.note(now, _KINDS[kind], seq, (transfer.blocks,))
            elif kind == "reclaim":
                self.note_reclaimed(saved, now)  # type: ignore[arg-type]
            elif kind in _KINDS:
                self.note(now, _KINDS[kind], seq, (abs(blocks),))
                if kind == "no_offload":
                    self._recorder.losing_offloads += 1
                elif kind == "prefetch":
                    nbytes = copied[seq, "h2d"].nbytes
                    self._recorder.prefetched[seq] = nbytes, seq.output_tokens
            if kind in LEAVING and seq in self._recorder.prefetched:
                self._recorder.settle_prefetch(seq)

    def _note_reuse(self, seq: Sequence, loaded: tuple[object, ...], now: float) -> None:
        """A request was admitted, a part of its cached prefix maybe `loaded` from the host."""
        engine = self._engine
        if seq.node is not None and engine.tree is not None:
            engine.tree.hit(seq.request, seq.node)
            if engine.tier is not None:
                engine.tier.keep_loaded(seq.node)
        if loaded:
            self.note(now, "load", seq, loaded)

    def _note_copies(
        self, transfers: list[Transfer], now: float
    ) -> dict[tuple[Sequence, Direction], Transfer]:
        """Count copies, on their sequences too; returns each by what it moves and where."""
        recorder = self._recorder
        copied: dict[tuple[Sequence, Direction], Transfer] = {}
        for transfer in transfers:
            seq = transfer.sequence
            assert seq is not None  # the scheduler moves sequences; cached blocks come later
            copied[seq, transfer.direction] = transfer
            recorder.note_copy(transfer, now)
            if transfer.direction == "d2h":
                seq.d2h_bytes += transfer.nbytes
                seq.rotations += 1
                recorder.d2h_bytes += transfer.nbytes
                recorder.rotations += 1
            else:
                seq.h2d_bytes += transfer.nbytes
                recorder.h2d_bytes += transfer.nbytes
        return copied

    def _note_admission(self, seq: Sequence, now: float) -> None:
        """The first one; what a preempted request finds again of its own is not reuse."""
        engine, recorder = self._engine, self._recorder
        seq.first_scheduled_s = now
        if engine.prefix is not None:
            seq.cached_tokens = seq.prefix_tokens
            recorder.prefix_query_tokens += seq.request.prompt_tokens
            recorder.prefix_hit_tokens += seq.prefix_tokens
        if engine.on_scheduled is not None:
            engine.on_scheduled(seq, now)
