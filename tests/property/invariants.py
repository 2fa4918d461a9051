"""What holds at every step of a run, and a driver that gives requests up on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field
from math import inf
from typing import Any

from harness import BlockingDriver
from hypothesis import strategies as st

from superinfer.engine import Engine
from superinfer.memory.blocks.slabs import NO_BLOCKS
from superinfer.memory.index.node import Node
from superinfer.memory.vllm_v1.cache import Block, BlockCache
from superinfer.memory.vllm_v1.offload import OffloadingCache
from superinfer.memory.vllm_v1.orders import WRITING
from superinfer.plan import Outcome, Plan
from superinfer.schedulers.base import largest_step_of
from superinfer.sequence import Sequence, State
from superinfer.transfers.mirror import Mirror

CANCELS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 1, 2, 3, 5, 8, 11.25, 17, 30, 45, 60, 90]), st.integers(0, 15)
    ),
    max_size=12,
)
ON_DEVICE = (State.PREFILLING, State.DECODING, State.PARKED)
ENDS = ("finish", "reject", "fail", "cancel")


def ceil_div(tokens: int, size: int) -> int:
    return -(-tokens // size)


def computed(engine: Engine, seq: Sequence) -> int:
    """Tokens in the cache of a sequence as of now."""
    if seq.state is State.DECODING:
        return seq.computed_tokens + engine.batch.step - seq.join_step
    return seq.computed_tokens


def private(engine: Engine, seq: Sequence) -> int:
    """Private device blocks of a sequence as of now."""
    if seq.state is State.DECODING:
        return ceil_div(computed(engine, seq), engine.block_tokens) - seq.shared_blocks
    return seq.blocks


def nodes_of(engine: Engine) -> list[Node | Block]:
    if isinstance(engine.prefix, BlockCache):
        return list(engine.prefix.nodes())
    return list(engine.tree.nodes()) if engine.tree is not None else []


def on_device(node: Node | Block) -> bool:
    return isinstance(node, Block) or node.on_device


def holders(engine: Engine) -> list[Sequence]:
    """Who may hold memory: live sequences, and ended ones whose copy is still under way."""
    ended = [s for s in engine.recorder.sequences if s.state is State.ENDED and s.transfer]
    return [*engine.live, *ended]


def most_tokens(engine: Engine) -> float:
    """Of the largest step that the scheduler says it may plan, if it says so."""
    scheduler, longest = engine.scheduler, engine.config.max_model_len
    if not hasattr(scheduler, "largest_step"):
        return inf
    planned = getattr(scheduler, "largest_prefill", None)
    step = largest_step_of(scheduler, longest, engine.prefix is not None)
    return max(step.tokens, planned(longest) if planned else 0)


@dataclass
class Watch:
    """Wraps an engine's `plan` and `complete`, and checks everything after each of them."""

    engine: Engine
    now: float = 0.0
    checks: int = 0
    plans: list[Plan] = field(default_factory=list)
    """Plans made and not completed: one, or with lag 1 the next one too."""
    given_up: list[Sequence] = field(default_factory=list)
    holders: list[Sequence] = field(default_factory=list)
    """Who may hold memory, as of the check that is under way."""
    nodes: list[Node | Block] = field(default_factory=list)
    """What is cached, likewise."""

    def __post_init__(self) -> None:
        engine = self.engine
        self._plan, self._complete, self._cancel = engine.plan, engine.complete, engine.cancel
        engine.plan, engine.complete = self.plan, self.complete  # type: ignore[method-assign]
        engine.cancel = self.cancel  # type: ignore[method-assign]
        self.most_tokens = most_tokens(engine)

    def plan(self, now: float) -> Plan | None:
        self._tick(now)
        plan = self._plan(now)
        if plan is not None:
            self.plans.append(plan)
            assert plan.steps >= 1 and plan.reserved_blocks >= plan.taken_blocks
            assert plan.reserved_blocks - plan.taken_blocks <= self.engine.pool.available
            assert plan.decodes + sum(chunk.tokens for chunk in plan.chunks) <= self.most_tokens
        self.check()
        return plan

    def complete(self, plan: Plan, outcome: Outcome) -> None:
        self._tick(outcome.end_s)
        assert outcome.step_end_s == sorted(outcome.step_end_s)
        self._complete(plan, outcome)
        if outcome.last:
            self.plans.remove(plan)
            assert {seq.state for seq in self.given_up} <= {State.ENDED}
        self.check()

    def cancel(self, seq: Sequence, now: float) -> None:
        self._cancel(seq, now)
        self.given_up.append(seq)
        assert seq.state is State.ENDED or self.plans

    def _tick(self, now: float) -> None:
        assert now >= self.now
        self.now = now

    def check(self) -> None:
        self.checks += 1
        self.holders, self.nodes = holders(self.engine), nodes_of(self.engine)
        self.check_pools()
        self.check_leaving()
        self.check_precision()
        self.check_host()
        self.check_prefix()
        self.check_batch()
        for seq in self.engine.recorder.sequences:
            self.check_sequence(seq)

    def check_pools(self) -> None:
        engine, pool = self.engine, self.engine.pool
        nodes = self.nodes
        taken = sum(plan.taken_blocks for plan in self.plans)
        held = sum(private(engine, seq) for seq in self.holders)
        locked = sum(node.blocks for node in nodes if node.refs)
        assert pool.referenced == held + locked + taken
        assert pool.cached == sum(n.blocks for n in nodes if on_device(n) and not n.refs)
        assert pool.referenced + pool.cached <= pool.total
        assert pool.taken <= pool.peak_referenced
        assert pool.used <= pool.peak_used

    def check_leaving(self) -> None:
        """What copies under way free is told, of those too who ended meanwhile; what smaller blocks
        of theirs save is as it was when they left.
        """
        landings, sequences = self.engine.landings, self.engine.recorder.sequences
        moving = [s for s in sequences if s.transfer and s.state in (State.MOVING_OUT, State.ENDED)]
        assert set(landings._leaving) == set(moving)
        if not any(seq.runs for seq in moving):
            assert landings.leaving_blocks == sum(private(self.engine, seq) for seq in moving)

    def check_host(self) -> None:
        """Blocks and bytes on the host are those of swapped ones, cached ones and copies."""
        host, mirror = self.engine.host, self.engine.mirror
        assert host.used == sum(seq.host_blocks for seq in self.holders)
        assert host.cached == self.copies()
        sizes = self.engine.config.block_sizes
        swapped_bytes = sum(sizes.total(seq.host_blocks, seq.host_small) for seq in self.holders)
        cached_bytes = sum(
            sizes.of(node.bits) * node.blocks
            for node in self.nodes
            if isinstance(node, Node) and node.on_host
        )
        if isinstance(self.engine.prefix, OffloadingCache):
            cached_bytes = host.cached * sizes.bytes_16
        copies = [NO_BLOCKS] if mirror is None else [mirror.synced(s) for s in self.engine.live]
        copied_bytes = sum(sizes.total(*blocks) for blocks in copies)
        if mirror is not None and mirror.transfer is not None:
            copied_bytes += sizes.total(*mirror._held)
        assert host.nbytes == swapped_bytes + cached_bytes + copied_bytes
        assert swapped_bytes + copied_bytes <= host.total * sizes.bytes_16
        assert cached_bytes <= host.cache_total * sizes.bytes_16
        if mirror is not None:
            for seq in self.engine.live:
                self.check_copies(mirror, seq)

    def check_copies(self, mirror: Mirror, seq: Sequence) -> None:
        """No more blocks of a precision have copies than there are."""
        count, copied = mirror.synced(seq)
        if count:
            small = self.engine.holdings.small_blocks(seq)
            assert copied[0] <= small[0] and copied[1] <= small[1]
            full = computed(self.engine, seq) // self.engine.block_tokens
            assert count - sum(copied) <= full - sum(small)

    def check_precision(self) -> None:
        """What smaller blocks save is what the pool says, and classes have the bits they demand."""
        engine, pool = self.engine, self.engine.pool
        held, cached = Counter[int](), Counter[int]()
        for seq in self.holders:
            held[8] += seq.small[0]
            held[4] += seq.small[1]
            assert sum(seq.small) <= max(0, private(engine, seq) - 1)
        for node in self.nodes:
            if isinstance(node, Node) and node.bits < 16 and node.on_device:
                (held if node.refs else cached)[node.bits] += node.blocks
        slabs = engine.config.slabs
        kept = slabs.saved(held[8], held[4])
        saved = slabs.saved(held[8] + cached[8], held[4] + cached[4])
        assert (pool.total, pool.lent) == (pool.size + saved, saved - kept)
        assert pool.taken == pool.referenced - kept <= pool.size
        for seq in self.holders:
            path = list(seq.node.path()) if isinstance(seq.node, Node) else []
            floor = seq.request.slo_class.min_kv_bits
            assert all(node.bits >= floor for node in path)
            assert not seq.small[1] or floor == 4
            assert not seq.small[0] or floor <= 8
            if seq.state is State.DECODING and engine.demotion is not None:
                assert seq.light_tokens == engine.demotion.light_tokens(
                    engine.holdings.small_blocks(seq)
                )

    def copies(self) -> int:
        """Blocks on the host beside swapped ones; checks who reads them."""
        if not isinstance(self.engine.prefix, OffloadingCache):
            return sum(n.blocks for n in self.nodes if isinstance(n, Node) and n.on_host)
        blocks = self.engine.prefix.copies
        copies = list(blocks.order)
        reading = Counter(
            key
            for seq in self.holders
            if seq.transfer and seq.node.job
            for key in seq.node.job.keys
        )
        assert all(copy.refs == WRITING or copy.refs == reading[copy.key] for copy in copies)
        assert all(blocks.get(key) for key in reading)
        assert blocks.idle_blocks == sum(not copy.refs for copy in copies)
        assert len({copy.key for copy in copies}) == len(copies)
        return len(copies)

    def check_prefix(self) -> None:
        """References are the sequences whose path goes through a node; edges join up."""
        if isinstance(self.engine.prefix, BlockCache):
            self.check_blocks(self.engine.prefix)
            return
        passing = Counter(node for seq in self.holders if seq.node for node in seq.node.path())
        tree = self.engine.tree
        moving = [seq for seq in self.holders if seq.transfer and seq.node]
        loading = {step for seq in moving for step in seq.node.path()}
        for node in tree.nodes() if tree is not None else ():
            assert node.refs == passing[node]
            assert node.stop > node.start
            assert node.parent is not None and node.parent.stop == node.start
            self.check_place(node, loading)
        for seq in self.holders:
            assert seq.shared_blocks == (seq.node.stop if seq.node else 0)
        if tree is not None:
            again = sum((node.refs - 1) * node.blocks for node in passing)
            assert tree.shared_again == again
            assert tree.locked_blocks == sum(node.blocks for node in passing)

    def check_place(self, node: Node, loading: set[Node]) -> None:
        """A node is somewhere; on the device only below one that is there, too. `loading`: those
        on the paths of sequences whose copies are under way.
        """
        children = [child.on_device for child in node.children.values()]
        assert node.device_children == sum(children)
        assert node.on_device or (node.on_host and not (node.refs or any(children)))
        assert not node.loading or node in loading
        if self.engine.tier is None:
            assert node.on_device and not (node.on_host or node.loading)

    def check_blocks(self, cache: BlockCache) -> None:
        """References are the sequences that hold a block; each content is held once by each."""
        tables = [seq.node for seq in self.holders if seq.node]
        holding = Counter(block for table in tables for block in table.blocks)
        assert cache.shared_again == sum(holding.values()) - len(holding)
        for block in cache.nodes():
            assert block.refs == holding.pop(block, 0)
            assert block.blocks == 1 or block.key is None
            assert bool(block.place) != bool(block.refs)
        assert not holding
        for seq in self.holders:
            assert seq.shared_blocks == (seq.node.stop if seq.node else 0)

    def check_batch(self) -> None:
        engine, batch = self.engine, self.engine.batch
        states = Counter(seq.state for seq in engine.live)
        members = [seq for seq in engine.live if seq.state is State.DECODING]
        assert set(batch.members) == set(members) and batch.size == len(members)
        assert engine.resident == states[State.MOVING_IN] + sum(states[s] for s in ON_DEVICE)
        cached = [computed(engine, seq) for seq in members]
        light = sum(seq.light_tokens for seq in members)
        assert batch.context_tokens == sum(cached) + len(cached) - light
        size = engine.block_tokens
        for steps in range(2 * size + 1):
            growth = sum(ceil_div(n + steps, size) - ceil_div(n, size) for n in cached)
            assert batch.growth(steps) == growth
        assert batch.next_growth() == sum(n % size == 0 for n in cached)
        assert sum(batch.grows(seq) for seq in members) == batch.next_growth()

    def check_sequence(self, seq: Sequence) -> None:
        """What a sequence holds fits its state."""
        device = private(self.engine, seq) + seq.shared_blocks
        need = ceil_div(computed(self.engine, seq), self.engine.block_tokens)
        whole = ceil_div(seq.prefill_tokens, self.engine.block_tokens)
        state = seq.state
        assert (seq in self.engine.live) == (state is not State.ENDED)
        if seq.transfer:
            # Both copies of the cache stay until the transfer has landed, whoever ends before.
            assert state in (State.MOVING_IN, State.MOVING_OUT, State.ENDED)
            # A cached prefix that comes back from the host was never the sequence's own there.
            assert device >= need and seq.host_blocks in (need, 0)
            assert seq.host_blocks or seq.node
        elif state in (State.WAITING, State.ENDED):
            assert (device, seq.host_blocks, seq.node) == (0, 0, None)
        elif state in ON_DEVICE:
            # vLLM V1 takes blocks chunk by chunk.
            chunkwise = state is State.PREFILLING and self.engine.scheduler.name == "vllm_v1"
            assert (need if chunkwise else max(need, whole)) <= device <= max(need, whole)
            assert seq.host_blocks == 0
        else:
            assert state is State.SWAPPED
            assert (device, seq.host_blocks, seq.node) == (0, need, None)


@dataclass
class ImpatientDriver(BlockingDriver):
    """The blocking driver with clients that give up."""

    cancels: list[tuple[float, int]] = field(default_factory=list)
    """When, and the index of the request; sorted."""

    def _catch_up(self) -> None:
        super()._catch_up()
        while self.cancels and self.cancels[0][0] <= self.now:
            time_s, index = self.cancels.pop(0)
            for seq in self.sequences[index : index + 1]:  # none if it has not arrived
                self.engine.cancel(seq, time_s)
                self.disturbed = True


def assert_all_free(engine: Engine) -> None:
    """At the end nothing is held, and every cached block can be reclaimed."""
    assert (engine.pool.referenced, engine.host.used, engine.resident) == (0, 0, 0)
    assert engine.host.mirrored == 0
    if engine.prefix is not None:
        engine.prefix.reclaim(engine.pool.cached)
        if engine.tier is not None:
            engine.tier.reclaim_host(engine.host.cached)
            assert engine.host.cached == 0
        assert nodes_of(engine) == []
    assert engine.pool.cached == 0


def assert_each_ends_once(events: Iterable[Any], jobs: Sized) -> None:
    ends = Counter(event[2] for event in events if event[1] in ENDS)
    assert ends == {f"r{index}": 1 for index in range(len(jobs))}
