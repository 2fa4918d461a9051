"""Decode attention over unequal contexts, from batches in which some are longer than the others.

Contexts that are not split among thread blocks leave the one with the longest to go on when the
others have ended. By then these have taken longer than a mean context: there are more blocks than
fit the device at once, so they run one after the other. So a batch takes
`slope * (longest - reach * mean)` more than equal contexts of the same mean, never less than they.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from superinfer.costs.profile import Kernel
from superinfer.lab.profiles.fits import Array, Fitted, rounded, thirds

SPLIT_BLOCKS = 0.8 * 2 * 188
"""Sequences x KV heads below which FlashAttention 2 splits the contexts of a decode batch among
thread blocks: 0.8 of twice the multiprocessors (`num_splits_heuristic`); this GPU has 188."""
REACHES = np.arange(1.0, 3.0, 0.02)
"""Mean contexts that a batch is busy with anyway while its longest one is read. Shorter than the
mean none is; with 3 the longest of the skew table would hardly count."""


def skew_kernels(skews: Skews, kv_heads: int) -> dict[str, Fitted]:
    """`attention_uneven`, seconds per token of the longest context, and `attention_busy`, those per
    token of the mean one that go off. Errors are held out, of whole times.
    """
    edge = float(np.ceil(SPLIT_BLOCKS / kv_heads))
    errors = []
    for held in thirds(len(skews.sizes)):
        ours = skews.of(held).read(*skews.of(~held).fit(edge))
        errors.append(np.abs((1.0 + ours) / (1.0 + skews.more[held]) - 1.0))
    known, slopes, reaches = skews.fit(edge)
    found = {}
    for name, values in (("attention_uneven", slopes), ("attention_busy", slopes * reaches)):
        axis, seconds = _with_step(known, values, edge)
        kernel = Kernel({"sequences": tuple(axis.tolist())}, tuple(rounded(seconds)))
        found[name] = Fitted(kernel, np.concatenate(errors), len(skews.sizes))
    return found


class Skews(NamedTuple):
    """Decode batches of unequal contexts, a row of the table each."""

    sizes: Array
    longest: Array
    mean: Array
    equal_s: Array
    """What equal contexts of the same mean take."""
    more: Array
    """What these take more, as a share of that."""

    def of(self, rows: NDArray[np.bool_]) -> Skews:
        """Some of the rows."""
        return Skews(*(column[rows] for column in self))

    def fit(self, edge: float) -> tuple[Array, Array, Array]:
        """Batch sizes, and for each the slope in seconds per token and the reach. Below `edge`
        contexts are split: nothing is added there, as what is measured is scatter.
        """
        known = np.unique(self.sizes)
        by_size = (self.of(self.sizes == size) for size in known)
        found = np.array(
            [_above(each) if each.sizes[0] >= edge else (0.0, 1.0) for each in by_size]
        )
        return known, found[:, 0], found[:, 1]

    def read(self, known: Array, slopes: Array, reaches: Array) -> Array:
        """`more` by a fit."""
        slope, reach = (np.interp(self.sizes, known, values) for values in (slopes, reaches))
        return np.asarray(slope * self.above(reach) / self.equal_s)

    def above(self, reach: float | Array) -> Array:
        """Tokens of the longest context beyond so many mean ones."""
        return np.clip(self.longest - reach * self.mean, 0.0, None)


def _above(batch: Skews) -> tuple[float, float]:
    """The slope and the reach that miss `more` of one batch size by the least squares; where any
    reach does as well it is 1.
    """
    better = 1e-9 * float(batch.more @ batch.more)
    best_miss, best = np.inf, (0.0, 1.0)
    for reach in REACHES:
        per_slope = batch.above(float(reach)) / batch.equal_s
        squares = float(per_slope @ per_slope)
        slope = max(0.0, float(per_slope @ batch.more) / squares) if squares else 0.0
        miss = float(np.sum((slope * per_slope - batch.more) ** 2))
        if miss < best_miss - better:
            best_miss, best = miss, (slope, float(reach))
    return best


def _with_step(axis: Array, values: Array, edge: float) -> tuple[Array, Array]:
    """A table in which the value of the first point past an edge begins at the edge."""
    after = int(np.searchsorted(axis, edge))
    if not 0 < after < len(axis) or axis[after] == edge:
        return axis, values
    before = [edge - 1.0] if axis[after - 1] < edge - 1.0 else []
    levels = [values[after - 1]] * len(before) + [values[after]]
    return np.insert(axis, after, [*before, edge]), np.insert(values, after, levels)
