"""Rank 0: what it has done, the other ranks do, too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from executor.kv.swap import Mover
from executor.kv.tables import CopyJob, MoveJob, Moves, Order, WaitJob
from executor.models import Model
from executor.ranks.histories import Names
from executor.ranks.orders import Channel, Rows, Ticket
from executor.steps.runner import Batch, Launched, Runner
from superinfer.plan import Transfer


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
