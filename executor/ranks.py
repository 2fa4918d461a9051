"""One model on several devices: rank 0 plans, and tells the others what to carry out.

Every rank has its share of the weights and of each block's KV heads, so blocks have the same
offsets everywhere and one list of orders serves all. Rank 0 alone runs the core. Before it starts
the moves of a plan or a step it sends them over a gloo group; the others carry out the same with
the same code. Sums between ranks come out bit for bit the same on all of them, so each knows the
tokens of a step by itself, and none are sent.

The others heed no signals, which may go to a whole group of processes: they end when rank 0 says so
or is gone.

A copy has landed for the core once it has on rank 0; the others hear of it before anything that
relies on it, and wait for theirs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from executor.device import HOST
from executor.histories import Histories, Names
from executor.kv.swap import Mover
from executor.kv.tables import BlockTable, CopyJob, MoveJob, Moves, Order, WaitJob
from executor.models import Group, Model, require_memory
from executor.models.config import read_config
from executor.steps.inputs import ChunkRows, DecodeRow
from executor.steps.runner import Batch, Launched, Runner
from superinfer.errors import ConfigError, SuperInferError
from superinfer.plan import Transfer

if TYPE_CHECKING:
    from executor.session import ModelOptions, Session
    from superinfer.lab.config import Config

JOIN_S = 30.0
"""How long a rank has to end by itself."""
GRACE_S = 10.0
"""Between the end of a rank's connections and its own."""
NOTICE_S = 1.0
"""The same of rank 0, for who wants to know whether the fault is there."""
MEETING, PATIENCE = timedelta(minutes=5), timedelta(days=30)
"""How long ranks wait for each other at the start, and for orders."""


class Channel:
    """Orders from rank 0 to the others, in order."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._handle = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        """True on rank 0."""
        return self.group.rank == 0

    def send(self, order: Any) -> None:
        """Tell the others."""
        dist.broadcast_object_list([order], src=0, group=self._handle)

    def receive(self) -> Any:
        """What rank 0 says next."""
        box = [None]
        dist.broadcast_object_list(box, src=0, group=self._handle)
        return box[0]

    def least(self, number: int) -> int:
        """The least of the numbers that the ranks have."""
        box = torch.tensor(number)
        dist.all_reduce(box, op=dist.ReduceOp.MIN, group=self._handle)
        return int(box)


# -- what is sent ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the other ranks know of a background transfer."""

    number: int
    timing: str = "background"


@dataclass(slots=True)
class Rows:
    """A batch with its tables as arrays."""

    lengths: list[int]
    tokens: list[int]
    chunks: list[tuple[int, Any, bool]]
    counts: list[int]
    """Blocks of each table, those of decodes first."""
    offsets: np.ndarray[Any, Any]
    bits: np.ndarray[Any, Any]
    sampling: Any
    """With names in place of what penalties count."""
    over: list[int]
    """Names that are heard no more."""

    @classmethod
    def of(cls, batch: Batch, block_tokens: int, names: Names) -> Rows:
        """What the others need of a batch."""
        ends = [row.length for row in batch.decodes]
        ends += [chunk.context + len(chunk.tokens) for chunk in batch.chunks]
        counts = [-(-end // block_tokens) for end in ends]
        tables = [row.table for row in batch.decodes] + [chunk.table for chunk in batch.chunks]
        held = list(zip(tables, counts, strict=True))
        return cls(
            ends[: len(batch.decodes)],
            [row.token for row in batch.decodes],
            [(c.context, np.asarray(c.tokens), c.wants_logits) for c in batch.chunks],
            counts,
            np.concatenate([table.offsets[:count] for table, count in held]),
            np.concatenate([table.bits[:count] for table, count in held]),
            batch.sampling and names.named(batch.sampling),
            names.over(),
        )

    def batch(self, histories: Histories) -> Batch:
        """The batch once more."""
        histories.forget(self.over)
        tables, first = [], 0
        for count in self.counts:
            table = BlockTable(count)
            table.append(self.offsets[first : first + count], 16)
            table.bits[:] = self.bits[first : first + count]
            tables.append(table)
            first += count
        decodes = zip(tables, self.lengths, self.tokens, strict=False)
        chunks = zip(tables[len(self.lengths) :], self.chunks, strict=True)
        return Batch.of(
            [DecodeRow(table, length, token) for table, length, token in decodes],
            [ChunkRows(table, *chunk) for table, chunk in chunks],
            self.sampling and histories.found(self.sampling),
        )


# -- rank 0 ---------------------------------------------------------------------------------------


class LeadingRunner(Runner):
    """A runner whose steps the other ranks run, too."""

    alone = False

    def __init__(self, model: Model, arena: Tensor, channel: Channel) -> None:
        super().__init__(model, arena)
        self.channel = channel
        self._names = Names()

    def launch(self, batch: Batch) -> Launched:
        """Queue a step everywhere."""
        if batch.decodes or batch.chunks:
            rows = Rows.of(batch, self.model.layout.block_tokens, self._names)
            self.channel.send(("step", rows))
        return super().launch(batch)


@dataclass
class LeadingMover:
    """A mover whose orders the other ranks carry out, too."""

    mover: Mover
    channel: Channel
    _tickets: dict[Transfer, Ticket] = field(default_factory=dict)
    _sent: int = 0

    @property
    def busy(self) -> bool:
        """True while a copy may be under way here."""
        return self.mover.busy

    def start(self, moves: Moves) -> None:
        """Start the orders of a plan everywhere."""
        if moves.orders:
            self.channel.send(("moves", [self._shipped(order) for order in moves.orders]))
        self.mover.start(moves)

    def poll(self) -> list[Transfer]:
        """Background copies that are over here; the others wait for theirs."""
        landed = self.mover.poll()
        if landed:
            tickets = [self._tickets.pop(transfer) for transfer in landed]
            self.channel.send(("landed", tickets))
        return landed

    def _shipped(self, order: Order) -> Order:
        """The order with tickets for background copies; steps wait for all others anyway."""
        if isinstance(order, CopyJob):
            if order.transfer is None or not order.background:
                return replace(order, transfer=None)
            ticket: Any = Ticket(self._sent)
            self._sent += 1
            self._tickets[order.transfer] = ticket
            return replace(order, transfer=ticket)
        if isinstance(order, (MoveJob, WaitJob)):
            left: list[Any] = [
                self._tickets[job.transfer] for job in order.after if job.transfer in self._tickets
            ]
            return replace(order, after=left)
        return order


# -- the others -----------------------------------------------------------------------------------


def follow(session: Session, channel: Channel) -> None:
    """Carry out what rank 0 says, until it says that it is over."""
    mover = FollowingMover(session.mover)
    histories = Histories(session.model.vocab, session.model.device)
    while (order := channel.receive()) is not None:
        kind, content = order
        if kind == "step":
            session.runner.launch(content.batch(histories))
        elif kind == "moves":
            mover.start(content)
        else:
            mover.wait_for(content)


class FollowingMover:
    """Gives orders from rank 0 to the mover of another one."""

    def __init__(self, mover: Any) -> None:
        self._mover = mover
        self._copies: dict[Ticket, CopyJob] = {}
        """Background copies that have not landed on rank 0."""
        self._over: set[Ticket] = set()
        """Of them, those that are over here."""

    def start(self, orders: list[Any]) -> None:
        """Start the orders of a plan."""
        for order in orders:
            if isinstance(order, CopyJob) and order.background:
                self._copies[cast(Any, order.transfer)] = order
            elif isinstance(order, (MoveJob, WaitJob)):
                order.after = [self._copies[cast(Any, ticket)] for ticket in order.after]
        self._mover.start(Moves(orders))

    def wait_for(self, tickets: list[Ticket]) -> None:
        """Come back when these copies are over here, too."""
        while not self._over.issuperset(tickets):
            self._over.update(self._mover.poll())
        self._over.difference_update(tickets)
        for ticket in tickets:
            del self._copies[ticket]


def _rank(rank: int, meeting: str, config: Config, options: ModelOptions) -> None:
    """What the process of a rank other than 0 does."""
    from executor.session import open_session

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    threading.Thread(target=_end_with_leader, daemon=True).start()
    try:
        channel = _join(rank, meeting, config)
        follow(open_session(config, options, channel=channel), channel)
    except SuperInferError as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except RuntimeError:  # what torch.distributed raises when somebody is gone
        if not _ended(multiprocessing.parent_process(), NOTICE_S):
            raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end_with_leader() -> None:
    """Wherever this rank is: a step may wait for rank 0 for ever."""
    leader = multiprocessing.parent_process()
    assert leader is not None
    leader.join()
    os._exit(1)


def _join(rank: int, meeting: str, config: Config) -> Channel:
    """Meet the other ranks; each has a GPU of its own."""
    size, backend = config.run.tp, "gloo"
    if config.run.device == HOST:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
    else:
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=meeting, rank=rank, world_size=size, timeout=MEETING
    )
    return Channel(Group(rank, size))


def _require(config: Config, options: ModelOptions) -> None:
    """ConfigError for what no group of ranks can do, before any is started."""
    from executor.session import source_of

    run, shape = config.run, read_config(source_of(config.run.model))[0].shape
    Group(0, run.tp).require(shape)
    if run.device == HOST:  # all ranks share its memory
        weight_bytes = 1 if options.int8 else options.torch_dtype(torch.device(HOST)).itemsize
        require_memory(shape, run.tp, weight_bytes, ranks=run.tp)
    if run.device.startswith("cuda:"):
        raise ConfigError(f"run.device: each of {run.tp} ranks has its own, got {run.device!r}")
    if run.device != HOST and torch.cuda.device_count() < run.tp:
        raise ConfigError(f"run.tp={run.tp}: torch finds {torch.cuda.device_count()} CUDA devices")


@contextmanager
def ranks_of(config: Config, options: ModelOptions) -> Iterator[Channel | None]:
    """The other ranks of a run, started and in the end stopped; None for a run on one device."""
    if config.run.tp == 1:
        yield None
        return
    _require(config, options)
    spawn = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "ranks").as_uri()
        others = [
            spawn.Process(target=_rank, args=(rank, meeting, config, options), daemon=True)
            for rank in range(1, config.run.tp)
        ]
        for process in others:
            process.start()
        try:
            channel = _join(0, meeting, config)
            yield channel
            channel.send(None)
            for process in others:
                process.join(JOIN_S)
        except RuntimeError as error:  # what torch.distributed raises when somebody is gone
            if not any(_ended(process) for process in others):
                raise
            raise SuperInferError("a rank has ended before its time; see above") from error
        finally:
            for process in others:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()


def _ended(process: Any, within_s: float = GRACE_S) -> bool:
    """True if a process is over, or about to be."""
    process.join(within_s)
    return not process.is_alive()
