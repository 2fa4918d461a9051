"""When things start: a renewal process, warped in time by a rate that changes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from traces.generate.distributions import Floats, Random
from traces.generate.table import Amount, Positive, Seconds, Table

_BURN_IN_GAPS = 100
"""After so many gaps (times cv^2) a renewal process has forgotten its first event."""
_BISECTIONS = 80
_CV = Annotated[float, Meta(gt=0, le=20)]


class Gaps(Table, frozen=True, kw_only=True, tag_field="family"):
    """The family of the gaps between arrivals, relative to the local mean gap."""

    def sample(self, random: Random, size: int) -> Floats:
        """`size` gaps with mean 1."""
        raise NotImplementedError

    @property
    def variation(self) -> float:
        """Their coefficient of variation."""
        raise NotImplementedError


class PoissonGaps(Gaps, frozen=True, kw_only=True, tag="poisson"):
    """Exponential gaps."""

    def sample(self, random: Random, size: int) -> Floats:
        """Standard exponential draws."""
        return random.standard_exponential(size)

    @property
    def variation(self) -> float:
        """Always 1."""
        return 1.0


class GammaGaps(Gaps, frozen=True, kw_only=True, tag="gamma"):
    """Gamma gaps with the given coefficient of variation."""

    cv: _CV

    def sample(self, random: Random, size: int) -> Floats:
        """Draws with shape 1 / cv^2."""
        return random.gamma(1 / self.cv**2, self.cv**2, size)

    @property
    def variation(self) -> float:
        """As given."""
        return self.cv


class WeibullGaps(Gaps, frozen=True, kw_only=True, tag="weibull"):
    """Weibull gaps with the given coefficient of variation."""

    cv: Annotated[float, Meta(ge=0.05, le=20)]

    def sample(self, random: Random, size: int) -> Floats:
        """Draws divided by their mean, Gamma(1 + 1 / shape)."""
        shape = weibull_shape(self.cv)
        return random.weibull(shape, size) / math.gamma(1 + 1 / shape)

    @property
    def variation(self) -> float:
        """As given."""
        return self.cv


class EvenGaps(Gaps, frozen=True, kw_only=True, tag="even"):
    """Equal gaps; the first arrival comes at a random moment of the first one."""

    def sample(self, random: Random, size: int) -> Floats:
        """All 1, but for the first."""
        gaps = np.ones(size)
        gaps[:1] = random.random_sample(1)
        return gaps

    @property
    def variation(self) -> float:
        """Always 0."""
        return 0.0


AnyGaps = PoissonGaps | GammaGaps | WeibullGaps | EvenGaps


def weibull_shape(cv: float) -> float:
    """The shape k with cv^2 + 1 = Gamma(1 + 2/k) / Gamma(1 + 1/k)^2, which falls in k."""
    low, high = 0.05, 50.0
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        spread = math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle)
        low, high = (middle, high) if spread > math.log1p(cv**2) else (low, middle)
    return low


class Curve(Table, frozen=True, kw_only=True, tag_field="shape"):
    """A multiplier of the rate over time (s from the start of the trace)."""

    def cumulative(self, times_s: Floats) -> Floats:
        """The integral of the multiplier from 0 to each time, s."""
        raise NotImplementedError


class Sine(Curve, frozen=True, kw_only=True, tag="sine"):
    """1 + amplitude x cos(2 pi (t - peak) / period)."""

    period_s: Positive
    amplitude: Annotated[float, Meta(ge=0, le=1)]
    peak_s: Amount = 0.0

    def cumulative(self, times_s: Floats) -> Floats:
        """In closed form."""
        turn = 2 * np.pi / self.period_s
        swing = np.sin(turn * (times_s - self.peak_s)) + np.sin(turn * self.peak_s)
        return np.asarray(times_s + self.amplitude / turn * swing)


class Linear(Curve, frozen=True, kw_only=True, tag="linear"):
    """Straight lines between points (s, multiplier); level outside, or repeated."""

    points: Annotated[tuple[tuple[Seconds, Amount], ...], Meta(min_length=1)]
    period_s: Positive | None = None
    """Repeat after so long; absent: the first and last multiplier hold before and after."""

    def __post_init__(self) -> None:
        times_s = [point[0] for point in self.points]
        if any(b <= a for a, b in pairwise(times_s)):
            raise ValueError("points: expected increasing times")
        if self.period_s is not None and times_s[-1] >= self.period_s:
            raise ValueError(f"points: expected times below period_s {self.period_s:g}")
        if not any(point[1] for point in self.points):
            raise ValueError("points: expected a multiplier above 0, got none")

    def cumulative(self, times_s: Floats) -> Floats:
        """Trapezoids."""
        knots_s, levels = np.array(self.points, float).T
        if self.period_s is None:
            return _trapezoids(knots_s, levels, times_s) - _trapezoids(knots_s, levels, _ZERO)
        period_s = self.period_s
        knots_s = np.concatenate([knots_s[-1:] - period_s, knots_s, knots_s[:1] + period_s])
        levels = np.concatenate([levels[-1:], levels, levels[:1]])
        rounds, rest_s = np.divmod(times_s, period_s)
        start, end, now = (
            _trapezoids(knots_s, levels, at) for at in (_ZERO, _ZERO + period_s, rest_s)
        )
        return rounds * (end - start) + now - start


_ZERO = np.zeros(1)


def _trapezoids(knots_s: Floats, levels: Floats, times_s: Floats) -> Floats:
    """The integral from the first knot, with the multiplier level outside the knots."""
    areas = np.diff(knots_s) * (levels[1:] + levels[:-1]) / 2
    before = np.concatenate([[0.0], np.cumsum(areas)])
    inside_s = np.clip(times_s, knots_s[0], knots_s[-1])
    piece = np.clip(np.searchsorted(knots_s, inside_s, side="right") - 1, 0, len(knots_s) - 1)
    level = np.interp(inside_s, knots_s, levels)
    inside = before[piece] + (inside_s - knots_s[piece]) * (levels[piece] + level) / 2
    return inside + (times_s - inside_s) * level


AnyCurve = Sine | Linear


class Bursts(Table, frozen=True, kw_only=True):
    """Random phases: all arrivals come in the on phases, at a rate that keeps the mean.

    Both kinds of phase last an exponential time with the given mean.
    """

    on_s: Positive
    off_s: Positive

    def phases(self, random: Random, from_s: float, until_s: float) -> tuple[Floats, Floats]:
        """Where phases begin (s), and the multiplier in each."""
        on = random.random_sample() < self.on_s / (self.on_s + self.off_s)
        means_s = (self.on_s, self.off_s) if on else (self.off_s, self.on_s)
        pairs = math.ceil((until_s - from_s) / (self.on_s + self.off_s)) + 1
        lengths_s = np.zeros(0)
        while lengths_s.sum() <= until_s - from_s:
            drawn_s = random.standard_exponential((pairs, 2)) * means_s
            lengths_s = np.concatenate([lengths_s, drawn_s.ravel()])
        begins_s = from_s + np.concatenate([[0.0], np.cumsum(lengths_s)[:-1]])
        level = (self.on_s + self.off_s) / self.on_s
        levels = np.where(np.arange(len(begins_s)) % 2 == (0 if on else 1), level, 0.0)
        return begins_s, levels


class Clock:
    """Operational time of a client: the number of arrivals that are expected until a time."""

    def __init__(self, rate_per_s: float, curve: Curve | None, phases: Any = None) -> None:
        self._rate_per_s = rate_per_s
        self._curve = curve
        self._phases = phases
        if phases is not None:
            begins_s, levels = phases
            marks = self._smooth(begins_s)
            self._before = np.concatenate([[0.0], np.cumsum(np.diff(marks) * levels[:-1])])
            self._marks = marks

    def at(self, times_s: Floats) -> Floats:
        """Expected arrivals until each time."""
        smooth = self._smooth(times_s)
        if self._phases is None:
            return smooth
        begins_s, levels = self._phases
        phase = np.maximum(np.searchsorted(begins_s, times_s, side="right") - 1, 0)
        return np.asarray(self._before[phase] + (smooth - self._marks[phase]) * levels[phase])

    def when(self, expected: Floats, from_s: float, until_s: float) -> Floats:
        """The times in [from_s, until_s] at which `at` reaches each number, by bisection."""
        if self._curve is None and self._phases is None:
            return expected / self._rate_per_s
        low, high = np.full_like(expected, from_s), np.full_like(expected, until_s)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            reached = self.at(middle) >= expected
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        return high

    def _smooth(self, times_s: Floats) -> Floats:
        """Without the phases."""
        warped_s = times_s if self._curve is None else self._curve.cumulative(times_s)
        return self._rate_per_s * warped_s


def start_times(gaps: Gaps, clock: Clock, random: Random, from_s: float, until_s: float) -> Floats:
    """Starts in [from_s, until_s), s, in order: a renewal process in equilibrium.

    It runs in operational time, in which its rate is 1, and is then warped: between two starts the
    expected number of arrivals has the gaps' distribution, however the rate changes meanwhile.
    """
    first, last = clock.at(np.array([from_s, until_s]))
    burn_in = _BURN_IN_GAPS * max(1.0, gaps.variation**2)
    events = np.zeros(0)
    while not len(events) or events[-1] < last:
        left = last - (events[-1] if len(events) else first - burn_in)
        size = int(left + 4 * max(1.0, gaps.variation) * math.sqrt(left + 1)) + 16
        begin = events[-1] if len(events) else first - burn_in
        events = np.concatenate([events, begin + np.cumsum(gaps.sample(random, size))])
    events = events[(events >= first) & (events < last)]
    return clock.when(events, from_s, until_s)
