"""Copies on the link between device and host: each direction does one after the other.

Where copies both ways at once are slower (`CostModel.duplex_slows`), a copy goes at the slower rate
for as long as the other direction copies too. So a later copy the other way delays those under way:
what is known of them is known until the next copies are added. Otherwise a copy's end is known when
it is added, and never changes.
"""

from __future__ import annotations

from math import inf
from typing import Final, final

from superinfer.costs.base import CostModel
from superinfer.plan import Direction, Plan, Transfer

MOST_LOST: Final = 1.0 - 1e-9
"""Share of its speed that company takes of a copy at most: every copy ends."""
OTHER: Final[dict[str, Direction]] = {"h2d": "d2h", "d2h": "h2d"}


@final
class Copy:
    """One copy on a direction of the link; all times in seconds of the run."""

    __slots__ = ("alone_s", "earliest_s", "end_s", "lost", "over", "start_s")

    def __init__(self, earliest_s: float, alone_s: float, lost: float) -> None:
        self.earliest_s = earliest_s
        self.alone_s = alone_s
        """How long it takes with the link to itself."""
        self.lost = lost
        """Share of its speed that company takes."""
        self.start_s = earliest_s
        self.end_s = earliest_s + alone_s
        self.over = False
        """True once it is told to be over: its times stay as they are."""


@final
class CopyQueues:
    """Copies of one run on both directions, and when each of them ends by the cost model.

    `book` for each plan, or `begin` and then `add`; `end_s` of a copy holds until the next `add`.
    """

    __slots__ = ("_copies", "_cost", "_free_s", "_slows", "_stale")

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._slows = cost.duplex_slows
        self._stale = False
        self._free_s: dict[str, float] = {"h2d": 0.0, "d2h": 0.0}
        self._copies: dict[str, list[Copy]] = {"h2d": [], "d2h": []}
        """Those that may overlap with one to come; only where that makes a difference."""

    def book(self, plan: Plan, now: float, ready_s: float) -> tuple[float, list[Copy]]:
        """Start a plan's copies: when its batch can start, `ready_s` or later, and those in the
        background, in order.

        Those that the batch waits for come before the others, and behind what was booked earlier.
        """
        if not (plan.before_step or plan.background):
            return ready_s, []
        self.begin(plan.now, now)
        awaited: list[Copy] = []
        for transfer in plan.before_step:
            copy = self.add(transfer, plan.now if plan.full_duplex else ready_s)
            awaited.append(copy)
            if not plan.full_duplex:
                ready_s = max(ready_s, self.end_s(copy))
        background = [self.add(transfer, now) for transfer in plan.background]
        for copy in awaited:
            ready_s = max(ready_s, self.end_s(copy))
        return ready_s, background

    def begin(self, earliest_s: float, now: float) -> None:
        """Copies are added next that start at `earliest_s` or later. What is over by `now` is."""
        if not self._slows:
            return
        self._refresh()
        horizon_s = earliest_s
        for copies in self._copies.values():
            for copy in copies:
                copy.over = copy.over or copy.end_s <= now
                if not copy.over and copy.start_s < horizon_s:
                    horizon_s = copy.start_s
        for direction, copies in self._copies.items():
            kept = [copy for copy in copies if copy.end_s > horizon_s]
            if kept:  # it may have waited for one that is gone
                kept[0].earliest_s = kept[0].start_s
            self._copies[direction] = kept

    def add(self, transfer: Transfer, earliest_s: float) -> Copy:
        """Put a copy at the end of its direction's queue; it starts at `earliest_s` or later."""
        direction = transfer.direction
        alone_s = self._cost.transfer_s(transfer.nbytes, transfer.pieces, direction)
        copy = Copy(earliest_s, alone_s, 0.0)
        free_s = self._free_s[direction]
        if self._slows:
            slow_s = self._cost.transfer_s(transfer.nbytes, transfer.pieces, direction, True)
            copy.lost = min(MOST_LOST, 1.0 - alone_s / slow_s) if slow_s > alone_s else 0.0
            self._copies[direction].append(copy)
            self._stale = True
        if free_s > earliest_s:
            copy.start_s = free_s
        copy.end_s = copy.start_s + alone_s
        self._free_s[direction] = copy.end_s
        return copy

    def end_s(self, copy: Copy) -> float:
        """When a copy ends, by what is known now."""
        self._refresh()
        return copy.end_s

    def free_s(self, direction: Direction) -> float:
        """When a direction is through with all its copies."""
        self._refresh()
        return self._free_s[direction]

    def clear(self, direction: Direction, now: float) -> None:
        """A direction turned out to be free now."""
        self._refresh()
        self._free_s[direction] = now
        for copy in self._copies[direction]:
            if not copy.over:
                copy.over = True
                copy.start_s = min(copy.start_s, now)
                copy.end_s = now
                self._stale = True

    # -- inside ---------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Walk along both queues at once and find out how long each copy has company."""
        if not self._stale:
            return
        self._stale = False
        ins, outs = _Walk(self._copies["h2d"]), _Walk(self._copies["d2h"])
        while ins.copy is not None and outs.copy is not None:
            first, second = ins.copy, outs.copy
            together_s = max(first.start_s, second.start_s)
            if first.end_s <= together_s:
                ins.step()
            elif second.end_s <= together_s:
                outs.step()
            else:
                first_end_s = _end_with_company(first, together_s)
                second_end_s = _end_with_company(second, together_s)
                if first_end_s <= second_end_s:
                    _pass(first, second, together_s, first_end_s)
                    ins.step()
                else:
                    _pass(second, first, together_s, second_end_s)
                    outs.step()
        for direction, walk in (("h2d", ins), ("d2h", outs)):
            while walk.copy is not None:
                walk.step()
            if walk.last_s > -inf:
                self._free_s[direction] = walk.last_s


@final
class _Walk:
    """A place in a direction's queue; the copy there has the times that it has alone."""

    __slots__ = ("_copies", "_place", "copy", "last_s")

    def __init__(self, copies: list[Copy]) -> None:
        self._copies = copies
        self._place = -1
        self.copy: Copy | None = None
        self.last_s = -inf
        """When the copy before ended."""
        self.step()

    def step(self) -> None:
        """Go on to the next copy; this one's end is known."""
        if self.copy is not None:
            self.last_s = self.copy.end_s
        self._place += 1
        if self._place == len(self._copies):
            self.copy = None
            return
        self.copy = copy = self._copies[self._place]
        if not copy.over:
            copy.start_s = max(copy.earliest_s, self.last_s)
            copy.end_s = copy.start_s + copy.alone_s


def _end_with_company(copy: Copy, since_s: float) -> float:
    """When a copy would end that has company from `since_s` on."""
    if copy.over:
        return copy.end_s
    return copy.end_s + (copy.end_s - since_s) * copy.lost / (1.0 - copy.lost)


def _pass(first: Copy, second: Copy, since_s: float, until_s: float) -> None:
    """Two copies went side by side until the first of them ended."""
    first.end_s = until_s
    if not second.over:
        second.end_s += (until_s - since_s) * second.lost


class Links:
    """What is queued on each direction, as far as the cost model can tell: first come, first
    served, the copies that a step waits for before those in the background of the same plan.
    """

    __slots__ = ("_cost", "_queues", "_under_way")

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._queues = CopyQueues(cost)
        self._under_way: dict[str, int] = {"h2d": 0, "d2h": 0}

    def copy_s(self, transfer: Transfer, company: bool = False) -> float:
        """Seconds that a copy takes on an idle link, or with `company` the other way."""
        return self._cost.transfer_s(transfer.nbytes, transfer.pieces, transfer.direction, company)

    def start(self, before_step: list[Transfer], background: list[Transfer], now: float) -> None:
        """A plan with these copies was made."""
        queues = self._queues
        queues.begin(now, now)
        for transfer in before_step:
            queues.add(transfer, now)
        for transfer in background:
            queues.add(transfer, now)
            self._under_way[transfer.direction] += 1

    def landed(self, transfer: Transfer, now: float) -> None:
        """A background copy is over; the last one tells when the direction was really free."""
        direction = transfer.direction
        self._under_way[direction] -= 1
        if not self._under_way[direction]:
            self._queues.clear(direction, now)

    def busy(self, direction: Direction) -> bool:
        """True while a background copy in a direction is under way."""
        return self._under_way[direction] > 0

    def queued_s(self, direction: Direction, now: float) -> float:
        """Seconds until a direction is free."""
        return max(0.0, self._queues.free_s(direction) - now)
