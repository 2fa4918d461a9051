"""The engine: the one place where state changes.

    plan = engine.plan(now)          # what the device does next; None when there is nothing to do
    outcome = backend.run(plan)
    engine.complete(plan, outcome)   # tokens advance, requests finish, blocks come free

Time is an argument. There is no clock, no randomness and no I/O in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from superinfer.batch import DecodeBatch
from superinfer.copies_ahead import CopiesAhead, mirror_for
from superinfer.costs.base import CostModel
from superinfer.demotion import Demotion
from superinfer.draft import Draft
from superinfer.errors import ConfigError, PlanError
from superinfer.events import Sink
from superinfer.holdings import Holdings
from superinfer.journal import Journal
from superinfer.links import Links
from superinfer.memory.base import (
    CostAware,
    EagerCache,
    HostRoom,
    Ladder,
    MemoryPolicy,
    OffloadTier,
    PrefixCache,
)
from superinfer.memory.pool import BlockPool, HostPool
from superinfer.memory.prefix import Key, PrefixIndex, request_keys
from superinfer.memory.runs import NO_RUNS, Runs
from superinfer.memory.slabs import (
    NO_SMALL,
    ONE_BLOCK_SLABS,
    BlockSizes,
    Slabs,
    Small,
)
from superinfer.memory.tiered import TieredIndex
from superinfer.placement import Placement
from superinfer.plan import (
    Outcome,
    Plan,
    Transfer,
)
from superinfer.plan_checks import check_work
from superinfer.progress import Progress
from superinfer.recorder import Recorder
from superinfer.request import Request
from superinfer.room import Room
from superinfer.schedulers.base import Machine, Scheduler
from superinfer.sequence import Sequence, State

Listener = Callable[[Sequence, float], None]
Ask = Callable[[Draft, float], None]

MAX_IDLE_DECISIONS: Final = 100
"""Times in a row that a scheduler may change something and run nothing."""


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """Sizes of one replica and how plans overlap with execution."""

    total_blocks: int
    block_tokens: int
    block_bytes: int
    """Bytes of one block on one GPU."""
    small_block_bytes: tuple[int, int] = (0, 0)
    """The same for a block of 8 bits and one of 4 bits; 0: there are none."""
    kv_bits: int = 16
    """Of a cached value in a block of full size; with fewer than 16 there are no smaller blocks."""
    slabs: Slabs = ONE_BLOCK_SLABS
    host_blocks: int = 0
    max_model_len: int = 1 << 30
    layers: int = 1
    prefix_caching: bool = False
    lag: int = 0
    """1: the next plan is made while the last step of the current one runs."""

    @property
    def block_sizes(self) -> BlockSizes:
        """Bytes of a block of each precision."""
        if self.small_block_bytes == NO_SMALL:
            return BlockSizes(self.block_bytes, self.block_bytes, self.block_bytes)
        return BlockSizes(self.block_bytes, *self.small_block_bytes)


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
    ask: Ask | None
    """Stands in for the scheduler's `plan`; a driver may put its own function around that."""
    placement: Placement | None
    """Who gives places to the blocks that are counted here; see `place`."""
    running: Plan | None
    """The plan that is on the device, until its last step is over."""
    _ahead: Plan | None
    """With lag 1: the plan that was made while another one runs, until it begins."""
    _deferred_ends: list[tuple[Sequence, str, str | None]]
    _landed: list[tuple[Transfer, float]]

    def __init__(
        self,
        scheduler: Scheduler,
        memory: MemoryPolicy,
        cost: CostModel,
        config: EngineConfig,
        sink: Sink | None = None,
    ) -> None:
        self.scheduler, self.memory, self.cost, self.config = scheduler, memory, cost, config
        self.block_tokens, self._lag = config.block_tokens, config.lag
        self.pool = _device_pool(scheduler, config)
        self.host = _host_pool(memory, config)
        self.batch = DecodeBatch(config.block_tokens, getattr(cost, "knows_longest", False))
        self.links = Links(cost)
        self.recorder = Recorder()
        self.prefix = self.tree = self.tier = self.eager = self.offload = None
        self.live, self.resident = {}, 0
        self.on_scheduled = self.on_ended = self.ask = self.placement = None
        self.running = self._ahead = None
        self._deferred_ends, self._landed = [], []
        # What is set before the engine is handed to others is read without a check when compiled.
        self._add_parts(sink)
        scheduler.bind(_machine(config, cost))

    def _add_parts(self, sink: Sink | None) -> None:
        """Give the engine the parts that look at it."""
        if self.config.prefix_caching:
            self._use(self._new_index())
        self.holdings = Holdings(self)
        self.mirror = mirror_for(self, self.scheduler)
        """Copies of running sequences on the host, if the scheduler wants any."""
        self.journal = Journal(self, sink)
        self.demotion = _demotion(self, self.memory)
        """Who takes bits from the caches of running requests, where the memory policy wants it."""
        self.room = Room(self)
        self._progress = Progress(self)
        self._copies = CopiesAhead(self)

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
        if self._landed:
            self._take_in_landed()
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
        self._landed.append((transfer, now))

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

    def next_wakeup(self, now: float) -> float | None:
        """When to ask for a plan if nothing happens before."""
        return self.scheduler.next_wakeup(now)

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

    def land(self, seq: Sequence) -> None:
        """A sequence's cache is back on the device: it goes on where it stopped."""
        self.host.release(seq.host_blocks, seq.host_small)
        seq.transfer = None
        seq.host_blocks, seq.host_runs = 0, NO_RUNS
        if seq.computed_tokens < seq.prefill_tokens:
            seq.state = State.PREFILLING
        else:
            seq.state = State.DECODING
            self.join(seq)

    def unland(self, seq: Sequence, host_blocks: int, host_runs: Runs) -> None:
        """Undo `land`."""
        if seq.state is State.DECODING:
            self.batch.undo_join(seq)
        seq.host_blocks, seq.host_runs = host_blocks, host_runs
        self.host.hold(host_blocks, seq.host_small)

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
        if state in _ON_DEVICE:
            self.resident -= 1
        if self.demotion is not None:
            seq.kv_shares = self._kv_shares(self.demotion, seq, state)
        seq.state = _ENDED
        seq.outcome, seq.end_reason, seq.finish_s = outcome, reason, now
        del self.live[seq]
        if self.offload is not None:
            self.offload.ended(seq)
        if state not in _MOVING:  # a copy under way still uses the blocks: `transferred` frees them
            self.holdings.release(seq, now)
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
            memory.bind_costs(self.cost, self.copy_size)
        return memory.index(self.pool, self.host, self.config.block_tokens)

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
            self._demote(self.demotion, now)
        ask, idle = self.ask or self.scheduler.plan, 0
        while idle < MAX_IDLE_DECISIONS:
            draft, live = Draft(self, now), len(self.live)
            try:
                ask(draft, now)
                plan = self._commit(draft, now)
            except PlanError:
                draft.rollback()
                raise
            if plan is not None or self.running is not None:
                return plan  # the end of a running plan is a reason to ask again
            ended = len(self.live) < live
            if not (draft.changes or ended):
                return None
            idle = 0 if ended else idle + 1
        raise PlanError("the scheduler moves sequences about and never runs any")

    def _commit(self, draft: Draft, now: float) -> Plan | None:
        """Check a draft as a whole and turn it into a plan."""
        batch, pool, chunks, changes = self.batch, self.pool, draft.chunks, draft.changes
        decodes = batch.size if draft.decoding else 0
        steps = self.room.steps_of(draft, decodes)
        if steps < 1:
            raise PlanError("no memory for the next step: preempt or park before decoding")
        taken = batch.next_growth() if decodes else 0
        reserved = taken if steps == 1 else batch.growth(steps)
        if reserved > pool.available:
            raise PlanError(f"{pool.referenced + reserved} blocks asked of {pool.total}")
        if chunks or draft.padded is not None:
            check_work(draft.padded, chunks, decodes, steps)
        if changes:
            self.journal.note_changes(draft, now)
            if self.placement is not None:
                self.placement.decided(changes)
        if self._copies.concern(draft):
            self._copies.book(draft, decodes, now)
        if not (decodes or chunks or draft.before_step or draft.background):
            return None
        if draft.clear_blocks:
            self.room.clear(draft.clear_blocks, now)
        pool.referenced += taken
        if pool.referenced > pool.peak_referenced or self.prefix is not None:
            self.room.settle(now)
        if self.tier is not None:
            self._copies.book_evicted(draft, now)
        if draft.before_step or draft.background:
            self.links.start(draft.before_step, draft.background, now)
        self.recorder.plans += 1
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
            changes,
            reserved,
            taken,
            draft.full_duplex,
            draft.padded,
            self.room.take_requantised(),
            batch.light_tokens if decodes else 0,
            batch.longest_tokens() if decodes and not chunks else 0,
        )

    def _demote(self, demotion: Demotion, now: float) -> None:
        """Take bits from the caches of running requests, as far as memory is short."""
        done, batch = demotion.relieve(), self.batch
        for seq in batch.lightened:
            batch.count_reads(seq)
            seq.seen_small = self.holdings.small_blocks(seq)
        batch.lightened.clear()
        if self.mirror is not None:
            for seq, before in demotion.take_changed():
                self.mirror.requantised(self.batch, seq, before)
        for job in done:
            assert job.sequence is not None
            numbers = (job.blocks, job.from_bits, job.to_bits)
            self.journal.note(now, "requantise", job.sequence, numbers)
        self.room.note_requantised(done)

    def _kv_shares(self, demotion: Demotion, seq: Sequence, state: State) -> tuple[float, float]:
        """Shares of 8 and 4 bits in all that the decode steps of an ended sequence have read; an
        answer of one token has none, so there it is the cache at the end that counts.
        """
        steps = seq.output_tokens - 1
        if steps < 1:
            here = self.pool.small and state in _ON_DEVICE
            return demotion.shares(seq) if here else (0.0, 0.0)
        tokens = steps * seq.request.prompt_tokens + steps * (steps + 1) // 2
        eight, four = seq.small_reads
        return eight * self.block_tokens / tokens, four * self.block_tokens / tokens

    def _take_in_landed(self) -> None:
        landed, self._landed = self._landed, []
        for transfer, now in landed:
            self._land(transfer, now)

    def _land(self, transfer: Transfer, now: float) -> None:
        self.links.landed(transfer, now)
        if self.placement is not None:
            self.placement.landed(transfer)
        seq = transfer.sequence
        if transfer.job is not None:
            assert self.offload is not None
            self.offload.landed(transfer.job)
        if seq is None:
            if self.mirror is not None and transfer is self.mirror.transfer:
                self.mirror.landed()
            self.journal.note_cached(now, "transfer", transfer.blocks)
            return
        self.journal.note(now, "transfer", seq, (transfer.blocks,))
        seq.transfer = None
        if self.tier is not None and seq.node is not None and transfer.direction == "h2d":
            self.tier.landed(seq.node)
        if seq.state is State.ENDED:
            self.holdings.release(seq, now)
        elif transfer.direction == "d2h":
            self.holdings.free(seq, now)
            seq.state = State.SWAPPED
            self.scheduler.swapped_out(seq)
        else:
            if self.mirror is not None and not self.mirror.active:
                self.mirror.activate(self.batch)
            self.land(seq)
            if self.mirror is not None and seq.state is _DECODING:
                self.mirror.join(seq, seq.computed_tokens // self.block_tokens)
            self.scheduler.resumed(seq)

    def _end_deferred(self, now: float) -> None:
        for seq, outcome, reason in self._deferred_ends:
            self.end(seq, outcome, reason, now)
        self._deferred_ends.clear()


def _index(seq: Sequence) -> int:
    return seq.request.index


_ENDED: Final = State.ENDED
_DECODING: Final = State.DECODING
"""Reading a member off its class is slow."""
_MOVING: Final = (State.MOVING_OUT, State.MOVING_IN)
_ON_DEVICE: Final = (State.DECODING, State.PREFILLING, State.PARKED, State.MOVING_IN)
"""Tuples: hashing a member of an `Enum` for a set takes longer than three comparisons."""


def _demotion(engine: Engine, memory: MemoryPolicy) -> Demotion | None:
    if isinstance(memory, Ladder) and engine.config.small_block_bytes != NO_SMALL:
        return Demotion(engine, memory)
    return None


def _device_pool(scheduler: Scheduler, config: EngineConfig) -> BlockPool:
    # A block of padding that the modelled system never hands out does not exist here.
    return BlockPool(config.total_blocks - getattr(scheduler, "null_blocks", 0), config.slabs)


def _host_pool(memory: MemoryPolicy, config: EngineConfig) -> HostPool:
    return HostPool(config.host_blocks, _host_cache_blocks(memory, config), config.block_sizes)


def _machine(config: EngineConfig, cost: CostModel) -> Machine:
    """What a scheduler is told of where it works."""
    return Machine(
        total_blocks=config.total_blocks,
        block_tokens=config.block_tokens,
        max_model_len=config.max_model_len,
        layers=config.layers,
        cost=cost,
        prefix_caching=config.prefix_caching,
        lag=config.lag,
    )


def _host_cache_blocks(memory: MemoryPolicy, config: EngineConfig) -> int:
    """Host blocks for cached prefixes, where there are any."""
    if not isinstance(memory, HostRoom):
        return 0
    blocks = memory.host_cache_blocks(config)
    return blocks if config.prefix_caching else 0


_END_KINDS: Final = {
    "finished": "finish",
    "rejected": "reject",
    "failed": "fail",
    "cancelled": "cancel",
    "unfinished": "unfinished",
}
