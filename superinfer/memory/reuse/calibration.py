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

from superinfer.memory.reuse.features import FEATURES, Visit

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
MADE_S, WEIGHT, GROUP, USED_S, COVERED_S = range(5)
"""Of a stretch at its use: when that was, how much it counts, and as what; then by age when the
next one came, and up to where it is counted."""
NOTED: Final = 3
"""The first columns are known at the use."""


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
        """In the order of time."""
        self._new: list[float] = []
        """What is noted of the stretches since the last tick, one after the other."""
        self._new_hazards: list[NDArray[Any]] = []
        self._corrects = False
        """True while a factor is not 1."""
        self._uses: list[tuple[int, float]] = []
        """Numbers of stretches that were used again, and after how many seconds."""
        self._tick_s: float | None = None

    def corrected(self, visits: Sequence[Visit], hazards: NDArray[Any]) -> NDArray[Any]:
        """Hazards of the stretches of some prompts, rows by bins. Each prompt is asked about once,
        in the order of the visits.
        """
        first = len(self._new)
        self._note(visits)
        self._new_hazards.append(hazards)
        now = visits[-1].now_s
        groups = self._new[first + GROUP :: NOTED]
        if self._tick_s is None:
            self._tick_s = visits[0].now_s
        if now >= self._tick_s + TICK_S:
            self._tick(now)
        if not self._corrects:
            return hazards
        found: NDArray[Any] = -np.expm1(-_rates(hazards) * self.factors[list(map(int, groups))])
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _note(self, visits: Sequence[Visit]) -> None:
        """Remember the stretches, and what was waited for them."""
        noted = self._new
        for visit in visits:
            for number, waited_s in zip(visit.earlier, visit.waited_s, strict=True):
                if waited_s is not None:
                    self._uses.append((number, waited_s))
            features, row, now = visit.features, 0, visit.now_s
            for start, stop in zip(visit.starts, visit.stops, strict=True):
                group = 2.0 * (features[row + IS_NEW] > 0.0) + (features[row + CONTINUES] > 0.0)
                noted += (now, math.sqrt(stop - start), group)
                row += len(FEATURES)

    def _tick(self, now: float) -> None:
        """Count the uses that came and the time that was waited since the last tick."""
        new = np.array(self._new).reshape(-1, NOTED)
        later = np.tile([math.inf, 0.0], (len(new), 1))
        rows = np.concatenate([self._rows, np.concatenate([new, later], axis=1)])
        rates = np.concatenate([self._rates, _rates(np.concatenate(self._new_hazards))])
        self._new, self._new_hazards = [], []
        before = self._fade(now)
        self._count_uses(rows)
        self._count_waits(rows, rates, before, now)
        gone = int(rows[:, MADE_S].searchsorted(now - self._ends_s[-1]))
        self._first += gone
        self._rows, self._rates = rows[gone:], rates[gone:]
        ratio = np.log((self._used + PRIOR_USES) / (self._promised + PRIOR_USES))
        self.factors = np.exp(np.sign(ratio) * np.maximum(np.abs(ratio) - DEADBAND, 0.0))
        self._corrects = bool((self.factors != 1.0).any())

    def _fade(self, now: float) -> float:
        """Let the sums fade; returns the time of the tick before."""
        before = self._tick_s
        assert before is not None
        keep = math.exp((before - now) / MEMORY_S)
        self._used, self._promised = keep * self._used, keep * self._promised
        self._tick_s = now
        return before

    def _count_uses(self, rows: NDArray[Any]) -> None:
        """Note them in the rows; a stretch that was cut has several, of which the first counts."""
        if not self._uses:
            return
        uses = np.array(self._uses)
        self._uses = []
        places, first = np.unique(uses[:, 0].astype(int) - self._first, return_index=True)
        kept = places >= 0
        places, waited_s = places[kept], uses[first[kept], 1]
        unused = rows[places, USED_S] == math.inf
        places, waited_s = places[unused], waited_s[unused]
        rows[places, USED_S] = waited_s
        bins = self._ends_s.searchsorted(waited_s)
        seen, bins = places[bins < len(self._ends_s)], bins[bins < len(self._ends_s)]
        np.add.at(self._used, (rows[seen, GROUP].astype(int), bins), rows[seen, WEIGHT])

    def _count_waits(
        self, rows: NDArray[Any], rates: NDArray[Any], before: float, now: float
    ) -> None:
        """What the rates promised for the time since the tick before."""
        made_s, weights = rows[:, MADE_S], rows[:, WEIGHT]
        groups = rows[:, GROUP].astype(int)
        since_s, until_s = rows[:, COVERED_S], np.minimum(now - made_s, rows[:, USED_S])
        # Rows are in the order of time, so those whom a bin concerns lie side by side.
        firsts = made_s.searchsorted(before - self._ends_s, "right")
        stops = made_s.searchsorted(now - self._starts_s)
        bins = zip(self._starts_s.tolist(), self._ends_s.tolist(), firsts, stops, strict=True)
        for place, (start_s, end_s, first, stop) in enumerate(bins):
            some = slice(first, stop)
            shares = np.minimum(until_s[some], end_s) - np.maximum(since_s[some], start_s)
            promised = np.maximum(shares, 0.0) * weights[some] * rates[some, place]
            sums = np.bincount(groups[some], promised, GROUPS)
            self._promised[:, place] += sums / (end_s - start_s)
        rows[:, COVERED_S] = until_s


def _rates(hazards: NDArray[Any]) -> NDArray[Any]:
    """Rates that add up, times the lengths of the bins."""
    rates: NDArray[Any] = -np.log1p(-np.minimum(hazards, MOST_HAZARD).astype(np.float64))
    return rates
