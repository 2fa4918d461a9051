"""Confidence intervals for a mean of few values, and for statistics of neighbours that depend.

All draws come from a seeded generator: equal input gives equal intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from superinfer.records.run import Floats, Ints

LEVEL = 0.95
RESAMPLES = 1000
FEW = 20
"""With fewer values than this the t interval is used instead of the bootstrap."""
FEWEST_BLOCKS = 10
"""Fewer blocks than this say nothing honest about how a statistic varies."""
_BLOCK_STRETCH = 2.0
_SEED = 20_260_101

Statistic = Callable[[Ints], float]
"""A statistic of the sample in which row i occurs `counts[i]` times; NaN where it has none."""


@dataclass(slots=True, frozen=True)
class Interval:
    """Bounds that contain the true value in `level` of all studies like this one."""

    low: float
    high: float
    method: str
    """`paired t`, `bootstrap` or `block bootstrap`."""
    size: int
    """Values that it rests on: seeds, or whole blocks of requests."""
    level: float = LEVEL

    @property
    def contains_zero(self) -> bool:
        """Whether no difference at all is among the plausible ones."""
        return self.low <= 0 <= self.high


def mean_interval(values: Floats) -> Interval | None:
    """Interval for the mean of independent `values`, such as differences paired by seed.

    Below `FEW` values it is Student's: `mean +- t(n - 1) * s / sqrt(n)`. The usual percentile
    bootstrap is too narrow there, by the factor `sqrt((n - 1) / n)` and for want of the t quantile
    (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American Statistician
    69:371): at n = 5 its 95 % hold the mean of normal values in about 83 %, Student's in 95 %.
    From `FEW` on it is Hesterberg's expanded percentile interval, which corrects both and follows
    skewed values: at n = 20 it holds the mean of normal values in 94.5 %, that of differences of
    lognormal ones (sigma 1) in 93 % (4,000 trials). None for fewer than two values or values that
    are not finite.
    """
    n = values.size
    if n < 2 or not np.isfinite(values).all():
        return None
    if n < FEW:
        half = t_quantile(0.5 + LEVEL / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
        mean = float(np.mean(values))
        return Interval(mean - half, mean + half, "paired t", n)
    random = np.random.RandomState(_SEED)
    means = values[random.randint(0, n, size=(RESAMPLES, n))].mean(axis=1)
    low, high = _expanded(means, n)
    return Interval(low, high, "bootstrap", n)


def block_interval(statistic: Statistic, series: list[Floats]) -> Interval | None:
    """Interval for a statistic of requests in order of arrival, whose neighbours depend.

    A moving-block bootstrap (Kuensch 1989, "The Jackknife and the Bootstrap for General Stationary
    Observations", Annals of Statistics 17:1217): samples are put together from blocks of `l`
    successive rows. `series` are per-row values that the statistic averages; `l` is twice the
    longest `block_length` of them, since blocks of the length that is best for the variance give
    intervals that hold too little. The percentiles are expanded for n / l blocks, as
    in `mean_interval`. The bounds are centred on the statistic of the sample itself: rows
    near the ends are in fewer blocks.

    On AR(1) series of 2,000 rows 95 % intervals for the mean hold it in 94.5, 93.5, 93.7 and
    90.5 % at correlations of 0, 0.5, 0.9 and 0.98 between neighbours (600 series each). Nothing
    that the run as a whole could have done otherwise is in it, such as other arrivals: that takes
    seeds.
    None with fewer than `FEWEST_BLOCKS` blocks, or where the statistic is undefined.
    """
    rows = series[0].size
    length = min(rows, math.ceil(_BLOCK_STRETCH * max(map(block_length, series))))
    if rows < FEWEST_BLOCKS * length or not rows:
        return None
    point = statistic(np.ones(rows, np.int64))
    random = np.random.RandomState(_SEED)
    found = np.array([statistic(_block_counts(random, rows, length)) for _ in range(RESAMPLES)])
    if not (math.isfinite(point) and np.isfinite(found).all()):
        return None
    low, high = _expanded(found, rows // length)
    shift = point - float(np.mean(found))
    return Interval(low + shift, high + shift, "block bootstrap", rows // length)


def block_length(values: Floats) -> float:
    """Block length that estimates the variance of the mean of dependent `values` best, >= 1.

    The rule of Politis and White (2004, Econometric Reviews 23:53) for overlapping blocks of fixed
    length, as corrected by Patton, Politis and White (2009, Econometric Reviews 28:372):
    `(2 G^2 / D)^(1/3) n^(1/3)` with `G = sum w(k) |k| R(k)`, `D = 4/3 (sum w(k) R(k))^2`, R the
    autocovariance and w the flat-top window up to twice the lag from which on correlations are
    negligible; at most `min(3 sqrt(n), n / 3)`.
    """
    n = values.size
    if n < 8:
        return 1.0
    covariance = _autocovariance(values)
    if not covariance[0] > 0:
        return 1.0
    lags = np.arange(min(2 * _last_lag(covariance, n), covariance.size - 1) + 1)
    window = np.clip(2 * (1 - lags / lags[-1]), 0, 1)
    weighted = window * covariance[lags] * np.where(lags > 0, 2, 1)
    spread = 4 / 3 * float(weighted.sum()) ** 2
    if spread == 0:
        return 1.0
    best: float = np.cbrt(2 * float((lags * weighted).sum()) ** 2 / spread * n)
    return max(1.0, min(float(best), math.ceil(min(3 * math.sqrt(n), n / 3))))


@lru_cache(maxsize=1024)
def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution; `probability` in (0, 1), whole degrees of freedom."""
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while _t_cdf(high, freedom) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


# -- inside ---------------------------------------------------------------------------------------


def _t_cdf(t: float, freedom: int) -> float:
    """Abramowitz and Stegun (1964), 26.7.3 and 26.7.4: finite sums for whole degrees of freedom."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(2 + freedom % 2, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    inside = 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
    return (1 + inside) / 2


def _expanded(found: Floats, n: int) -> tuple[float, float]:
    """Percentiles that make up for `n` being small: at Phi(-sqrt(n / (n - 1)) * t(n - 1))."""
    wide = math.sqrt(n / (n - 1)) * t_quantile(0.5 + LEVEL / 2, n - 1)
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _block_counts(random: np.random.RandomState, rows: int, length: int) -> Ints:
    """How often each row occurs in a sample of whole blocks, of `rows` rows or just above."""
    starts = random.randint(0, rows - length + 1, size=-(-rows // length))
    edges = np.bincount(starts, minlength=rows + 1)
    edges -= np.bincount(starts + length, minlength=rows + 1)
    counts: Ints = np.cumsum(edges[:-1])
    return counts


def _autocovariance(values: Floats) -> Floats:
    """Autocovariance up to the last lag of interest, through the Fourier transform."""
    n = values.size
    most = min(n - 1, math.ceil(math.sqrt(n)) + _run(n))
    spectrum = np.fft.rfft(values - values.mean(), 2 * n)
    covariance: Floats = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n)[: most + 1] / n
    if covariance[0] <= 1e-12 * float(np.mean(np.square(values))):
        covariance[0] = 0.0  # what rounding left of a constant
    return covariance


def _last_lag(covariance: Floats, n: int) -> int:
    """The lag after which `_run` correlations in a row are no larger than chance allows."""
    bound = 2 * math.sqrt(math.log10(n) / n)
    small = np.abs(covariance[1:] / covariance[0]) < bound
    for lag in range(small.size - _run(n) + 1):
        if small[lag : lag + _run(n)].all():
            return max(1, lag)
    return int(np.flatnonzero(~small)[-1]) + 1


def _run(n: int) -> int:
    return max(5, math.ceil(math.sqrt(math.log10(n))))
