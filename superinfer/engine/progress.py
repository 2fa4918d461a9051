"""How tokens advance: what is counted on sequences when steps of a plan are done, or when the last
one is on the device and the next plan is made as if it were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superinfer.plan import Plan, PrefillChunk
from superinfer.sequence import State

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine

_ENDED: Final = State.ENDED
_PREFILLING: Final = State.PREFILLING
_DECODING: Final = State.DECODING
"""Reading a member off its class is slow."""


class Progress:
    """The progress of one engine's plans."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lag = engine, engine.config.lag
        self._pool = engine.pool

    def advance(self, plan: Plan, steps: int) -> None:
        """Count `steps` steps of a plan as done."""
        engine = self._engine
        batch = engine.batch
        if plan.decodes:
            # Without lag nobody leaves in between, so a single step takes what the plan took.
            if steps > 1 or self._lag:
                growth = batch.next_growth() if steps == 1 else batch.growth(steps)
                more, plan.taken_blocks = growth - plan.taken_blocks, 0
                pool = self._pool
                pool.referenced += more
                if pool.referenced > pool.peak_referenced or engine.prefix is not None:
                    engine.room.settle(plan.now)
            batch.advance(steps)
        for chunk in plan.chunks:
            self._advance_chunk(chunk, plan.done_steps, steps)

    def record(self, plan: Plan, ends: list[float], last: bool) -> None:
        """Count and note steps whose ends are known, and stamp the tokens of their prefills."""
        steps, decodes, recorder = len(ends), plan.decodes, self._engine.recorder
        if not plan.advanced:
            self.advance(plan, steps)
        if decodes:
            self._engine.batch.end_s.fromlist(ends)
            recorder.computed_tokens += steps * decodes
            if not last:
                self._take_next_growth(plan)
        else:
            recorder.steps_without_decode += steps
        self._engine.journal.note_steps(plan, ends)
        plan.done_steps += steps

    def end_chunks(self, chunks: list[PrefillChunk], now: float) -> None:
        """Stamp the tokens that a step's prefills gave."""
        for seq, _, _, last in chunks:
            if not last or seq.state is _ENDED:
                continue
            if seq.first_token_s is None:
                seq.first_token_s = now
                self._engine.journal.tell(now, "first_token", seq)
            else:
                self._engine.batch.runs.add_gap(seq, now - self._engine.batch.last_token_s(seq))
            seq.last_token_step = -1
            seq.last_token_s = now

    def take_growth(self, plan: Plan, steps: int) -> None:
        """Take now what the first `steps` of a plan's steps that are not done need for growth."""
        growth = self._engine.batch.growth(steps)
        self._pool.referenced += growth - plan.taken_blocks
        plan.taken_blocks = growth
        self._engine.room.settle(plan.now)

    # -- inside ---------------------------------------------------------------------------------

    def _take_next_growth(self, plan: Plan) -> None:
        """Lag 1: the plan's last step is on the device, with everybody who was in the batch."""
        plan.taken_blocks = self._engine.batch.next_growth()
        self._pool.referenced += plan.taken_blocks
        self._engine.room.settle(plan.now)

    def _advance_chunk(self, chunk: PrefillChunk, done_steps: int, steps: int) -> None:
        """Count a chunk's tokens in `steps` steps, after `done_steps` of them, as computed."""
        engine = self._engine
        seq, tokens, context, last = chunk
        if seq.state is not _PREFILLING:
            return
        if steps > 1 or done_steps:
            context += done_steps * tokens
            tokens *= steps
        seq.computed_tokens = context + tokens
        if seq.lost_tokens > context:
            seq.recomputed_tokens += min(seq.lost_tokens, seq.computed_tokens) - context
        engine.recorder.computed_tokens += tokens
        seq.prefilled_tokens += tokens
        if engine.prefix is not None:
            engine.holdings.publish(seq, seq.computed_tokens)
        if last:
            seq.output_tokens += 1
            seq.state = _DECODING
            engine.join(seq)
