"""Whole runs of the core with its blocks in memory, every token of them a pattern of its own."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from harness import BlockingDriver
from torch import Tensor

from executor.kv.arena import Arena, HostArena, arena_size
from executor.kv.checks import check
from executor.kv.layout import KVLayout
from executor.kv.manager import BlockManager
from executor.kv.streams import InlineStreams, Lane, Streams
from executor.kv.swap import Mover
from executor.kv.tables import BlockTable, CopyJob, Moves
from superinfer.engine import Engine
from superinfer.memory.blocks.slabs import Slabs, slabs_of
from superinfer.memory.index.keys import request_keys
from superinfer.plan import Plan, Transfer
from superinfer.request import Request
from superinfer.sequence import Sequence, State

TOKENS = 4
"""Of a block."""
BLOCK_BYTES = {16: 64, 8: 36, 4: 20}
LANES: tuple[Lane, ...] = ("compute", "d2h", "h2d")
SLOT_BYTES = {bits: size // TOKENS for bits, size in BLOCK_BYTES.items()}


@dataclass(frozen=True)
class PatternLayout:
    """Blocks of which each token has a part for itself, whatever the precision."""

    block_bytes: dict[int, int] = field(default_factory=lambda: dict(BLOCK_BYTES))


def pattern(tokens: np.ndarray, bits: int) -> np.ndarray:
    """Bytes of tokens, which are known by numbers of 32 bits; [tokens, bytes]."""
    numbers = np.ascontiguousarray(tokens, np.uint32).view(np.uint8).reshape(-1, 4)
    return numbers[:, np.arange(SLOT_BYTES[bits]) % 4]


def blocks_at(arena: Tensor, offsets: np.ndarray, bits: int) -> np.ndarray:
    """Bytes of blocks of one precision; [blocks, tokens, bytes]."""
    memory = arena.numpy()
    where = offsets[:, None] + np.arange(BLOCK_BYTES[bits])
    return memory[where].reshape(len(offsets), TOKENS, -1)


def put_blocks(arena: Tensor, offsets: np.ndarray, bits: int, content: np.ndarray) -> None:
    """The reverse."""
    where = offsets[:, None] + np.arange(BLOCK_BYTES[bits])
    arena.numpy()[where] = content.reshape(len(offsets), -1)


class PatternOps:
    """The operations that move blocks, on patterns."""

    def requantise(
        self,
        arena: Tensor,
        layout: KVLayout,
        sources: Tensor,
        targets: Tensor,
        from_bits: int,
        to_bits: int,
    ) -> None:
        """As parallel parts would: each target is cleared before its source is read."""
        content = blocks_at(arena, sources.numpy(), from_bits)
        put_blocks(arena, targets.numpy(), to_bits, np.zeros(len(targets) * BLOCK_BYTES[to_bits]))
        assert np.array_equal(content, blocks_at(arena, sources.numpy(), from_bits)), "in place"
        tokens = np.ascontiguousarray(content[..., :4]).view(np.uint32).reshape(-1)
        put_blocks(arena, targets.numpy(), to_bits, pattern(tokens, to_bits))

    def copy_blocks(self, arena: Tensor, sources: Tensor, targets: Tensor, nbytes: int) -> None:
        """No target is a source."""
        assert not set(sources.tolist()) & set(targets.tolist())
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            arena[target : target + nbytes] = arena[source : source + nbytes].clone()


@dataclass(eq=False)
class FakeMark:
    """Reached or not."""

    reached: bool = False


class FakeStreams:
    """Lanes that do nothing until they are told to, each in its own time."""

    def __init__(self, seed: int) -> None:
        self._lanes: dict[Lane, deque[Callable[[], bool]]] = {lane: deque() for lane in LANES}
        self._random = random.Random(seed)

    def run(self, lane: Lane, action: Callable[[], None]) -> None:
        """Put it there."""

        def step() -> bool:
            action()
            return True

        self._lanes[lane].append(step)

    def mark(self, lane: Lane) -> FakeMark:
        """Behind all that is there."""
        mark = FakeMark()

        def step() -> bool:
            mark.reached = True
            return True

        self._lanes[lane].append(step)
        return mark

    def wait(self, lane: Lane, mark: FakeMark) -> None:
        """The lane stops there."""
        self._lanes[lane].append(lambda: mark.reached)

    def reached(self, mark: FakeMark) -> bool:
        """Ask it."""
        return mark.reached

    def go_on(self, steps: int) -> None:
        """Let any lanes do a few things."""
        for _ in range(steps):
            lanes = [lane for lane in self._lanes.values() if lane]
            if lanes:
                self._try(self._random.choice(lanes))

    def finish(self, lane: Lane) -> None:
        """Until a lane is through, with no more of the others than may happen anyway."""
        idle = 0
        while self._lanes[lane]:
            lanes = [lane for lane in self._lanes.values() if lane]
            idle = 0 if self._try(self._random.choice(lanes)) else idle + 1
            assert idle < 1000, "the lanes wait for each other"

    @staticmethod
    def _try(lane: deque[Callable[[], bool]]) -> bool:
        if not lane[0]():
            return False
        lane.popleft()
        return True


@dataclass
class Contents:
    """What each token of each sequence has to be in memory: of equal prompts the same."""

    engine: Engine
    _known: dict[Sequence, np.ndarray] = field(default_factory=dict)
    _names: dict[object, int] = field(default_factory=dict)
    _said: dict[object, np.ndarray] = field(default_factory=dict)
    """Tokens of blocks of answers, by their names."""
    texts: list[tuple[int, ...]] = field(default_factory=list)
    """Ids of finished requests, their answers with them."""

    def text_ids(self, seq: Sequence) -> tuple[int, ...]:
        """As a driver that knows what is said."""
        request, size = seq.request, seq.request.hash_block_tokens
        known = request.prompt_tokens // size
        said = range(known, seq.computed_tokens // size)
        ids = request.hash_ids[:known] + tuple(10_000_000 + request.index * 1000 + k for k in said)
        numbers, block_tokens = self.of(seq), self.engine.block_tokens
        for block in range(request.prompt_tokens // block_tokens, len(ids) * size // block_tokens):
            assert self.engine.prefix is not None
            name = self.engine.prefix.block_name(request, ids, block)
            self._said[name] = numbers[block * block_tokens : (block + 1) * block_tokens].copy()
        self.texts.append(ids)
        return ids

    def of(self, seq: Sequence) -> np.ndarray:
        """The numbers of its tokens, from the first on."""
        if seq not in self._known:
            self._known[seq] = self._numbers(seq.request)
        return self._known[seq]

    def _numbers(self, request: Request) -> np.ndarray:
        size = self.engine.block_tokens
        numbers = np.arange(512, dtype=np.uint32) + (request.index + 1) * 1000
        keys, prefix = request_keys(request), self.engine.prefix
        if keys and prefix is not None:
            for block in range(request.prompt_tokens // size):
                name = prefix.block_name(request, keys, block)
                if name in self._said:
                    numbers[block * size : (block + 1) * size] = self._said[name]
                    continue
                number = self._names.setdefault(name, len(self._names) + 1)
                numbers[block * size : (block + 1) * size] = np.arange(size) + number * 100_000
        return numbers


@dataclass
class Step:
    """Memory that a step writes and then reads, as it was when the step was given to the device."""

    writes: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    """Offset of a block, first token in it, numbers."""
    reads: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    """Who reads, offsets, bits and numbers of the tokens."""

    def add(self, seq: Sequence, table: BlockTable, numbers: np.ndarray, context: int) -> None:
        """A sequence computes the tokens after the first `context` ones of these."""
        offsets, bits = table.offsets.copy(), table.bits.copy()
        stop = len(numbers)
        for block in range(context // TOKENS, -(-stop // TOKENS)) if context < stop else ():
            first, last = max(context, block * TOKENS), min(stop, (block + 1) * TOKENS)
            assert bits[block] == 16, "new tokens go into blocks of 16 bits"
            self.writes.append((int(offsets[block]), first % TOKENS, numbers[first:last]))
        used = -(-stop // TOKENS)
        self.reads.append((repr(seq), offsets[:used], bits[:used], numbers))

    def run(self, arena: Tensor) -> None:
        """Write, and see that everything is there."""
        memory = arena.numpy()
        for offset, token, numbers in self.writes:
            content = pattern(numbers, 16)
            start = offset + token * SLOT_BYTES[16]
            memory[start : start + content.size] = content.reshape(-1)
        for name, offsets, bits, numbers in self.reads:
            for kind in set(bits.tolist()):
                self._read(arena, name, offsets, bits == kind, kind, numbers)

    @staticmethod
    def _read(
        arena: Tensor,
        name: str,
        offsets: np.ndarray,
        chosen: np.ndarray,
        bits: int,
        numbers: np.ndarray,
    ) -> None:
        found = blocks_at(arena, offsets[chosen], bits).reshape(-1, SLOT_BYTES[bits])
        tokens = (np.flatnonzero(chosen)[:, None] * TOKENS + np.arange(TOKENS)).reshape(-1)
        there = tokens < len(numbers)
        wanted = pattern(numbers[tokens[there]], bits)
        wrong = (found[there] != wanted).any(axis=1)
        assert not wrong.any(), f"{name}: {bits}-bit tokens {tokens[there][wrong]} are others"


class Device:
    """The memory of an engine's device, and what plans make of it."""

    def __init__(self, engine: Engine, streams: Streams) -> None:
        self.engine, self.streams = engine, streams
        config, host = engine.config, engine.host
        layout = cast("KVLayout", PatternLayout())
        size = arena_size(layout, config.total_blocks, config.slabs, any(config.small_block_bytes))
        self.arena = Arena(layout, size, torch.device("cpu"))
        blocks = host.total + host.cache_total
        self.host = (
            HostArena(BLOCK_BYTES[16], blocks, pinned=False, slab_blocks=config.slabs.blocks_16)
            if blocks
            else None
        )
        self.manager = BlockManager(engine, self.arena, self.host)
        self.mover = Mover(self.arena, self.host, cast("Any", PatternOps()), streams)
        self.contents = Contents(engine)
        self.moving: set[Transfer] = set()
        """Background copies that have not been reported."""
        self.orders: Counter[str] = Counter()
        """Orders carried out, by kind."""
        self.within_small = 0
        """Chunks that ended inside a cached block of fewer bits."""

    def follow(self, plan: Plan | None) -> None:
        """Move what a plan moves, and compare all counts."""
        self._move(self.manager.follow(plan))
        check(self.manager)

    def give(self, plan: Plan, step: int) -> None:
        """Give the device a step of a plan."""
        if step:
            self._move(self.manager.grow(plan, step))
        work = Step()
        batch, table = self.engine.batch, self.manager.table
        if plan.decodes:
            for seq in batch.members:
                length = batch.length(seq) + step - plan.done_steps
                work.add(seq, table(seq), self.contents.of(seq)[:length], length - 1)
        for seq, tokens, context, last in plan.chunks_at(step):
            if seq.state is State.ENDED:  # with lag 1, after the plan was made
                continue
            stop = context + tokens
            if stop % TOKENS and table(seq).bits[stop // TOKENS] < 16:
                # A kernel may take it for granted that only a row that nobody needs ends there.
                assert tokens == 1 and not last
                self.within_small += 1
            # The last token of a chunk runs although it is there already (`Draft.prefill`).
            new = max(context, seq.prefix_tokens)
            work.add(seq, table(seq), self.contents.of(seq)[:stop], new)
        self.streams.run("compute", lambda: work.run(self.arena.tensor))

    def poll(self) -> list[Transfer]:
        """Background copies that have landed."""
        landed = self.mover.poll()
        self.moving.difference_update(landed)
        return landed

    def finish(self) -> None:
        """Do all that is left."""
        if isinstance(self.streams, FakeStreams):
            for lane in LANES:
                self.streams.finish(lane)

    def _move(self, moves: Moves) -> None:
        self.mover.start(moves)
        self.orders.update(type(order).__name__ for order in moves.orders)
        for job in moves.copies:
            # `rotasched` charges copies in its own way (`swap_out(copied_blocks=...)`).
            if job.transfer is not None and self.engine.scheduler.name != "rotasched":
                self._compare(job, job.transfer)
            if job.background:
                self.moving.add(cast("Transfer", job.transfer))

    def _compare(self, job: CopyJob, transfer: Transfer) -> None:
        """A copy moves what the core booked; of cached blocks some may have moved already."""
        sizes = self.engine.config.block_sizes
        moved = sum(sizes.of(bits) for bits in job.bits.tolist())
        assert len(job.device) <= transfer.blocks and moved <= transfer.nbytes, job
        assert transfer.sequence is None or moved in (0, transfer.nbytes), job


@dataclass
class PlacedDriver(BlockingDriver):
    """The plain driver with a device whose memory is real and whose lanes may lag behind."""

    streams: Streams = field(default_factory=InlineStreams)
    checks: int = 0

    def __post_init__(self) -> None:
        self.device = Device(self.engine, self.streams)
        self._steps: dict[Plan, int] = {}
        """Steps of a plan that were given to the device."""
        self._last: Plan | None = None

    def run(self) -> None:
        super().run()
        self.device.finish()
        check(self.device.manager)

    # -- what the plain driver does, and what the device does then --------------------------------

    def _plan(self) -> Plan | None:
        """With lag 1 the last step of the plan before is on the device already."""
        last = self._last
        if self.engine.config.lag and last is not None and last.done_steps >= self._given(last):
            self._give(last, last.done_steps)
        self._last = plan = super()._plan()
        self.device.follow(plan)
        self.checks += 1
        if plan is not None and self.engine.config.lag:
            self._give(plan, 0)
        return plan

    def _step_s(self, plan: Plan, done: int) -> float:
        if self._given(plan) <= done:
            self._give(plan, done)
        if not self.engine.config.lag and isinstance(self.streams, FakeStreams):
            self.streams.finish("compute")
        return super()._step_s(plan, done)

    def _catch_up(self) -> None:
        """A copy has landed when its lane says so; in the fake time it always has by then."""
        if isinstance(self.streams, FakeStreams):
            self.streams.go_on(16)
        due = {entry[2] for entry in self.landings if entry[0] <= self.now}
        self.device.poll()
        while self.device.moving & due:
            assert isinstance(self.streams, FakeStreams)
            self.streams.go_on(1)
            self.device.poll()
        super()._catch_up()

    def _given(self, plan: Plan) -> int:
        return self._steps.get(plan, 0)

    def _give(self, plan: Plan, step: int) -> None:
        if self._has_step(plan):
            self._steps[plan] = step + 1
            self.device.give(plan, step)


def pattern_slabs(blocks_16: int) -> Slabs:
    """Slabs of so many blocks of 16 bits."""
    return slabs_of(BLOCK_BYTES[16], BLOCK_BYTES[8], BLOCK_BYTES[4], blocks_16 * BLOCK_BYTES[16])
