"""The engine: the one place where state changes.

    plan = engine.plan(now)          # what the device does next; None when there is nothing to do
    outcome = backend.run(plan)
    engine.complete(plan, outcome)   # tokens advance, requests finish, blocks come free

Time is an argument. There is no clock, no randomness and no I/O in here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from superinfer.batch import DecodeBatch
from superinfer.costs.base import CostModel
from superinfer.costs.learned import LearnedCost
from superinfer.draft import Draft
from superinfer.engine.commits import Commits
from superinfer.engine.config import EngineConfig, device_pool, host_pool, machine_of
from superinfer.engine.copies_ahead import mirror_for
from superinfer.engine.demotion import demotion_for
from superinfer.engine.holdings import Holdings
from superinfer.engine.journal import Journal
from superinfer.engine.landings import Landings
from superinfer.engine.progress import Progress
from superinfer.engine.room import Room
from superinfer.errors import ConfigError, PlanError, PolicyError
from superinfer.events import Sink
from superinfer.memory.base import (
    CostAware,
    EagerCache,
    MemoryPolicy,
    OffloadTier,
    PrefixCache,
)
from superinfer.memory.blocks.slabs import NO_SMALL, Small
from superinfer.memory.index.keys import Key, request_keys
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.placement import Placement
from superinfer.plan import NOTES, Outcome, Plan, Transfer
from superinfer.records.recorder import Recorder
from superinfer.request import Request
from superinfer.schedulers.base import Scheduler
from superinfer.sequence import Sequence, State
from superinfer.transfers.links import Links

Listener = Callable[[Sequence, float], None]
Ask = Callable[[Draft, float], None]
TextIds = Callable[[Sequence], tuple[Key, ...]]

MAX_IDLE_DECISIONS: Final = 100
"""Times in a row that a scheduler may change something and run nothing."""

_ENDED: Final = State.ENDED
_DECODING: Final = State.DECODING
"""Reading a member off its class is slow."""
_MOVING: Final = (State.MOVING_OUT, State.MOVING_IN)
_ON_DEVICE: Final = (State.DECODING, State.PREFILLING, State.PARKED, State.MOVING_IN)
"""Tuples: hashing a member of an `Enum` for a set takes longer than three comparisons."""
_END_KINDS: Final = {
    "finished": "finish",
    "rejected": "reject",
    "failed": "fail",
    "cancelled": "cancel",
    "unfinished": "unfinished",
}
"""Names of events by how a request ends."""


class Engine:
    """One replica's scheduler, memory and progress. Drivers call the methods without underscore."""

    prefix: PrefixCache | None
    tree: PrefixIndex | None
    """The prefix index if it is the shared tree, with a host tier or without."""
    tier: TieredIndex | None
    """The prefix index if it has a host tier."""
    eager: EagerCache | None
    """The prefix index if it follows every decision at once."""
    offload: OffloadTier | None
    """The prefix index if it copies blocks to the host and back in the background."""
    live: dict[Sequence, None]
    """Requests submitted and not ended."""
    resident: int
    """Of these, how many hold device blocks to run on."""
    on_scheduled: Listener | None
    """Called when a request is scheduled for the first time."""
    on_ended: Listener | None
    """Called when a request has ended. Neither may call the engine back."""
    learned: LearnedCost | None
    """What schedulers predict with, if that is corrected by what steps take."""
    ask: Ask | None
    """Stands in for the scheduler's `plan`; a driver may put its own function around that."""
    text_ids: TextIds | None
    """Content ids of a finished request's prompt and answer, as far as their keys and values are
    computed: one per `hash_block_tokens`, of which a block has a whole number, none partial. From
    drivers that know what is said; without them nothing finds an answer."""
    placement: Placement | None
    """Who gives places to the blocks that are counted here; see `place`."""
    running: Plan | None
    """The plan that is on the device, until its last step is over."""
    _ahead: Plan | None
    """With lag 1: the plan that was made while another one runs, until it begins."""
    _deferred_ends: list[tuple[Sequence, str, str | None]]

    def __init__(
        self,
        scheduler: Scheduler,
        memory: MemoryPolicy,
        cost: CostModel,
        config: EngineConfig,
        sink: Sink | None = None,
        believed: CostModel | None = None,
    ) -> None:
        """`cost` is what the device takes; what is `believed` of that may differ, and is what is
        predicted with. A `LearnedCost` is told of every step.
        """
        self.scheduler, self.memory, self.cost, self.config = scheduler, memory, cost, config
        self.believed = cost if believed is None else believed
        """What schedulers and memory policies predict with."""
        self.learned = believed if isinstance(believed, LearnedCost) else None
        self.block_tokens, self._lag = config.block_tokens, config.lag
        self.pool = device_pool(config, scheduler)
        self.host = host_pool(config, memory)
        self.batch = DecodeBatch(config.block_tokens, getattr(cost, "knows_longest", False))
        self.links = Links(self.believed)
        self.recorder = Recorder()
        self.prefix = self.tree = self.tier = self.eager = self.offload = None
        self.live, self.resident = {}, 0
        self.on_scheduled = self.on_ended = self.ask = self.text_ids = self.placement = None
        self.running = self._ahead = None
        self._deferred_ends = []
        # What is set before the engine is handed to others is read without a check when compiled.
        self._add_parts(sink)
        scheduler.bind(machine_of(config, self.believed))

    def _add_parts(self, sink: Sink | None) -> None:
        """Give the engine the parts that look at it."""
        if self.config.prefix_caching:
            self._use(self._new_index())
        self.holdings = Holdings(self)
        self.mirror = mirror_for(self, self.scheduler)
        """Copies of running sequences on the host, if the scheduler wants any."""
        self.journal = Journal(self, sink)
        self.demotion = demotion_for(self, self.memory)
        """Who takes bits from the caches of running requests, where the memory policy wants it."""
        self.room = Room(self)
        self._progress = Progress(self)
        self.landings = Landings(self)
        self._commits = Commits(self)

    # -- what a driver calls --------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> Sequence:
        """Take in a request."""
        seq = Sequence(request)
        self.live[seq] = None
        self.recorder.sequences.append(seq)
        self.journal.tell(now, "submit", seq, (request.prompt_tokens, request.max_tokens))
        self.scheduler.submit(seq, now)
        return seq

    def plan(self, now: float) -> Plan | None:
        """Decide what the device does next; None when there is nothing to do now.

        With lag 1 it may be called while the last step of the running plan is on the device: the
        decision is then made as if that step had given every sequence its token and ended none.
        Raises PlanError, with the draft taken back, when the scheduler asks for the impossible.
        """
        running = self.running
        if running is not None:
            if not self._lag or running.advanced:
                raise PlanError("plan() while a plan is running")
            self._progress.advance(running, 1)
            running.advanced = True
        self.landings.take_in()
        plan = self._decide(now)
        if running is None:
            self.running = plan
        else:
            self._ahead = plan
        return plan

    def begin(self, plan: Plan) -> None:
        """With lag 1: `plan` starts on the device now that its predecessor has completed."""
        self.running, self._ahead = plan, None

    def complete(self, plan: Plan, outcome: Outcome) -> None:
        """Take in what happened. With lag 1 a plan is completed twice, its last step apart."""
        now = outcome.end_s
        if self.learned is not None:
            self.learned.learn(plan, outcome)
        if outcome.step_end_s:
            self._progress.record(plan, outcome.step_end_s, outcome.last)
            if plan.chunks:
                self._progress.end_chunks(plan.chunks, now)
        finished = outcome.finished
        if finished:
            if len(finished) > 1:  # a backend may report them in any order
                finished = sorted(
                    finished, key=_index if self.eager is None else self.eager.end_order
                )
            for seq in finished:
                self.end(seq, "finished", None, now)
        if outcome.last:
            if plan is self.running:
                self.running = None
            if self._deferred_ends:
                self._end_deferred(now)
        if now >= self.recorder.next_sample_s:
            self.recorder.sample(self, now)

    def transferred(self, transfer: Transfer, now: float) -> None:
        """A background copy has landed. Counts from the next `plan` on, between two steps."""
        self.landings.note(transfer, now)

    def cancel(self, seq: Sequence, now: float) -> None:
        """The client gave up. Takes effect at once, or at the end of a plan that is running."""
        self.end_after_step(seq, "cancelled", None, now)

    def close(self, now: float) -> None:
        """The run is cut off between two plans: what is still under way stays unfinished.

        With lag 1 the next plan is made by then and never begins: what it has taken for the growth
        of its first step belongs to no sequence yet, and comes free.
        """
        if self._ahead is not None:
            self.pool.referenced -= self._ahead.taken_blocks
        self.running = self._ahead = None
        self.on_scheduled = self.on_ended = None
        for seq in list(self.live):
            self.end(seq, "unfinished", None, now)

    def forget(self) -> None:
        """Drop what is written down of requests that have ended and of steps that are over: for
        drivers that run without an end. Between two steps; no decision changes. Afterwards no
        record can be built, for it would be one of a part of the run.
        """
        self.recorder.forget(self.live)
        self.batch.forget(self.live)

    def next_wakeup(self, now: float) -> float | None:
        """When to ask for a plan if nothing happens before; None where no request is under way,
        for then there is nothing to plan, whatever the scheduler says.
        """
        return self.scheduler.next_wakeup(now) if self.live else None

    def place(self, placement: Placement) -> None:
        """Tell `placement`, from the beginning on, whatever gives blocks to somebody else."""
        self.placement = placement
        if self.tree is not None:
            self.tree.placement = placement
        if self.mirror is not None:
            self.mirror.placement = placement

    def take_growth(self, plan: Plan, steps: int) -> None:
        """Take now what the first `steps` of a plan's steps that are not done need for growth, as
        it would be when they are done. For drivers whose blocks have places: before the last of
        these steps starts, cached blocks that are in the way have to be gone.
        """
        self._progress.take_growth(plan, steps)

    # -- what drafts and the parts of the engine call -------------------------------------------

    def keys(self, seq: Sequence) -> tuple[Key, ...]:
        """Prefix-index keys of the prompt, built when first asked for."""
        if seq.keys is None:
            seq.keys = request_keys(seq.request)
        return seq.keys

    def copy_size(self, blocks: int, small: Small = NO_SMALL) -> tuple[int, int]:
        """Bytes and number of separate copies that moving `blocks` takes, `small` among them."""
        nbytes = self.host.sizes.total(blocks, small)
        return nbytes, blocks * self.scheduler.copies_per_block

    def join(self, seq: Sequence) -> None:
        """Make a sequence a member of the decode batch."""
        seq.seen_small = NO_SMALL
        if self.pool.small:
            assert self.demotion is not None
            seq.seen_small = self.holdings.small_blocks(seq)
            seq.light_tokens = self.demotion.light_tokens(seq.seen_small)
        self.batch.join(seq)

    def end_after_step(self, seq: Sequence, outcome: str, reason: str | None, now: float) -> None:
        """End a sequence once the step on the device, if there is one, is over: it may turn out to
        have finished there.
        """
        if self.running is None:
            self.end(seq, outcome, reason, now)
        else:
            self._deferred_ends.append((seq, outcome, reason))

    def end(self, seq: Sequence, outcome: str, reason: str | None, now: float) -> None:
        """End a sequence in whatever state it is: it counts once, and its blocks come free."""
        state = seq.state
        if state is _ENDED:
            return
        if state is _DECODING:
            if self.mirror is not None and self.mirror.active:
                self.mirror.leave(seq, False)
            self.batch.leave(seq)
            seq.blocks = -(-seq.computed_tokens // self.block_tokens) - seq.shared_blocks
        on_device = state in _ON_DEVICE
        if on_device:
            self.resident -= 1
        if self.demotion is not None:
            seq.kv_shares = self.demotion.read_shares(seq, on_device)
        seq.state = _ENDED
        seq.outcome, seq.end_reason, seq.finish_s = outcome, reason, now
        del self.live[seq]
        if self.offload is not None:
            self.offload.ended(seq)
        if state not in _MOVING:  # a copy under way still uses the blocks: its landing frees them
            if self.text_ids is not None and outcome == "finished":
                self.holdings.publish_text(seq, self.text_ids(seq))
            self.holdings.release(seq, now)
        elif state is State.MOVING_IN:
            self.landings.expect(seq, self.holdings.room(seq, seq.blocks))
        seq.keys = None
        if self.recorder.prefetched:
            self.recorder.settle_prefetch(seq)
        self.scheduler.ended(seq)
        detail = seq.output_tokens if reason is None else reason
        self.journal.tell(now, _END_KINDS[outcome], seq, (detail,))
        if self.on_ended is not None:
            self.on_ended(seq, now)

    # -- inside ---------------------------------------------------------------------------------

    def _new_index(self) -> PrefixCache:
        """Where cached prefixes are kept."""
        memory = self.memory
        if isinstance(memory, CostAware):
            memory.bind_costs(self.believed, self.copy_size)
        index: PrefixCache | None = memory.index(self.pool, self.host, self.config.block_tokens)
        if index is None:
            raise PolicyError("index: expected an index of cached prefixes, got None")
        return index

    def _use(self, index: PrefixCache) -> None:
        """Keep cached prefixes in this index."""
        self.prefix = index
        self.tree = index if isinstance(index, PrefixIndex) else None
        self.tier = index if isinstance(index, TieredIndex) else None
        self.eager = index if isinstance(index, EagerCache) else None
        self.offload = index if isinstance(index, OffloadTier) else None
        scheduler = self.scheduler
        if self.offload is not None and not getattr(scheduler, "loads_prefixes", False):
            raise ConfigError(
                "memory.offload: expected a scheduler that loads prefixes (vllm_v1), "
                f"got {scheduler.name}"
            )

    def _decide(self, now: float) -> Plan | None:
        """Ask the scheduler, again while it only moved things about and left nothing to run."""
        if self.demotion is not None:
            self.demotion.relieve(now)
        ask, idle = self.ask or self.scheduler.plan, 0
        told: list[tuple[str, Sequence]] = []
        while idle < MAX_IDLE_DECISIONS:
            draft, live = Draft(self, now), len(self.live)
            try:
                ask(draft, now)
                plan = self._commits.commit(draft, now)
            except PlanError:
                draft.rollback()
                raise
            if plan is not None or self.running is not None:
                return plan  # the end of a running plan is a reason to ask again
            ended = len(self.live) < live
            if not (draft.changes or ended):
                return None
            before, told = told, [(change.kind, change.sequence) for change in draft.changes]
            if not ended and told == before and all(kind in NOTES for kind, _ in told):
                return None  # it tells the same again, and would for ever
            idle = 0 if ended else idle + 1
        raise PlanError("the scheduler moves sequences about and never runs any")

    def _end_deferred(self, now: float) -> None:
        for seq, outcome, reason in self._deferred_ends:
            self.end(seq, outcome, reason, now)
        self._deferred_ends.clear()


def _index(seq: Sequence) -> int:
    return seq.request.index
