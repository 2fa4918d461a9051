"""What a cached block is worth: hits to expect for each second that it keeps its place.

With P(k) the probability that a block is used before the end of bin k, and E(k) the seconds that it
stands there until then or until it is used, the value is the highest P(k) / E(k): the index of
J. C. Gittins, "Bandit processes and dynamic allocation indices", J. Royal Statistical Society B 41
(1979), which orders items that compete for places when the next use of each is uncertain. Hit
density (N. Beckmann, H. Chen, A. Cidon, "LHD", NSDI '18) is the same with one end for all items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def values(hazards: NDArray[Any], edges_s: list[float]) -> Values:
    """The value at the beginning of each bin, rows by bins; past the last bin it is 0."""
    bounds = np.concatenate([[0.0], edges_s])
    widths = np.diff(bounds)
    survival = np.cumprod(1.0 - hazards.astype(np.float64), axis=1)
    before = np.concatenate([np.ones((len(hazards), 1)), survival[:, :-1]], axis=1)
    # A block that is used within a bin has waited half of it, one that is not, all of it.
    waited = np.cumsum((before + survival) / 2 * widths, axis=1)
    used = before[:, :, None] - survival[:, None, :]
    # From the beginning of one bin (first) to the end of another (second); an end comes later.
    spent = waited[:, None, :] - (waited - (before + survival) / 2 * widths)[:, :, None]
    ratio = used / np.maximum(spent, 1e-30)
    best: Values = np.where(np.tri(len(widths), dtype=bool).T, ratio, 0.0).max(axis=2)
    return best
