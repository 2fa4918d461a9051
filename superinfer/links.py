"""When the copies that were decided so far will be through, as far as the cost model can tell."""

from __future__ import annotations

from superinfer.costs.base import CostModel
from superinfer.plan import Direction, Transfer


class Links:
    """What is queued on each direction between device and host: first come, first served, the
    copies that a step waits for before those in the background of the same plan.
    """

    __slots__ = ("_cost", "_free_s", "_under_way")

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._free_s: dict[str, float] = {"h2d": 0.0, "d2h": 0.0}
        self._under_way: dict[str, int] = {"h2d": 0, "d2h": 0}

    def copy_s(self, transfer: Transfer) -> float:
        """Seconds that a copy takes on an idle link."""
        return self._cost.transfer_s(transfer.nbytes, transfer.pieces, transfer.direction)

    def start(self, before_step: list[Transfer], background: list[Transfer], now: float) -> None:
        """A plan with these copies was made."""
        free_s = self._free_s
        for transfer in before_step:
            free_s[transfer.direction] = max(now, free_s[transfer.direction]) + self.copy_s(
                transfer
            )
        for transfer in background:
            free_s[transfer.direction] = max(now, free_s[transfer.direction]) + self.copy_s(
                transfer
            )
            self._under_way[transfer.direction] += 1

    def landed(self, transfer: Transfer, now: float) -> None:
        """A background copy is over; the last one tells when the direction was really free."""
        direction = transfer.direction
        self._under_way[direction] -= 1
        if not self._under_way[direction]:
            self._free_s[direction] = now

    def busy(self, direction: Direction) -> bool:
        """True while a background copy in a direction is under way."""
        return self._under_way[direction] > 0

    def queued_s(self, direction: Direction, now: float) -> float:
        """Seconds until a direction is free."""
        return max(0.0, self._free_s[direction] - now)
