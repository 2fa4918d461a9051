"""How much memory the running requests are expected to take yet: the ratio and the reserve."""

from __future__ import annotations

import heapq

from superinfer.errors import ConfigError
from superinfer.heaps import FEWEST, sweep
from superinfer.schedulers.sglang.rules import DECAY_STEPS, Rules
from superinfer.sequence import Sequence


class NewTokenRatio:
    """Share of their remaining limit that running requests are expected to use.

    It falls with every decode step, so it is kept as a line from the latest event on. Source:
    `Scheduler.__init__` and `update_running_batch` (`managers/scheduler.py` at v0.4.6; at v0.3.2
    `managers/tp_worker.py`, where the first value does not depend on the conservativeness).
    """

    __slots__ = ("_decay", "_first", "_floor", "_from", "_steps")

    def __init__(self, rules: Rules, conservativeness: float) -> None:
        if not conservativeness >= 0:
            raise ConfigError(
                f"scheduler.schedule_conservativeness: expected at least 0, got {conservativeness}"
            )
        if rules.floor_ratio is None:
            self._first = min(rules.init_ratio * conservativeness, 1.0)
            self._floor = self._first * rules.floor_factor
        else:
            self._first = rules.init_ratio
            self._floor = min(rules.floor_ratio * conservativeness, 1.0)
        fall = self._first - self._floor
        self._decay = fall / DECAY_STEPS if rules.decay is None else rules.decay
        self._from, self._steps = self._first, 0

    def at(self, steps: int) -> float:
        """The ratio once so many decode steps have been planned."""
        return max(self._from - (steps - self._steps) * self._decay, self._floor)

    def set(self, ratio: float, steps: int) -> None:
        """A retraction gives a new estimate."""
        self._from, self._steps = ratio, steps

    def reset(self, steps: int) -> None:
        """Nothing runs any more."""
        self.set(self._first, steps)


class Reserve:
    """Sum over the running requests of `min(limit - emitted, clip)`, by the step of the batch.

    Every member emits a token per step, so the sum is a line in the step as long as nobody crosses
    the clip; those above it wait in a heap for the step at which they cross.
    """

    __slots__ = ("_above", "_clip", "_crossing", "_ends", "_most", "_sum")

    def __init__(self, clip_tokens: int) -> None:
        self._clip = clip_tokens
        self._ends: dict[Sequence, int] = {}
        """Step at which each member reaches its limit."""
        self._above: set[Sequence] = set()
        """Members with more left than the clip."""
        self._crossing: list[tuple[int, int, Sequence]] = []
        self._most = FEWEST
        """With more entries that are to cross than this, those of who left are looked for."""
        self._sum = 0
        """Sum of the ends of the other members."""

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._ends

    def add(self, seq: Sequence, left_tokens: int, step: int) -> None:
        """A request with `left_tokens` to go joins the running ones."""
        end = self._ends[seq] = step + left_tokens
        if left_tokens > self._clip:
            self._above.add(seq)
            if len(self._crossing) > self._most:
                self._most = sweep(self._crossing, self._holds)
            heapq.heappush(self._crossing, (end, seq.request.index, seq))
        else:
            self._sum += end

    def discard(self, seq: Sequence) -> None:
        """A request leaves."""
        end = self._ends.pop(seq)
        if seq in self._above:
            self._above.remove(seq)
        else:
            self._sum -= end

    def _holds(self, entry: tuple[int, int, Sequence]) -> bool:
        """False for who left: with a long limit the step of the entry comes late."""
        return self._ends.get(entry[2]) == entry[0]

    def tokens(self, step: int) -> int:
        """The sum before step `step`, which never falls."""
        crossing, above = self._crossing, self._above
        while crossing and crossing[0][0] - step <= self._clip:
            end, _, seq = heapq.heappop(crossing)
            if seq in above and self._ends[seq] == end:
                above.remove(seq)
                self._sum += end
        members = len(self._ends) - len(above)
        return self._sum - members * step + len(above) * self._clip
