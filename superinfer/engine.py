"""The engine: the one place where state changes.

    plan = engine.plan(now)          # what the device does next; None when there is nothing to do
    outcome = backend.run(plan)
    engine.complete(plan, outcome)   # tokens advance, requests finish, blocks come free

Time is an argument. There is no clock, no randomness and no I/O in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from superinfer.batch import DecodeBatch
from superinfer.costs.base import CostModel
from superinfer.draft import Draft
from superinfer.errors import PlanError
from superinfer.events import Sink
from superinfer.memory.base import MemoryPolicy
from superinfer.memory.pool import BlockPool, HostPool
from superinfer.memory.prefix import Key, PrefixIndex, request_keys
from superinfer.plan import Direction, Outcome, Plan, PrefillChunk, Transfer
from superinfer.recorder import Recorder
from superinfer.request import Request
from superinfer.schedulers.base import Machine, Scheduler
from superinfer.sequence import Sequence, State

Listener = Callable[[Sequence, float], None]

MAX_IDLE_DECISIONS = 100
"""Times in a row that a scheduler may change something and run nothing."""


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """Sizes of one replica and how plans overlap with execution."""

    total_blocks: int
    block_tokens: int
    block_bytes: int
    """Bytes of one block on one GPU."""
    host_blocks: int = 0
    max_model_len: int = 1 << 30
    layers: int = 1
    prefix_caching: bool = False
    lag: int = 0
    """1: the next plan is made while the last step of the current one runs."""


class Engine:
    """One replica's scheduler, memory and progress. Drivers call the methods without underscore."""

    def __init__(
        self,
        scheduler: Scheduler,
        memory: MemoryPolicy,
        cost: CostModel,
        config: EngineConfig,
        sink: Sink | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.memory = memory
        self.cost = cost
        self.config = config
        self.block_tokens = config.block_tokens
        self.pool = BlockPool(config.total_blocks)
        self.host = HostPool(config.host_blocks)
        self.batch = DecodeBatch(config.block_tokens)
        self.prefix = (
            PrefixIndex(self.pool, config.block_tokens, memory) if config.prefix_caching else None
        )
        self.live: dict[Sequence, None] = {}
        """Requests submitted and not ended."""
        self.resident = 0
        """Of these, how many hold device blocks to run on."""
        self.recorder = Recorder()
        self.on_scheduled: Listener | None = None
        """Called when a request is scheduled for the first time."""
        self.on_ended: Listener | None = None
        """Called when a request has ended. Neither may call the engine back."""
        self._sink = sink
        self._running: Plan | None = None
        self._deferred_ends: list[tuple[Sequence, str, str | None]] = []
        self._landed: list[tuple[Transfer, float]] = []
        scheduler.bind(
            Machine(
                total_blocks=config.total_blocks,
                block_tokens=config.block_tokens,
                max_model_len=config.max_model_len,
                layers=config.layers,
                cost=cost,
                prefix_caching=config.prefix_caching,
            )
        )

    # -- what a driver calls --------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> Sequence:
        """Take in a request."""
        seq = Sequence(request)
        self.live[seq] = None
        self.recorder.submitted(seq)
        self._emit(now, "submit", seq, request.prompt_tokens, request.max_tokens)
        self.scheduler.submit(seq, now)
        return seq

    def plan(self, now: float) -> Plan | None:
        """Decide what the device does next; None when there is nothing to do now.

        With lag 1 it may be called while the last step of the running plan is on the device: the
        decision is then made as if that step had given every sequence its token and ended none.
        Raises PlanError, with the draft taken back, when the scheduler asks for the impossible.
        """
        running = self._running
        if running is not None:
            if not self.config.lag or running.advanced:
                raise PlanError("plan() while a plan is running")
            self._advance(running, 1)
            running.advanced = True
        if self._landed:
            self._take_in_landed()
        plan = self._decide(now)
        if running is None:
            self._running = plan
        return plan

    def begin(self, plan: Plan) -> None:
        """With lag 1: `plan` starts on the device now that its predecessor has completed."""
        self._running = plan

    def complete(self, plan: Plan, outcome: Outcome) -> None:
        """Take in what happened. With lag 1 a plan is completed twice, its last step apart."""
        ends, now = outcome.step_end_s, outcome.end_s
        if ends:
            if not plan.advanced:
                self._advance(plan, len(ends))
            if plan.decodes and not outcome.last:
                self._take_growth(plan)
            self._record_steps(plan, ends)
            if plan.chunks:
                self._end_chunks(plan.chunks, now)
        if outcome.finished:
            # A backend may report them in any order.
            for seq in sorted(outcome.finished, key=lambda seq: seq.request.index):
                self.end(seq, "finished", None, now)
        if outcome.last:
            if plan is self._running:
                self._running = None
            if self._deferred_ends:
                self._end_deferred(now)
        if now >= self.recorder.next_sample_s:
            self.recorder.sample(self, now)

    def transferred(self, transfer: Transfer, now: float) -> None:
        """A background copy has landed. Counts from the next `plan` on, between two steps."""
        self._landed.append((transfer, now))

    def cancel(self, seq: Sequence, now: float) -> None:
        """The client gave up. Takes effect at once, or at the end of a plan that is running."""
        self.end_after_step(seq, "cancelled", None, now)

    def close(self, now: float) -> None:
        """The run is cut off between two plans: what is still under way stays unfinished."""
        self._running = None
        self.on_scheduled = self.on_ended = None
        for seq in list(self.live):
            self.end(seq, "unfinished", None, now)

    def next_wakeup(self, now: float) -> float | None:
        """When to ask for a plan if nothing happens before."""
        return self.scheduler.next_wakeup(now)

    # -- what a draft calls ---------------------------------------------------------------------

    def keys(self, seq: Sequence) -> tuple[Key, ...]:
        """Prefix-index keys of the prompt, built when first asked for."""
        if seq.keys is None:
            seq.keys = request_keys(seq.request)
        return seq.keys

    def copy_size(self, blocks: int) -> tuple[int, int]:
        """Bytes and number of separate copies that moving `blocks` takes."""
        return (
            blocks * self.config.block_bytes,
            blocks * self.scheduler.copies_per_block,
        )

    def free_blocks(self, seq: Sequence, now: float) -> int:
        """Give back a sequence's device blocks; returns how many private ones that were."""
        freed = seq.blocks
        self.pool.referenced -= freed
        seq.blocks = 0
        if seq.node is not None:
            assert self.prefix is not None
            self.prefix.release(seq.node, now)
            seq.node, seq.shared_blocks = None, 0
        return freed

    def land(self, seq: Sequence) -> None:
        """A sequence's cache is back on the device: it goes on where it stopped."""
        self.host.used -= seq.host_blocks
        seq.transfer = None
        seq.host_blocks = 0
        if seq.computed_tokens < seq.prefill_tokens:
            seq.state = State.PREFILLING
        else:
            seq.state = State.DECODING
            self.batch.join(seq)

    def unland(self, seq: Sequence, host_blocks: int) -> None:
        """Undo `land`."""
        if seq.state is State.DECODING:
            self.batch.undo_join(seq)
        seq.host_blocks = host_blocks
        self.host.used += host_blocks

    def end_after_step(self, seq: Sequence, outcome: str, reason: str | None, now: float) -> None:
        """End a sequence once the step on the device, if there is one, is over: it may turn out to
        have finished there.
        """
        if self._running is None:
            self.end(seq, outcome, reason, now)
        else:
            self._deferred_ends.append((seq, outcome, reason))

    def end(self, seq: Sequence, outcome: str, reason: str | None, now: float) -> None:
        """End a sequence in whatever state it is: it counts once, and its blocks come free."""
        if seq.state is State.ENDED:
            return
        moving = seq.state in (State.MOVING_OUT, State.MOVING_IN)
        if seq.state is State.DECODING:
            self.batch.leave(seq)
            seq.blocks = -(-seq.computed_tokens // self.block_tokens) - seq.shared_blocks
        if seq.state in (
            State.DECODING,
            State.PREFILLING,
            State.PARKED,
            State.MOVING_IN,
        ):
            self.resident -= 1
        seq.state = State.ENDED
        seq.outcome, seq.end_reason, seq.finish_s = outcome, reason, now
        del self.live[seq]
        if not moving:  # a copy under way still uses the blocks: `transferred` frees them
            self._release_all(seq, now)
        seq.keys = None
        self.scheduler.ended(seq)
        detail = seq.output_tokens if reason is None else reason
        self._emit(now, _END_KINDS[outcome], seq, detail)
        if self.on_ended is not None:
            self.on_ended(seq, now)

    # -- inside ---------------------------------------------------------------------------------

    def _decide(self, now: float) -> Plan | None:
        """Ask the scheduler, again while it only moved things about and left nothing to run."""
        idle = 0
        while idle < MAX_IDLE_DECISIONS:
            draft, live = Draft(self, now), len(self.live)
            try:
                self.scheduler.plan(draft, now)
                plan = self._commit(draft, now)
            except PlanError:
                draft.rollback()
                raise
            ended = len(self.live) < live
            ahead = self._running is not None  # then the end of that plan is a reason to ask again
            if plan is not None or ahead or not (draft.changes or ended):
                return plan
            idle = 0 if ended else idle + 1
        raise PlanError("the scheduler moves sequences about and never runs any")

    def _commit(self, draft: Draft, now: float) -> Plan | None:
        """Check a draft as a whole and turn it into a plan."""
        batch, pool = self.batch, self.pool
        decodes = batch.size if draft.decoding else 0
        steps = draft.steps if decodes else draft.chunk_steps
        if draft.chunks:
            steps = min(steps, draft.chunk_steps)
        if steps < 1:
            raise PlanError("no memory for the next step: preempt or park before decoding")
        taken = batch.next_growth() if decodes else 0
        reserved = taken if steps == 1 else batch.growth(steps)
        if pool.referenced + reserved > pool.total:
            raise PlanError(f"{pool.referenced + reserved} blocks asked of {pool.total}")
        if draft.chunks:
            _check_chunks(draft.chunks, steps)
        if draft.changes:
            self._note_changes(draft, now)
        if not (decodes or draft.chunks or draft.before_step or draft.background):
            return None
        pool.referenced += taken
        if taken or draft.changes:
            self._settle(now)
        self.recorder.plans += 1
        joined, batch.joined = batch.joined, []
        return Plan(
            now=now,
            chunks=draft.chunks,
            decodes=decodes,
            context_tokens=batch.context_tokens if decodes else 0,
            steps=steps,
            until=draft.until,
            before_step=draft.before_step,
            background=draft.background,
            first_step=batch.step,
            joined=joined,
            changes=draft.changes,
            reserved_blocks=reserved,
            taken_blocks=taken,
        )

    def _take_growth(self, plan: Plan) -> None:
        """Lag 1: the plan's last step is on the device, with everybody who was in the batch."""
        plan.taken_blocks = self.batch.next_growth()
        self.pool.referenced += plan.taken_blocks
        self._settle(plan.now)

    def _advance(self, plan: Plan, steps: int) -> None:
        """Count `steps` steps of a plan as done."""
        if plan.decodes:
            batch, pool = self.batch, self.pool
            growth = batch.next_growth() if steps == 1 else batch.growth(steps)
            more, plan.taken_blocks = growth - plan.taken_blocks, 0
            pool.referenced += more
            batch.advance(steps)
            if more > 0:
                self._settle(plan.now)
        for chunk in plan.chunks:
            context = chunk.context_tokens + plan.done_steps * chunk.tokens
            self._advance_chunk(chunk, context, steps * chunk.tokens)

    def _advance_chunk(self, chunk: PrefillChunk, context: int, tokens: int) -> None:
        """Count `tokens` tokens after `context` as computed."""
        seq = chunk.sequence
        if seq.state is not State.PREFILLING:
            return
        seq.computed_tokens = context + tokens
        if seq.lost_tokens > context:
            seq.recomputed_tokens += min(seq.lost_tokens, seq.computed_tokens) - context
        self.recorder.computed_tokens += tokens
        if self.prefix is not None:
            self._publish(seq)
        if chunk.last:
            seq.output_tokens += 1
            seq.state = State.DECODING
            self.batch.join(seq)

    def _publish(self, seq: Sequence) -> None:
        """Make the prompt blocks computed so far findable."""
        assert self.prefix is not None
        stop = min(seq.computed_tokens, seq.request.prompt_tokens) // self.block_tokens
        keys = self.keys(seq)
        if keys and stop > seq.shared_blocks:
            seq.node, moved = self.prefix.insert(seq.request, keys, seq.node, stop)
            seq.blocks -= moved
            seq.shared_blocks += moved

    def _record_steps(self, plan: Plan, ends: list[float]) -> None:
        recorder, steps, decodes = self.recorder, len(ends), plan.decodes
        recorder.steps += steps
        recorder.events += steps * (len(plan.chunks) + (decodes > 0))
        if decodes:
            self.batch.end_s.extend(ends)
            recorder.computed_tokens += steps * decodes
        if self._sink:
            self._emit_steps(plan, ends, self._sink)
        plan.done_steps += steps

    def _emit_steps(self, plan: Plan, ends: list[float], sink: Sink) -> None:
        for step, end_s in enumerate(ends, plan.done_steps):
            for seq, tokens, context, _ in plan.chunks_at(step):
                sink((end_s, "prefill", seq.request.request_id, tokens, context))
            if plan.decodes:
                context = plan.context_tokens + step * plan.decodes
                sink((end_s, "decode", "", plan.decodes, context))

    def _end_chunks(self, chunks: list[PrefillChunk], now: float) -> None:
        """Stamp the tokens that a step's prefills gave."""
        for chunk in chunks:
            seq = chunk.sequence
            if not chunk.last or seq.state is State.ENDED:
                continue
            if seq.first_token_s is None:
                seq.first_token_s = now
                self._emit(now, "first_token", seq)
            else:
                self.batch.runs.add_gap(seq, now - self.batch.last_token_s(seq))
            seq.last_token_step = -1
            seq.last_token_s = now

    def _take_in_landed(self) -> None:
        landed, self._landed = self._landed, []
        for transfer, now in landed:
            self._land(transfer, now)

    def _land(self, transfer: Transfer, now: float) -> None:
        seq = transfer.sequence
        self._emit(now, "transfer", seq, transfer.blocks)
        seq.transfer = None
        if seq.state is State.ENDED:
            self._release_all(seq, now)
        elif transfer.direction == "d2h":
            self.free_blocks(seq, now)
            seq.state = State.SWAPPED
            self.scheduler.swapped_out(seq)
        else:
            self.land(seq)
            self.scheduler.resumed(seq)

    def _release_all(self, seq: Sequence, now: float) -> None:
        """Free everything an ended sequence holds; full blocks of its text stay as cached ones."""
        if self.prefix is not None and seq.blocks and seq.computed_tokens:
            answer = seq.computed_tokens // self.block_tokens - seq.shared_blocks
            if 0 < answer <= seq.blocks and self.keys(seq):
                node = seq.node
                self.prefix.add_answer(seq.request, node, answer, now)
        self.free_blocks(seq, now)
        self.host.used -= seq.host_blocks
        seq.host_blocks = 0

    def _settle(self, now: float) -> None:
        """After blocks were taken: reclaim cached ones that are in the way, note the peak."""
        pool = self.pool
        if pool.referenced + pool.cached > pool.total:
            self._reclaim(now)
        pool.note_peak()

    def _reclaim(self, now: float) -> None:
        assert self.prefix is not None
        for _, blocks in self.prefix.reclaim(self.pool.excess):
            self.recorder.events += 1
            if self._sink:
                self._sink((now, "evict", "", blocks))

    def _end_deferred(self, now: float) -> None:
        for seq, outcome, reason in self._deferred_ends:
            self.end(seq, outcome, reason, now)
        self._deferred_ends.clear()

    def _note_changes(self, draft: Draft, now: float) -> None:
        """Count a draft's decisions on their sequences, and emit them."""
        transfers = draft.before_step + draft.background
        copied = {(t.sequence, t.direction): t.blocks for t in transfers}
        for kind, seq, blocks, _ in draft.changes:
            if kind == "admit":
                self._note_admission(seq, now)
                self._emit(now, kind, seq, blocks, seq.prefix_tokens)
            elif kind in _COPIES:
                self._emit(now, _CHANGE_KINDS[kind], seq, copied[seq, _COPIES[kind]])
            elif kind in _CHANGE_KINDS:
                self._emit(now, _CHANGE_KINDS[kind], seq, abs(blocks))
        for transfer in transfers:
            seq = transfer.sequence
            if transfer.direction == "d2h":
                seq.d2h_bytes += transfer.nbytes
                seq.rotations += 1
            else:
                seq.h2d_bytes += transfer.nbytes

    def _note_admission(self, seq: Sequence, now: float) -> None:
        if seq.first_scheduled_s is not None:
            return  # what a preempted request finds again of its own is not reuse
        seq.first_scheduled_s = now
        if self.prefix is not None:
            seq.cached_tokens = seq.prefix_tokens
            self.recorder.prefix_query_tokens += seq.request.prompt_tokens
            self.recorder.prefix_hit_tokens += seq.prefix_tokens
        if self.on_scheduled is not None:
            self.on_scheduled(seq, now)

    def _emit(self, now: float, kind: str, seq: Sequence, *numbers: object) -> None:
        self.recorder.events += 1
        if self._sink:
            self._sink((now, kind, seq.request.request_id, *numbers))


def _check_chunks(chunks: list[PrefillChunk], steps: int) -> None:
    """One chunk a sequence, only for those that are still resident; alone if it repeats."""
    if steps > 1 and len(chunks) > 1:
        raise PlanError("a slice of several steps has one chunk at most")
    for chunk in chunks:
        if chunk.sequence.state is not State.PREFILLING:
            raise PlanError(f"{chunk.sequence!r}: a chunk in the plan that takes it away")
    if len(chunks) > 1 and len({chunk.sequence for chunk in chunks}) < len(chunks):
        raise PlanError("a sequence has two chunks in one plan")


_CHANGE_KINDS = {
    "preempt": "preempt",
    "swap_out": "rotate_out",
    "swap_in": "rotate_in",
    **{kind: kind for kind in ("promote", "demote", "relegate", "prefetch")},
}
_COPIES: dict[str, Direction] = {"swap_out": "d2h", "swap_in": "h2d"}
_END_KINDS = {
    "finished": "finish",
    "rejected": "reject",
    "failed": "fail",
    "cancelled": "cancel",
    "unfinished": "unfinished",
}
