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
next one came, and up to where it is counted. The first three are known at the use."""


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
        self._noted, self._rates = np.zeros((5, 0)), np.zeros((len(edges_s), 0))
        """A column for each stretch, in the order of time."""
        self._new_made_s: list[float] = []
        self._new_weights: list[float] = []
        self._new_groups: list[int] = []
        self._new_rates: list[NDArray[Any]] = []
        """The same of the stretches since the last tick."""
        self._corrects = False
        """True while a factor is not 1."""
        self._used_numbers: list[int] = []
        """Stretches that were used again since the last tick."""
        self._used_after_s: list[float] = []
        """After how many seconds."""
        self._tick_s: float | None = None

    def corrected(self, visits: Sequence[Visit], hazards: NDArray[Any]) -> NDArray[Any]:
        """Hazards of the stretches of some prompts, rows by bins. Each prompt is asked about once,
        in the order of the visits.
        """
        first = len(self._new_groups)
        for visit in visits:
            self._note(visit)
        rates = _rates(hazards)
        self._new_rates.append(rates.T)
        groups = self._new_groups[first:]
        now = visits[-1].now_s
        if self._tick_s is None:
            self._tick_s = visits[0].now_s
        if now >= self._tick_s + TICK_S:
            self._tick(now)
        if not self._corrects:
            return hazards
        found: NDArray[Any] = -np.expm1(-rates * self.factors.take(groups, axis=0))
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _note(self, visit: Visit) -> None:
        """Remember its stretches, and what was waited for them."""
        features, row = visit.features, 0
        for stretch, waited_s in enumerate(visit.waited_s):
            if waited_s is not None:
                self._used_numbers.append(visit.earlier[stretch])
                self._used_after_s.append(waited_s)
            known_or_new = 2 if features[row + IS_NEW] > 0.0 else 0
            self._new_groups.append(known_or_new + (1 if features[row + CONTINUES] > 0.0 else 0))
            self._new_made_s.append(visit.now_s)
            self._new_weights.append(math.sqrt(float(visit.stops[stretch] - visit.starts[stretch])))
            row += len(FEATURES)

    def _tick(self, now: float) -> None:
        """Count the uses that came and the time that was waited since the last tick."""
        noted = np.concatenate([self._noted, self._take_new()], axis=1)
        rates = np.concatenate([self._rates, *self._new_rates], axis=1)
        self._new_rates = []
        before = self._fade(now)
        self._count_uses(noted)
        self._count_waits(noted, rates, before, now)
        gone = int(noted[MADE_S].searchsorted(now - self._ends_s[-1]))
        self._first += gone
        self._noted, self._rates = noted[:, gone:], rates[:, gone:]
        ratio = np.log((self._used + PRIOR_USES) / (self._promised + PRIOR_USES))
        self.factors = np.exp(np.sign(ratio) * np.maximum(np.abs(ratio) - DEADBAND, 0.0))
        self._corrects = bool((self.factors != 1.0).any())

    def _take_new(self) -> NDArray[Any]:
        """Columns of the stretches since the last tick, of which nothing is counted so far."""
        new = np.zeros((5, len(self._new_groups)))
        new[MADE_S], new[WEIGHT], new[GROUP] = self._new_made_s, self._new_weights, self._new_groups
        new[USED_S] = math.inf
        self._new_made_s, self._new_weights, self._new_groups = [], [], []
        return new

    def _fade(self, now: float) -> float:
        """Let the sums fade; returns the time of the tick before."""
        before = self._tick_s
        assert before is not None
        keep = math.exp((before - now) / MEMORY_S)
        self._used, self._promised = keep * self._used, keep * self._promised
        self._tick_s = now
        return before

    def _count_uses(self, noted: NDArray[Any]) -> None:
        """Note them in the columns; of a stretch that was cut the first one counts."""
        if not self._used_numbers:
            return
        numbers, after_s = np.array(self._used_numbers), np.array(self._used_after_s)
        self._used_numbers, self._used_after_s = [], []
        places, first = np.unique(numbers - self._first, return_index=True)
        kept = places >= 0
        places, waited_s = places[kept], after_s[first[kept]]
        unused = noted[USED_S, places] == math.inf
        places, waited_s = places[unused], waited_s[unused]
        noted[USED_S, places] = waited_s
        bins = self._ends_s.searchsorted(waited_s)
        seen, bins = places[bins < len(self._ends_s)], bins[bins < len(self._ends_s)]
        np.add.at(self._used, (noted[GROUP, seen].astype(int), bins), noted[WEIGHT, seen])

    def _count_waits(
        self, noted: NDArray[Any], rates: NDArray[Any], before: float, now: float
    ) -> None:
        """What the rates promised for the time since the tick before."""
        made_s, weights, groups = noted[MADE_S], noted[WEIGHT], noted[GROUP].astype(int)
        since_s, until_s = noted[COVERED_S], np.minimum(now - made_s, noted[USED_S])
        # Columns are in the order of time, so those whom a bin concerns lie side by side.
        firsts = made_s.searchsorted(before - self._ends_s, "right")
        stops = made_s.searchsorted(now - self._starts_s)
        bins = zip(self._starts_s.tolist(), self._ends_s.tolist(), firsts, stops, strict=True)
        for place, (start_s, end_s, first, stop) in enumerate(bins):
            some = slice(first, stop)
            shares = np.minimum(until_s[some], end_s) - np.maximum(since_s[some], start_s)
            promised = np.maximum(shares, 0.0) * weights[some] * rates[place, some]
            sums = np.bincount(groups[some], promised, GROUPS)
            self._promised[:, place] += sums / (end_s - start_s)
        noted[COVERED_S] = until_s


def _rates(hazards: NDArray[Any]) -> NDArray[Any]:
    """Rates that add up, times the lengths of the bins."""
    rates: NDArray[Any] = -np.log1p(-np.minimum(hazards, MOST_HAZARD).astype(np.float64))
    return rates
