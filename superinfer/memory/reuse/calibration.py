"""Hazards set right by what becomes of the prompts at hand: a model may meet traffic that it was
not trained on, where prompts come back ten times as soon or as seldom.

For each group of stretches and each bin of age there are two sums: of uses that came, and of those
that the rates (hazards that add up) promised for the time that was waited. Their ratio is the
likeliest factor on rates that are constant within bins. Uses are noted when they come and waits
while they last, so stretches that nobody uses again count at once, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from superinfer.memory.reuse.history import FEATURES, Visit

GROUPS: Final = 4
"""New stretches or known ones, of prompts that begin a session or go on with one."""
PRIOR_USES: Final = 20.0
"""So many uses were promised and came before the first one; stretches count by the root of their
blocks, as in training."""
MEMORY_S: Final = 600.0
"""What is so old weighs 1 / e."""
DEADBAND: Final = math.log(2.0)
"""Factors up to two are left to the model, which knows more than the groups do; of larger ones
what is beyond is made good."""
TICK_S: Final = 20.0
"""The sums are brought up to date so often."""
MOST_HAZARD: Final = 0.999
IS_NEW: Final = FEATURES.index("is_new")
CONTINUES: Final = FEATURES.index("continues")
MADE_S, USED_S, COVERED_S, WEIGHT, GROUP = range(5)
"""Of a stretch at its use: when that was, and by age when the next one came and up to where it is
counted; then how much it counts, and as what."""
Row = tuple[float, float, float, float, float]


class Calibration:
    """Factors on the rates of a model, by group and bin."""

    def __init__(self, edges_s: Sequence[float]) -> None:
        self._ends_s = np.array(edges_s)
        self._starts_s = np.array([0.0, *edges_s[:-1]])
        shape = (GROUPS, len(edges_s))
        self._used, self._promised = np.zeros(shape), np.zeros(shape)
        self.factors = np.ones(shape)
        self._first = 0
        """The number of the oldest stretch that still counts; the others follow."""
        self._rows, self._rates = np.zeros((0, 5)), np.zeros((0, len(edges_s)))
        self._new: list[Row] = []
        self._new_rates: list[NDArray[Any]] = []
        self._uses: list[tuple[int, float]] = []
        """Numbers of stretches that were used again, and after how many seconds."""
        self._tick_s: float | None = None

    def corrected(self, visits: Sequence[Visit], hazards: NDArray[Any]) -> NDArray[Any]:
        """Hazards of the stretches of some prompts, rows by bins. Each prompt is asked about once,
        in the order of the visits.
        """
        groups = self._note(visits)
        rates = -np.log1p(-np.minimum(hazards, MOST_HAZARD).astype(np.float64))
        self._new_rates.append(rates)
        now = visits[-1].now_s
        if self._tick_s is None:
            self._tick_s = now
        elif now >= self._tick_s + TICK_S:
            self._tick(now)
        found: NDArray[Any] = -np.expm1(-rates * self.factors[groups])
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _note(self, visits: Sequence[Visit]) -> list[int]:
        """Remember the stretches and what was waited for them; returns their groups."""
        groups: list[int] = []
        for visit in visits:
            for number, waited_s in zip(visit.earlier, visit.waited_s, strict=True):
                if waited_s is not None:
                    self._uses.append((number, waited_s))
            features = visit.features
            for stretch, (start, stop) in enumerate(zip(visit.starts, visit.stops, strict=True)):
                row = stretch * len(FEATURES)
                group = 2 * (features[row + IS_NEW] > 0.0) + (features[row + CONTINUES] > 0.0)
                groups.append(group)
                self._new.append((visit.now_s, math.inf, 0.0, math.sqrt(stop - start), group))
        return groups

    def _tick(self, now: float) -> None:
        """Count the uses that came and the time that was waited since the last tick."""
        rows = np.concatenate([self._rows, np.array(self._new)])
        rates = np.concatenate([self._rates, *self._new_rates])
        self._new, self._new_rates = [], []
        self._fade(now)
        self._count_uses(rows)
        last_s = np.minimum(now - rows[:, MADE_S], rows[:, USED_S])
        self._count_waits(rows, rates, last_s)
        rows[:, COVERED_S] = last_s
        gone = int(np.searchsorted(rows[:, MADE_S], now - self._ends_s[-1]))
        self._first += gone
        self._rows, self._rates = rows[gone:], rates[gone:]
        ratio = np.log((self._used + PRIOR_USES) / (self._promised + PRIOR_USES))
        self.factors = np.exp(np.sign(ratio) * np.maximum(np.abs(ratio) - DEADBAND, 0.0))

    def _fade(self, now: float) -> None:
        assert self._tick_s is not None
        keep = math.exp((self._tick_s - now) / MEMORY_S)
        self._used, self._promised = keep * self._used, keep * self._promised
        self._tick_s = now

    def _count_uses(self, rows: NDArray[Any]) -> None:
        """Note them in the rows; a stretch that was cut has several, of which the first counts."""
        ends_s = self._ends_s
        for number, waited_s in self._uses:
            place = number - self._first
            if place < 0 or rows[place, USED_S] < math.inf:
                continue
            rows[place, USED_S] = waited_s
            bin_of_use = int(ends_s.searchsorted(waited_s))
            if bin_of_use < len(ends_s):
                self._used[int(rows[place, GROUP]), bin_of_use] += rows[place, WEIGHT]
        self._uses = []

    def _count_waits(self, rows: NDArray[Any], rates: NDArray[Any], last_s: NDArray[Any]) -> None:
        """What the rates promised for the time since each was counted up to."""
        open_ = np.nonzero(last_s > rows[:, COVERED_S])[0]
        if not len(open_):
            return
        some, until_s = rows[open_], last_s[open_, None]
        begin_s = np.maximum(some[:, COVERED_S, None], self._starts_s)
        shares = np.maximum(np.minimum(until_s, self._ends_s) - begin_s, 0.0)
        shares /= self._ends_s - self._starts_s
        promised = shares * rates[open_] * some[:, WEIGHT, None]
        groups = some[:, GROUP].astype(int)
        for group in range(GROUPS):
            self._promised[group] += promised[groups == group].sum(axis=0)
