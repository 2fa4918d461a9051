"""The engine: the one place where state changes.

    plan = engine.plan(now)          # what the device does next; None when there is nothing to do
    outcome = backend.run(plan)
    engine.complete(plan, outcome)   # tokens advance, requests finish, blocks come free

Time is an argument. There is no clock, no randomness and no I/O in here.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Final

from superinfer.batch import DecodeBatch
from superinfer.costs.base import CostModel
from superinfer.demotion import Demotion
from superinfer.draft import Draft
from superinfer.errors import ConfigError, PlanError
from superinfer.events import Sink
from superinfer.links import Links
from superinfer.memory.base import (
    CostAware,
    EagerCache,
    HostRoom,
    Ladder,
    MemoryPolicy,
    OffloadTier,
    PrefixCache,
    Timing,
)
from superinfer.memory.pool import BlockPool, HostPool
from superinfer.memory.prefix import Key, PrefixIndex, request_keys
from superinfer.memory.runs import NO_RUNS, Runs, cut, joined, small_in
from superinfer.memory.slabs import (
    NO_BLOCKS,
    NO_SMALL,
    ONE_BLOCK_SLABS,
    Blocks,
    BlockSizes,
    Slabs,
    Small,
)
from superinfer.memory.tiered import TieredIndex
from superinfer.mirror import Mirror
from superinfer.placement import Placement
from superinfer.plan import (
    Direction,
    Outcome,
    Plan,
    PrefillChunk,
    Requantise,
    Transfer,
    Work,
)
from superinfer.recorder import Recorder
from superinfer.request import Request
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
    """Of a cached value in a block of full size; with 8 there are no smaller blocks."""
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
        # A block of padding that the modelled system never hands out does not exist here.
        self.pool = BlockPool(
            config.total_blocks - getattr(scheduler, "null_blocks", 0), config.slabs
        )
        self.host = HostPool(
            config.host_blocks, _host_cache_blocks(memory, config), config.block_sizes
        )
        self.batch = DecodeBatch(config.block_tokens, getattr(cost, "knows_longest", False))
        self.prefix: PrefixCache | None = None
        self.tree: PrefixIndex | None = None
        """The prefix index if it is the shared tree, with a host tier or without."""
        self.tier: TieredIndex | None = None
        """The prefix index if it has a host tier."""
        self.eager: EagerCache | None = None
        """The prefix index if it follows every decision at once."""
        self.offload: OffloadTier | None = None
        """The prefix index if it copies blocks to the host and back in the background."""
        self._has_host = False
        if config.prefix_caching:
            if isinstance(memory, CostAware):
                memory.bind_costs(cost, self.copy_size)
            self._use(memory.index(self.pool, self.host, config.block_tokens))
        self.links = Links(cost)
        self.mirror = self._mirror_for(scheduler)
        """Copies of running sequences on the host, if the scheduler wants any."""
        self.live: dict[Sequence, None] = {}
        """Requests submitted and not ended."""
        self.resident = 0
        """Of these, how many hold device blocks to run on."""
        self.recorder = Recorder()
        self.on_scheduled: Listener | None = None
        """Called when a request is scheduled for the first time."""
        self.on_ended: Listener | None = None
        """Called when a request has ended. Neither may call the engine back."""
        self.ask: Ask | None = None
        """Stands in for the scheduler's `plan`; a driver may put its own function around that."""
        self.placement: Placement | None = None
        """Who gives places to the blocks that are counted here; see `place`."""
        self._sink = sink
        self._running: Plan | None = None
        self._ahead: Plan | None = None
        """With lag 1: the plan that was made while another one runs, until it begins."""
        self._lag = config.lag
        self._deferred_ends: list[tuple[Sequence, str, str | None]] = []
        self._landed: list[tuple[Transfer, float]] = []
        self.demotion = _demotion(self, memory)
        """Who takes bits from the caches of running requests, where the memory policy wants it."""
        self._requantised: list[Requantise] = []
        """For the next plan."""
        scheduler.bind(
            Machine(
                total_blocks=config.total_blocks,
                block_tokens=config.block_tokens,
                max_model_len=config.max_model_len,
                layers=config.layers,
                cost=cost,
                prefix_caching=config.prefix_caching,
                lag=config.lag,
            )
        )

    # -- what a driver calls --------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> Sequence:
        """Take in a request."""
        seq = Sequence(request)
        self.live[seq] = None
        self.recorder.sequences.append(seq)
        if self._sink is not None:
            numbers = (request.prompt_tokens, request.max_tokens)
            self._sink((now, "submit", request.request_id, *numbers))
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
            if not self._lag or running.advanced:
                raise PlanError("plan() while a plan is running")
            self._advance(running, 1)
            running.advanced = True
        if self._landed:
            self._take_in_landed()
        plan = self._decide(now)
        if running is None:
            self._running = plan
        else:
            self._ahead = plan
        return plan

    def begin(self, plan: Plan) -> None:
        """With lag 1: `plan` starts on the device now that its predecessor has completed."""
        self._running, self._ahead = plan, None

    def complete(self, plan: Plan, outcome: Outcome) -> None:
        """Take in what happened. With lag 1 a plan is completed twice, its last step apart."""
        now = outcome.end_s
        if outcome.step_end_s:
            self._record_steps(plan, outcome.step_end_s, outcome.last)
            if plan.chunks:
                self._end_chunks(plan.chunks, now)
        finished = outcome.finished
        if finished:
            if len(finished) > 1:  # a backend may report them in any order
                finished = sorted(
                    finished, key=_index if self.eager is None else self.eager.end_order
                )
            for seq in finished:
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
        """The run is cut off between two plans: what is still under way stays unfinished.

        With lag 1 the next plan is made by then and never begins: what it has taken for the growth
        of its first step belongs to no sequence yet, and comes free.
        """
        if self._ahead is not None:
            self.pool.referenced -= self._ahead.taken_blocks
        self._running = self._ahead = None
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
        growth = self.batch.growth(steps)
        self.pool.referenced += growth - plan.taken_blocks
        plan.taken_blocks = growth
        self._settle(plan.now)

    # -- what a draft calls ---------------------------------------------------------------------

    def keys(self, seq: Sequence) -> tuple[Key, ...]:
        """Prefix-index keys of the prompt, built when first asked for."""
        if seq.keys is None:
            seq.keys = request_keys(seq.request)
        return seq.keys

    def copy_size(self, blocks: int, small: Small = NO_SMALL) -> tuple[int, int]:
        """Bytes and number of separate copies that moving `blocks` takes, `small` among them."""
        nbytes = self.host.sizes.total(blocks, small)
        return nbytes, blocks * self.scheduler.copies_per_block

    def runs_of(self, seq: Sequence) -> Runs:
        """Bits of the blocks that a resident sequence holds, shared ones included."""
        if seq.node is None or self.tree is None or not self.pool.small:
            return seq.runs
        path = [(node.bits, node.blocks) for node in seq.node.path()]
        return joined([*path[::-1], *seq.runs])

    def small_blocks(self, seq: Sequence) -> Small:
        """How many of them have 8 and 4 bits."""
        return small_in(self.runs_of(seq))

    def free_blocks(self, seq: Sequence, now: float) -> int:
        """Give back a sequence's device blocks; returns how many private ones that were."""
        freed, seq.blocks = seq.blocks, 0
        self.pool.referenced -= freed
        if seq.runs:
            self.pool.release_small(seq.small)
            seq.runs = NO_RUNS
        seq.light_tokens = 0
        if seq.node is not None:
            assert self.prefix is not None
            self.prefix.release(seq.node, now)
            seq.node, seq.shared_blocks = None, 0
        return freed

    def keep_own(self, seq: Sequence, scheduled_tokens: int) -> None:
        """Before a preempted sequence is dropped: an eager index keeps its full private blocks.

        Those count that would have been full after the step in which it was `scheduled` first. With
        lag 1 the token that the step on the device is about to give is not known yet, and so
        neither is the content of the block that the step completes.
        """
        if self.eager is None or seq.node is None:
            return
        running, told = self._running, seq.computed_tokens + scheduled_tokens
        if running is not None and running.decodes and seq.last_token_step == self.batch.step - 1:
            told -= 1
        own = told // self.block_tokens - seq.shared_blocks
        if 0 < own <= seq.blocks:
            self.eager.add_own(seq.request, seq.node, own)

    def publish(self, seq: Sequence, computed_tokens: int) -> int:
        """Make the prompt blocks among so many tokens findable; returns how many that were.

        Not those of a prompt that came back from the host with fewer bits.
        """
        assert self.prefix is not None
        if seq.runs:
            return 0
        stop = min(computed_tokens, seq.request.prompt_tokens) // self.block_tokens
        keys = self.keys(seq)
        if not keys or stop <= seq.shared_blocks:
            return 0
        above = seq.node
        seq.node, moved = self.prefix.insert(seq.request, keys, above, stop)
        seq.blocks -= moved
        seq.shared_blocks += moved
        if moved and self.placement is not None:
            self.placement.published(seq, above)
        return moved

    def land(self, seq: Sequence) -> None:
        """A sequence's cache is back on the device: it goes on where it stopped."""
        self.host.release(seq.host_blocks, seq.host_small)
        seq.transfer = None
        seq.host_blocks, seq.host_runs = 0, NO_RUNS
        if seq.computed_tokens < seq.prefill_tokens:
            seq.state = State.PREFILLING
        else:
            seq.state = State.DECODING
            self._join(seq)

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
        if self._running is None:
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
            self._release_all(seq, now)
        seq.keys = None
        if self.recorder.prefetched:
            self.recorder.settle_prefetch(seq)
        self.scheduler.ended(seq)
        if self._sink is not None:
            detail = seq.output_tokens if reason is None else reason
            self._sink((now, _END_KINDS[outcome], seq.request.request_id, detail))
        if self.on_ended is not None:
            self.on_ended(seq, now)

    # -- inside ---------------------------------------------------------------------------------

    def _use(self, index: PrefixCache) -> None:
        """Keep cached prefixes in this index."""
        self.prefix = index
        self.tree = index if isinstance(index, PrefixIndex) else None
        self.tier = index if isinstance(index, TieredIndex) else None
        self.eager = index if isinstance(index, EagerCache) else None
        self.offload = index if isinstance(index, OffloadTier) else None
        self._has_host = self.tier is not None or self.offload is not None
        scheduler = self.scheduler
        if self.offload is not None and not getattr(scheduler, "loads_prefixes", False):
            raise ConfigError(
                "memory.offload: expected a scheduler that loads prefixes (vllm_v1), "
                f"got {scheduler.name}"
            )

    def _mirror_for(self, scheduler: Scheduler) -> Mirror | None:
        """Where copies of running sequences are counted, if the scheduler wants any."""
        if not getattr(scheduler, "write_through", False):
            return None
        wanted: Callable[[Sequence], bool] = getattr(scheduler, "may_swap_out")  # noqa: B009
        return Mirror(self.host, self.block_tokens, wanted, self.runs_of)

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
            if plan is not None or self._running is not None:
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
        steps = self._steps_of(draft, decodes)
        if steps < 1:
            raise PlanError("no memory for the next step: preempt or park before decoding")
        taken = batch.next_growth() if decodes else 0
        reserved = taken if steps == 1 else batch.growth(steps)
        if reserved > pool.available:
            raise PlanError(f"{pool.referenced + reserved} blocks asked of {pool.total}")
        if chunks or draft.padded is not None:
            _check_work(draft.padded, chunks, decodes, steps)
        if changes:
            self._note_changes(draft, now)
            if self.placement is not None:
                self.placement.decided(changes)
        if self._has_host or (self.mirror is not None and self.mirror.concerns(draft)):
            self._copy_ahead(draft, decodes, now)
        if not (decodes or chunks or draft.before_step or draft.background):
            return None
        if draft.clear_blocks:
            self._clear(draft.clear_blocks, now)
        pool.referenced += taken
        if pool.referenced > pool.peak_referenced or self.prefix is not None:
            self._settle(now)
        if self.tier is not None:
            evicted = self.tier.take_evicted()
            self._copy_cached("offload", evicted, draft.before_step, "before_step", now)
        if draft.before_step or draft.background:
            self.links.start(draft.before_step, draft.background, now)
        self.recorder.plans += 1
        joined, batch.joined = batch.joined, []
        requantised, self._requantised = self._requantised, []
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
            requantised,
            batch.light_tokens if decodes else 0,
            batch.longest_tokens() if decodes and not chunks else 0,
        )

    def _steps_of(self, draft: Draft, decodes: int) -> int:
        """How many steps a draft stands for: fewer where memory has to be seen to in between."""
        steps = draft.steps if decodes else draft.chunk_steps
        if draft.chunks and steps > draft.chunk_steps:
            steps = draft.chunk_steps
        if steps > 0 and (self._has_host or self._shrinks_cached):
            steps = self._steps_without_copies(steps, bool(draft.chunks))
        if steps > 1 and decodes and self.demotion is not None:
            steps = min(steps, self.batch.steps_within(self.demotion.room, steps) + 1)
        return steps

    def _join(self, seq: Sequence) -> None:
        """Make a sequence a member of the decode batch."""
        seq.seen_small = NO_SMALL
        if self.pool.small:
            assert self.demotion is not None
            seq.seen_small = self.small_blocks(seq)
            seq.light_tokens = self.demotion.light_tokens(seq.seen_small)
        self.batch.join(seq)

    def _demote(self, demotion: Demotion, now: float) -> None:
        """Take bits from the caches of running requests, as far as memory is short."""
        done, batch = demotion.relieve(), self.batch
        for seq in batch.lightened:
            batch.count_reads(seq)
            seq.seen_small = self.small_blocks(seq)
        batch.lightened.clear()
        if self.mirror is not None:
            for seq, before in demotion.take_changed():
                self.mirror.requantised(self.batch, seq, before)
        for job in done:
            assert job.sequence is not None
            self._emit(now, "requantise", job.sequence, (job.blocks, job.from_bits, job.to_bits))
        self._requantised += done

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

    def _steps_without_copies(self, steps: int, chunks: bool) -> int:
        """Copies of cached blocks, and conversions, come before a step, or follow on one: a slice
        ends where one may be needed. With an offload tier a waiting request may also miss a block
        that goes.
        """
        tier, offload = self.tier, self.offload
        if offload is not None:
            steps = offload.steps_before_store(self.batch, steps)
        if chunks or steps == 1:
            return 1
        if self._shrinks_cached:
            return self._steps_without_eviction(steps)
        if len(self.live) == self.resident if tier is None else not tier.tier.writes_back:
            return steps
        return self._steps_without_eviction(steps)

    @property
    def _shrinks_cached(self) -> bool:
        """True if cached blocks may lose bits when they are in the way."""
        if self.demotion is None or self.tree is None or self.tree.ladder is None:
            return False
        return self.tree.ladder.shrinks_cached

    def _steps_without_eviction(self, steps: int) -> int:
        """How many of so many decodes, one at least, take free blocks alone."""
        pool, batch = self.pool, self.batch
        free = pool.total - pool.referenced - pool.cached
        return batch.steps_within(max(free, batch.next_growth()), steps)

    def _back_up(self, draft: Draft, decodes: int, now: float) -> None:
        """Book copies to the host that no step waits for."""
        if self.tier is not None:
            backed_up = self.tier.take_backed_up()
            self._copy_cached("backup", backed_up, draft.background, "background", now)
        if self.offload is not None:
            for job, blocks in self._due_stores(self.offload, draft, decodes):
                self._copy_cached("backup", Blocks(blocks), draft.background, "background", now)
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
        offload.store(self.batch, draft.chunks, decodes)
        if not (decodes or draft.chunks):
            due += offload.take_stores()
        return due

    def _copy_cached(
        self, kind: str, copied: Blocks, transfers: list[Transfer], timing: Timing, now: float
    ) -> None:
        """Book a copy to the host that no request asked for."""
        blocks = copied.number
        if not blocks:
            return
        nbytes, pieces = self.copy_size(blocks, copied.small)
        transfers.append(Transfer(None, "d2h", blocks, nbytes, pieces, timing))
        self.recorder.cache_d2h_bytes += nbytes
        self.recorder.events += 1
        if self._sink is not None:
            self._sink((now, kind, "", blocks))

    def _copy_ahead(self, draft: Draft, decodes: int, now: float) -> None:
        """Copies to the host ahead of need, in the background."""
        if self.mirror is not None and self.mirror.concerns(draft):
            self._follow(self.mirror, draft)
            written = NO_BLOCKS
            if draft.write_blocks and decodes:
                written = self.mirror.start(self.batch, draft.write_blocks)
            if written.number:
                self._copy_cached("write_through", written, draft.background, "background", now)
                self.mirror.begin(draft.background[-1])
        if self._has_host:
            self._back_up(draft, decodes, now)

    def _follow(self, mirror: Mirror, draft: Draft) -> None:
        """Tell the mirror who comes and goes by a draft."""
        if not mirror.active:
            mirror.activate(self.batch)
        for kind, seq, _, saved in draft.changes:
            if kind in _LEAVING:
                mirror.leave(seq, kind == "swap_out")
            elif kind == "swap_in" and seq.state is _DECODING and saved[0] == "before_step":
                mirror.join(seq, seq.computed_tokens // self.block_tokens)
        if self.batch.joined:
            mirror.take_in(self.batch)
        mirror.give_way(self.batch)

    def _take_growth(self, plan: Plan) -> None:
        """Lag 1: the plan's last step is on the device, with everybody who was in the batch."""
        plan.taken_blocks = self.batch.next_growth()
        self.pool.referenced += plan.taken_blocks
        self._settle(plan.now)

    def _advance(self, plan: Plan, steps: int) -> None:
        """Count `steps` steps of a plan as done."""
        if plan.decodes:
            batch = self.batch
            # Without lag nobody leaves in between, so a single step takes what the plan took.
            if steps > 1 or self._lag:
                growth = batch.next_growth() if steps == 1 else batch.growth(steps)
                more, plan.taken_blocks = growth - plan.taken_blocks, 0
                pool = self.pool
                pool.referenced += more
                if pool.referenced > pool.peak_referenced or self.prefix is not None:
                    self._settle(plan.now)
            batch.advance(steps)
        for chunk in plan.chunks:
            self._advance_chunk(chunk, plan.done_steps, steps)

    def _advance_chunk(self, chunk: PrefillChunk, done_steps: int, steps: int) -> None:
        """Count a chunk's tokens in `steps` steps, after `done_steps` of them, as computed."""
        seq, tokens, context, last = chunk
        if seq.state is not _PREFILLING:
            return
        if steps > 1 or done_steps:
            context += done_steps * tokens
            tokens *= steps
        seq.computed_tokens = context + tokens
        if seq.lost_tokens > context:
            seq.recomputed_tokens += min(seq.lost_tokens, seq.computed_tokens) - context
        self.recorder.computed_tokens += tokens
        if self.prefix is not None:
            self.publish(seq, seq.computed_tokens)
        if last:
            seq.output_tokens += 1
            seq.state = _DECODING
            self._join(seq)

    def _record_steps(self, plan: Plan, ends: list[float], last: bool) -> None:
        """Count and note steps whose ends are known."""
        steps, decodes, recorder = len(ends), plan.decodes, self.recorder
        if not plan.advanced:
            self._advance(plan, steps)
        if decodes:
            self.batch.end_s.extend(ends)
            recorder.computed_tokens += steps * decodes
            if not last:
                self._take_growth(plan)
        else:
            recorder.steps_without_decode += steps
        if plan.chunks:
            recorder.events += steps * len(plan.chunks)
        if self._sink is not None:
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
        for seq, _, _, last in chunks:
            if not last or seq.state is _ENDED:
                continue
            if seq.first_token_s is None:
                seq.first_token_s = now
                if self._sink is not None:
                    self._sink((now, "first_token", seq.request.request_id))
            else:
                self.batch.runs.add_gap(seq, now - self.batch.last_token_s(seq))
            seq.last_token_step = -1
            seq.last_token_s = now

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
            self.recorder.events += 1
            if self._sink is not None:
                self._sink((now, "transfer", "", transfer.blocks))
            return
        self._emit(now, "transfer", seq, (transfer.blocks,))
        seq.transfer = None
        if self.tier is not None and seq.node is not None and transfer.direction == "h2d":
            self.tier.landed(seq.node)
        if seq.state is State.ENDED:
            self._release_all(seq, now)
        elif transfer.direction == "d2h":
            self.free_blocks(seq, now)
            seq.state = State.SWAPPED
            self.scheduler.swapped_out(seq)
        else:
            if self.mirror is not None and not self.mirror.active:
                self.mirror.activate(self.batch)
            self.land(seq)
            if self.mirror is not None and seq.state is _DECODING:
                self.mirror.join(seq, seq.computed_tokens // self.block_tokens)
            self.scheduler.resumed(seq)

    def _release_all(self, seq: Sequence, now: float) -> None:
        """Free everything an ended sequence holds; full blocks of its text stay as cached ones."""
        if self.prefix is not None and seq.blocks and seq.computed_tokens:
            answer = seq.computed_tokens // self.block_tokens - seq.shared_blocks
            if 0 < answer <= seq.blocks and (self.eager is not None or self.keys(seq)):
                self._keep_answer(self.prefix, seq, answer, now)
        if self.placement is not None:
            self.placement.released(seq)
        self.free_blocks(seq, now)
        if seq.host_blocks:
            self.host.release(seq.host_blocks, seq.host_small)
            seq.host_blocks, seq.host_runs = 0, NO_RUNS

    def _keep_answer(self, prefix: PrefixCache, seq: Sequence, blocks: int, now: float) -> None:
        """Keep full blocks of a sequence's own text as cached ones, as they are."""
        node = seq.node
        if not seq.runs:
            leaf = prefix.add_answer(seq.request, node, blocks, now)
            if self.placement is not None:
                self.placement.answered(seq, leaf)  # type: ignore[arg-type]
            return
        assert self.tree is not None
        for bits, count in cut(seq.runs, 0, blocks):
            node = self.tree.add_answer(seq.request, node, count, now, bits)
        if self.placement is not None:
            self.placement.answered(seq, node)

    def _settle(self, now: float) -> None:
        """After blocks were taken: reclaim cached ones that are in the way, note the peak.

        Without a prefix cache it may be left out below the peak. The peak comes first: a policy may
        give back more than is asked for.
        """
        self.pool.note_peak()
        while self.pool.excess > 0:  # smaller blocks make less room than they count
            self._reclaim(self.pool.excess, now)

    def _clear(self, blocks: int, now: float) -> None:
        """Reclaim cached blocks until `blocks` are free, as far as there are any."""
        while (lacking := min(self.pool.excess + blocks, self.pool.cached)) > 0:
            self._reclaim(lacking, now)

    def _reclaim(self, wanted: int, now: float) -> None:
        assert self.prefix is not None
        if not self._shrinks_cached:
            self._note_reclaimed(self.prefix.reclaim(wanted), now)
            return
        assert self.tree is not None and self.demotion is not None
        self._note_reclaimed(self.tree.make_room(wanted), now)
        for shrunk in self.tree.take_shrunk():
            self._requantised.append(self.demotion.shrunk(shrunk))
            self.recorder.events += 1
            if self._sink is not None:
                self._sink((now, "requantise", "", *shrunk))

    def _note_reclaimed(self, taken: Items[tuple[object, int]], now: float) -> None:
        if self.placement is not None and self.eager is not None:
            self.placement.reclaimed(taken)  # type: ignore[arg-type]
        for _, blocks in taken:
            self.recorder.events += 1
            if self._sink:
                self._sink((now, "evict", "", blocks))

    def _end_deferred(self, now: float) -> None:
        for seq, outcome, reason in self._deferred_ends:
            self.end(seq, outcome, reason, now)
        self._deferred_ends.clear()

    def _note_changes(self, draft: Draft, now: float) -> None:
        """Count a draft's decisions on their sequences, and emit them."""
        moved, tree = draft.before_step or draft.background, self.tree
        copied = self._note_copies(draft.before_step + draft.background) if moved else {}
        for kind, seq, blocks, saved in draft.changes:
            if kind == "admit":
                if seq.first_scheduled_s is None:
                    self._note_admission(seq, now)
                self._emit(now, kind, seq, (blocks, seq.prefix_tokens))
                if saved or (tree is not None and tree.notes_hits):
                    self._note_reuse(seq, saved, now)
            elif kind in _COPIES:
                transfer = copied[seq, _COPIES[kind]]
                self._emit(now, _CHANGE_KINDS[kind], seq, (transfer.blocks,))
            elif kind == "reclaim":
                self._note_reclaimed(saved, now)  # type: ignore[arg-type]
            elif kind in _CHANGE_KINDS:
                self._emit(now, _CHANGE_KINDS[kind], seq, (abs(blocks),))
                if kind == "no_offload":
                    self.recorder.losing_offloads += 1
                elif kind == "prefetch":
                    nbytes = copied[seq, "h2d"].nbytes
                    self.recorder.prefetched[seq] = nbytes, seq.output_tokens
            if kind in _LEAVING and seq in self.recorder.prefetched:
                self.recorder.settle_prefetch(seq)

    def _note_reuse(self, seq: Sequence, loaded: tuple[object, ...], now: float) -> None:
        """A request was admitted, a part of its cached prefix maybe `loaded` from the host."""
        if seq.node is not None and self.tree is not None:
            self.tree.hit(seq.request, seq.node)
            if self.tier is not None:
                self.tier.keep_loaded(seq.node)
        if loaded:
            self._emit(now, "load", seq, loaded)

    def _note_copies(self, transfers: list[Transfer]) -> dict[tuple[Sequence, Direction], Transfer]:
        """Count copies, on their sequences too; returns each by what it moves and where."""
        recorder = self.recorder
        copied: dict[tuple[Sequence, Direction], Transfer] = {}
        for transfer in transfers:
            seq = transfer.sequence
            assert seq is not None  # the scheduler moves sequences; cached blocks come later
            copied[seq, transfer.direction] = transfer
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
        seq.first_scheduled_s = now
        if self.prefix is not None:
            seq.cached_tokens = seq.prefix_tokens
            self.recorder.prefix_query_tokens += seq.request.prompt_tokens
            self.recorder.prefix_hit_tokens += seq.prefix_tokens
        if self.on_scheduled is not None:
            self.on_scheduled(seq, now)

    def _emit(self, now: float, kind: str, seq: Sequence, numbers: tuple[object, ...] = ()) -> None:
        self.recorder.events += 1
        if self._sink is not None:
            self._sink((now, kind, seq.request.request_id, *numbers))


def _index(seq: Sequence) -> int:
    return seq.request.index


_ENDED: Final = State.ENDED
_PREFILLING: Final = State.PREFILLING
_DECODING: Final = State.DECODING
"""Reading a member off its class is slow."""
_LEAVING: Final = ("swap_out", "preempt", "park")
"""Changes that take a sequence out of the decode batch."""
_MOVING: Final = (State.MOVING_OUT, State.MOVING_IN)
_ON_DEVICE: Final = (State.DECODING, State.PREFILLING, State.PARKED, State.MOVING_IN)
"""Tuples: hashing a member of an `Enum` for a set takes longer than three comparisons."""


def _demotion(engine: Engine, memory: MemoryPolicy) -> Demotion | None:
    if isinstance(memory, Ladder) and engine.config.small_block_bytes != NO_SMALL:
        return Demotion(engine, memory)
    return None


def _host_cache_blocks(memory: MemoryPolicy, config: EngineConfig) -> int:
    """Host blocks for cached prefixes, where there are any."""
    if not isinstance(memory, HostRoom):
        return 0
    blocks = memory.host_cache_blocks(config)
    return blocks if config.prefix_caching else 0


def _check_work(padded: Work | None, chunks: list[PrefillChunk], decodes: int, steps: int) -> None:
    """What the device is asked to compute is possible."""
    if chunks:
        _check_chunks(chunks, steps)
    if padded is not None:
        _check_padding(padded, len(chunks), decodes, steps)


def _check_chunks(chunks: list[PrefillChunk], steps: int) -> None:
    """One chunk a sequence, only for those that are still resident; alone if it repeats."""
    for seq, _, _, _ in chunks:
        if seq.state is not _PREFILLING:
            raise PlanError(f"{seq!r}: a chunk in the plan that takes it away")
    if len(chunks) > 1:
        if steps > 1:
            raise PlanError("a slice of several steps has one chunk at most")
        if len({chunk.sequence for chunk in chunks}) < len(chunks):
            raise PlanError("a sequence has two chunks in one plan")


def _check_padding(padded: Work, chunks: int, decodes: int, steps: int) -> None:
    """The device computes at least what the plan asks for, and a padded prefill once."""
    if len(padded.chunks) < chunks or padded.decodes < decodes:
        work = f"{len(padded.chunks)} chunks and {padded.decodes} decodes"
        raise PlanError(f"padding to {work} is less than {chunks} and {decodes}")
    if padded.chunks and steps > 1:
        raise PlanError("a slice of several steps has no padded chunks")


_CHANGE_KINDS: Final = {
    "preempt": "preempt",
    "swap_out": "rotate_out",
    "swap_in": "rotate_in",
    **{kind: kind for kind in ("promote", "demote", "relegate", "prefetch", "no_offload")},
}
_COPIES: dict[str, Direction] = {"swap_out": "d2h", "swap_in": "h2d"}
_END_KINDS: Final = {
    "finished": "finish",
    "rejected": "reject",
    "failed": "fail",
    "cancelled": "cancel",
    "unfinished": "unfinished",
}
