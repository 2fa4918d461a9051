"""What a cached block is worth: hits to expect for each second that it keeps its place.

With P(k) the probability that a block is used before the end of bin k, and E(k) the seconds that it
stands there until then or until it is used, the value is the highest P(k) / E(k): the index of
J. C. Gittins, "Bandit processes and dynamic allocation indices", J. Royal Statistical Society B 41
(1979), which orders items that compete for places when the next use of each is uncertain. Hit
density (N. Beckmann, H. Chen, A. Cidon, "LHD", NSDI '18) is the same with one end for all items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Valuation:
    """The values that belong to hazards, for bins of age that end at `edges_s`."""

    def __init__(self, edges_s: Sequence[float]) -> None:
        self._halves = np.diff(np.array([0.0, *edges_s]))[:, None] / 2
        self._starts, self._ends = np.triu_indices(len(edges_s))
        """The bins at whose beginning and end a wait may begin and end: all ends of one beginning
        lie side by side."""
        self._firsts = np.flatnonzero(self._starts == self._ends)
        """Where those of each beginning start."""

    def values(self, hazards: NDArray[Any]) -> Values:
        """The value at the beginning of each bin, rows by bins; past the last bin it is 0."""
        # Bins by rows, here, for what is done to a bin is then done to all rows at once.
        reached = np.empty((len(self._halves) + 1, len(hazards)))
        reached[0] = 1.0
        np.multiply.accumulate(1.0 - hazards.T, axis=0, out=reached[1:])
        before, survival = reached[:-1], reached[1:]
        # A block that is used within a bin has waited half of it, one that is not, all of it.
        waits = (before + survival) * self._halves
        waited = np.add.accumulate(waits, axis=0)
        used = before.take(self._starts, axis=0) - survival.take(self._ends, axis=0)
        spent = waited.take(self._ends, axis=0) - (waited - waits).take(self._starts, axis=0)
        spent += 1e-30
        used /= spent
        best: Values = np.maximum.reduceat(used, self._firsts, axis=0).T
        return best


def survival(hazards: NDArray[Any]) -> NDArray[Any]:
    """The probability of no use up to the end of each bin, rows by bins."""
    found: NDArray[Any] = np.multiply.accumulate(1.0 - hazards, axis=1)
    return found


def used_within(unused: list[float], edges_s: list[float], age_s: float, life_s: float) -> float:
    """Probability of a use before `age_s + life_s` when there was none before `age_s`.

    `unused` is the probability of no use up to each edge, which falls in straight lines in between
    and not at all past the last one.
    """
    now = _at(unused, edges_s, age_s)
    return 1.0 - _at(unused, edges_s, age_s + life_s) / now if now > 0.0 else 0.0


def _at(unused: list[float], edges_s: list[float], age_s: float) -> float:
    before, start_s = 1.0, 0.0
    for edge, end_s in enumerate(edges_s):
        after = unused[edge]
        if age_s < end_s:
            return before + (after - before) * (age_s - start_s) / (end_s - start_s)
        before, start_s = after, end_s
    return before
