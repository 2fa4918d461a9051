"""The other ranks: they carry out what rank 0 says."""

from __future__ import annotations

from typing import Any, cast

from executor.kv.tables import CopyJob, MoveJob, Moves, WaitJob
from executor.ranks.histories import Histories
from executor.ranks.orders import Channel, Ticket
from executor.steps.runner import Runner


def follow(runner: Runner, mover: Any, channel: Channel) -> None:
    """Carry out what rank 0 says, until it says that it is over."""
    following = FollowingMover(mover)
    histories = Histories(runner.model.vocab, runner.model.device)
    while (order := channel.receive()) is not None:
        kind, content = order
        if kind == "step":
            runner.launch(content.batch(histories))
        elif kind == "moves":
            following.start(content)
        else:
            following.wait_for(content)


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
