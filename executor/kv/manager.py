"""The block manager: gives places to the blocks that the core counts, plan by plan."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items

import numpy as np

from executor.kv.arena import Arena, HostArena
from executor.kv.eager import EagerPlaces
from executor.kv.host import HostPlaces
from executor.kv.mirrored import MirrorPlaces
from executor.kv.placer import Held, Placer
from executor.kv.swapped import SwappedPlaces
from executor.kv.tables import NO_BITS, NO_OFFSETS, BlockTable, CopyJob, Moves
from executor.kv.tier import TierPlaces
from executor.kv.tree import TreePlaces
from superinfer.draft.undo import saved_value
from superinfer.engine import Engine
from superinfer.errors import ConfigError, PlanError
from superinfer.memory.index.node import Node
from superinfer.memory.vllm_v1.cache import Block, Table
from superinfer.plan import Change, Direction, Plan, Transfer
from superinfer.sequence import RESIDENT, Sequence, State

Transfers = dict[tuple[Sequence, Direction], Transfer]
_LEAVING = ("preempt", "swap_out")
_COMING = ("admit", "swap_in", "grow")
_ON_DEVICE = (*RESIDENT, State.MOVING_IN, State.MOVING_OUT)


class BlockManager:
    """Follows an engine, which calls the methods of `superinfer.placement.Placement`.

    A driver calls `follow` right after each `engine.plan`, `grow` before each further step of a
    slice, and `table`.
    """

    def __init__(self, engine: Engine, arena: Arena, host: HostArena | None = None) -> None:
        """Raises ConfigError where the engine's memory policy cannot be followed."""
        _check_supported(engine, arena)
        self.engine = engine
        self.device = Placer(arena.allocator())
        self.host = HostPlaces(host, arena.size)
        self.mirrored = MirrorPlaces(self.host)
        """Copies on the host of sequences that run."""
        self.swapped = SwappedPlaces(self.host, self.mirrored)
        """What is on the host of sequences that were swapped out."""
        self.tier = TierPlaces(self.host, self.device)
        """Cached prefixes on the host."""
        self.tree = TreePlaces(self.device)
        """Cached prefixes, if the index is the shared tree."""
        self.eager = None if engine.eager is None else EagerPlaces(self.device)
        """Cached prefixes, if the index knows each block by itself."""
        self._changes: list[Change] = []
        engine.place(self)

    # -- what a driver calls --------------------------------------------------------------------

    def follow(self, plan: Plan | None) -> Moves:
        """Place what a plan takes, and free what it gives back; returns what has to be moved."""
        changes, self._changes = self._changes, []
        transfers = _by_sequence(plan)
        self.swapped.free()
        if self.eager is not None:
            self.eager.settle()
        self._take_out(changes, transfers)
        self._free_trimmed()
        self._bring_in(changes, transfers)
        if plan is not None and plan.decodes:
            self._grow(0)
        if plan is not None and plan.background:
            self._copy_ahead(plan.background)
        self.tier.settle()
        if plan is None:
            return self._moves(())
        moves = self._moves((*plan.before_step, *plan.background))
        return moves if plan.full_duplex else moves.one_way_at_a_time()

    def grow(self, plan: Plan, step: int) -> Moves:
        """Blocks for step `step` (from 1 on) of a plan, before it starts. To be called for each."""
        if plan.decodes:
            ahead = step - plan.done_steps  # steps that the engine has not counted yet
            pool, growth = self.engine.pool, self.engine.batch.growth(ahead + 1)
            if ahead and pool.excess + growth - plan.taken_blocks > 0:
                self.engine.take_growth(plan, ahead + 1)
            self._free_trimmed()
            self._grow(ahead)
        return self._moves(())

    def table(self, seq: Sequence) -> BlockTable:
        """The blocks of a sequence on the device."""
        return self.device.held[seq].table

    def settle(self) -> None:
        """Free what was only waiting for the next plan. Not between a plan and its `follow`."""
        if self.eager is not None:
            self.eager.settle()
        self._free_trimmed()
        self.swapped.free()
        self.tier.settle()

    # -- what the engine calls ------------------------------------------------------------------

    def decided(self, changes: Items[Change]) -> None:
        """Keep changes of the plan for `follow`."""
        self._changes += changes

    def demoted(
        self, seq: Sequence, node: Node | None, from_bits: int, to_bits: int, blocks: int
    ) -> None:
        """Rewrite all blocks of a node, or so many of the sequence's own that have `from_bits`."""
        self._free_trimmed()
        if node is not None:
            self.device.demote(node, np.arange(blocks), from_bits, to_bits)
            return
        held = self.device.held[seq]
        own = max(1, held.shared)
        where = own + np.flatnonzero(held.table.bits[own:] == from_bits)[:blocks]
        self.device.demote(held, where, from_bits, to_bits)

    def published(self, seq: Sequence, above: Node | None) -> None:
        """New nodes get the places of the sequence's blocks, and it gets those of older ones."""
        if self.eager is not None:
            self.eager.published(seq)
        else:
            self.tree.published(seq, above)

    def answered(self, seq: Sequence, leaf: Node | Block) -> None:
        """Each node gets the first blocks of its precision. Nothing ever matches an answer."""
        if isinstance(leaf, Block):
            assert self.eager is not None
            self.eager.answered(seq, leaf)
        else:
            self.tree.answered(seq, leaf)

    def reclaimed(self, taken: Items[tuple[Block, int]]) -> None:
        """Their places are free when nobody has to read them any more."""
        assert self.eager is not None
        self.eager.reclaimed(list(taken))

    def released(self, seq: Sequence) -> None:
        """Free all that a sequence has."""
        held = self.device.held.get(seq)
        if self.eager is not None and held is not None:
            self.eager.name(seq, held)
        self.device.drop(seq)
        self.swapped.forget(seq)

    def landed(self, transfer: Transfer) -> None:
        """Free what was copied from, unless the sequence has ended: then `released` does it."""
        self.device.flights = [job for job in self.device.flights if job.transfer is not transfer]
        seq = transfer.sequence
        if seq is None:
            self.mirrored.landed(transfer)
        elif seq.state is State.ENDED:
            return
        elif transfer.direction == "d2h":
            self.device.drop(seq)
        else:
            self.swapped.landed(seq)

    def split(self, upper: Node, lower: Node) -> None:
        """Cut the tables of a node that is now two."""
        self.tier.split(upper, lower)
        self.tree.split(upper, lower)

    def trimmed(self, node: Node, blocks: int) -> None:
        """Its places are free when nobody has to read them any more."""
        self.tree.trimmed(node, blocks)

    def shrunk(self, node: Node, from_bits: int, to_bits: int) -> None:
        """Rewrite a cached node. Copies of the same plan may still have to read what was dropped,
        so its places are not freed before, as `demoted` does.
        """
        self.device.demote(node, np.arange(node.blocks), from_bits, to_bits)

    def backed_up(self, node: Node) -> None:
        """It gets a place on the host; the copy begins with the next plan."""
        self.tier.back_up(node)

    def moved_to_host(self, node: Node) -> None:
        """Its places on the device are free when nobody has to read them any more."""
        self.device.trimmed.append(self.tier.move(node))

    def dropped_on_host(self, node: Node, blocks: int) -> None:
        """Their places are free when nobody has to read them any more."""
        self.tier.drop(node, blocks)

    def joined_on_host(self, node: Node, child: Node) -> None:
        """Its places go to `node`."""
        self.tier.join(node, child)

    def mirror_joined(self, seq: Sequence, kept_blocks: int) -> None:
        """Keep the places on the host of what is kept, now or when the plan brings it back."""
        self.swapped.keep(seq, kept_blocks)

    def mirror_left(self, seq: Sequence, to_host: bool) -> None:
        """Its places are free, or become those of what is there now."""
        self.swapped.keep_none(seq)
        self.mirrored.leave(seq, to_host)

    def mirror_requantised(self, seq: Sequence) -> None:
        """Its places are free."""
        self.mirrored.requantised(seq, self.device.held[seq].table)

    def mirror_given_up(self) -> None:
        """Its places are free for copies that follow."""
        self.mirrored.give_up()

    # -- inside ---------------------------------------------------------------------------------

    def _moves(self, transfers: Items[Transfer]) -> Moves:
        """The orders so far, and an empty one for each transfer that turned out to move nothing."""
        orders, self.device.orders = self.device.orders, []
        moves = Moves(orders)
        started = {job.transfer for job in moves.copies}
        for transfer in transfers:
            if transfer not in started:
                orders.append(
                    CopyJob(transfer, transfer.direction, NO_OFFSETS, NO_BITS, NO_OFFSETS)
                )
        return moves

    def _take_out(self, changes: Iterable[Change], transfers: Transfers) -> None:
        """Free what leaves, each once: who leaves again in the same plan has brought nothing back.
        Who is dropped in the end need not be copied before.
        """
        last = {seq: kind for kind, seq, _, _ in changes if kind in _LEAVING}
        served: set[Sequence] = set()
        """Whose blocks became findable because this plan computes them."""
        for kind, seq, _, saved in changes:
            if kind == "grow" and saved[0]:
                served.add(seq)
            if kind not in _LEAVING:
                continue
            if seq in served:
                raise PlanError(f"{seq!r} leaves in the plan that computes its cached blocks")
            held = self.device.held.get(seq)
            if held is None:  # it leaves in the plan that brought it: nothing has moved yet
                if kind == "preempt":
                    self.swapped.forget(seq)
            elif last[seq] == "swap_out":
                self._swap_out(seq, held, transfers[seq, "d2h"])
            else:
                self.mirrored.forget(seq)
                self._drop(seq, saved_value(saved, "node"))

    def _drop(self, seq: Sequence, node: object) -> None:
        """A sequence, which held `node`, gives back what is its own."""
        if self.eager is not None and isinstance(node, Table):
            self.eager.leave(seq, node)
        else:
            self.device.drop(seq)

    def _swap_out(self, seq: Sequence, held: Held, transfer: Transfer) -> None:
        """Copy what was computed and has no copy yet; the rest was room for more."""
        stop = -(-seq.computed_tokens // self.engine.block_tokens)
        hosted, dirty = self.swapped.swap_out(seq, held.table, stop)
        device, host = held.table.offsets[dirty], hosted.offsets[dirty]
        self._start(CopyJob(transfer, "d2h", device, hosted.bits[dirty], host))
        if transfer.timing == "before_step":
            self.device.drop(seq)

    def _bring_in(self, changes: Items[Change], transfers: Transfers) -> None:
        for kind, seq, _, _ in changes:
            if kind not in _COMING or seq.state not in _ON_DEVICE:
                continue
            held = self.device.held.get(seq)
            if held is None:
                held = self._seat(seq, transfers.get((seq, "h2d")))
                if seq in self.swapped.hosted:
                    self._swap_in(seq, held, transfers[seq, "h2d"])
            self.device.extend(held, seq.shared_blocks + seq.blocks)
            if self.eager is not None:
                self.eager.name(seq, held)
        for kind, seq, _, saved in changes:
            if kind == "admit" and saved and seq not in self.device.held:  # preempted since
                self._start(self.tier.load(self.tier.lacking(), transfers[seq, "h2d"]))

    def _seat(self, seq: Sequence, load: Transfer | None) -> Held:
        """A table that begins with what is found in the prefix tree, part of it maybe loaded."""
        held = Held(BlockTable(seq.shared_blocks + seq.blocks + 1), seq.shared_blocks)
        self.device.held[seq] = held
        if self.eager is not None:
            if seq.node is not None:
                self.eager.seat(seq, held)
            return held
        if lacking := self.tree.lacking(seq):
            assert load is not None
            self._start(self.tier.load(lacking, load))
        self.tree.seat(seq, held)
        return held

    def _swap_in(self, seq: Sequence, held: Held, transfer: Transfer) -> None:
        """Copy everything back; with `before_step` the places on the host are free at once."""
        host = self.swapped.hosted[seq]
        device = self.device.take_mixed(host.bits)
        held.table.append(device, host.bits)
        if seq.state is State.MOVING_OUT:  # it goes out again at once, and has never left the host
            return
        self._start(CopyJob(transfer, "h2d", device, host.bits, host.offsets))
        if transfer.timing == "before_step":
            self.swapped.came_back(seq)

    def _copy_ahead(self, transfers: Iterable[Transfer]) -> None:
        """Start the copies that no sequence asked for."""
        mirror = self.engine.mirror
        for transfer in transfers:
            if transfer.sequence is not None:
                continue
            if mirror is not None and mirror.transfer is transfer:
                self._start(self.mirrored.write(mirror, transfer, self.device))
            else:
                self._start(self.tier.write(transfer))

    def _start(self, job: CopyJob) -> None:
        self.device.orders.append(job)
        if job.background:
            self.device.flights.append(job)

    def _grow(self, ahead: int) -> None:
        """Members of the decode batch get a block where the step after `ahead` more needs one."""
        batch, size = self.engine.batch, self.engine.block_tokens
        if not batch.growth(ahead + 1) - batch.growth(ahead):
            return
        for seq in batch.members:
            tokens = batch.length(seq) + ahead
            if tokens % size == 1 or size == 1:
                self.device.extend(self.device.held[seq], -(-tokens // size))

    def _free_trimmed(self) -> None:
        for offsets in self.device.trimmed:
            self.device.give_cached(offsets)
        self.device.trimmed.clear()
        if self.eager is not None:
            self.eager.free()


def _by_sequence(plan: Plan | None) -> Transfers:
    """The copies of sequences, each by whose it is and where it goes: the first one to the host,
    which has all of a cache for a plan's further ones, and the last one back.
    """
    copies = () if plan is None else (*plan.before_step, *plan.background)
    found: Transfers = {}
    for transfer in copies:
        seq, direction = transfer.sequence, transfer.direction
        if seq is not None and not (direction == "d2h" and (seq, direction) in found):
            found[seq, direction] = transfer
    return found


def _check_supported(engine: Engine, arena: Arena) -> None:
    if engine.offload is not None:
        raise ConfigError("memory.offload: for superinfer-sim alone; no device copies such blocks")
    if engine.eager is not None and getattr(engine.scheduler, "policy", "") == "priority":
        raise ConfigError(
            "scheduler.policy: expected fcfs with a prefix cache on a device, got priority, which "
            "leaves blocks of a request that it preempts to be found though nothing computed them"
        )
    sizes = arena.size.block_bytes
    wanted = {16: engine.config.block_bytes}
    wanted |= (
        dict(zip((8, 4), engine.config.small_block_bytes, strict=True)) if len(sizes) > 1 else {}
    )
    if wanted != sizes:
        raise ValueError(f"the engine counts blocks of {wanted} bytes, the arena has {sizes}")
