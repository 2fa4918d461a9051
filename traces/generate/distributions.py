"""Distributions of lengths (tokens), times (s) and counts, by the key `family` of their table."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from traces.generate.table import Amount, Positive, Table, Weight

Random = np.random.RandomState
"""The old generator on purpose: numpy promises that its streams never change."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Z_99 = 2.3263478740408408
"""The 0.99 quantile of the standard normal distribution."""


class Family(Table, frozen=True, kw_only=True, tag_field="family"):
    """What all families share: draws are cut to [`min`, `max`], rounded, and multiplied."""

    min: Amount | None = None
    max: Amount | None = None
    times: Positive = 1.0
    """Every draw is multiplied by it, e.g. by the tokens of a frame."""

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"max: expected a number >= min {self.min:g}, got {self.max:g}")

    def sample(self, random: Random, size: int) -> Floats:
        """`size` draws before they are cut."""
        raise NotImplementedError

    def sample_whole(self, random: Random, size: int) -> Floats:
        """`size` draws of whole numbers before they are cut."""
        return np.rint(self.sample(random, size))


class Fixed(Family, frozen=True, kw_only=True, tag="fixed"):
    """Always the same."""

    value: Amount

    def sample(self, random: Random, size: int) -> Floats:
        """Nothing is drawn."""
        return np.full(size, float(self.value))


class Uniform(Family, frozen=True, kw_only=True, tag="uniform"):
    """Every number from `min` to `max`, both included."""

    def __post_init__(self) -> None:
        for name in ("min", "max"):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: expected a number >= 0, got nothing")
        super().__post_init__()

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends."""
        assert self.min is not None and self.max is not None
        return self.min, self.max

    def sample(self, random: Random, size: int) -> Floats:
        """Continuous draws."""
        return random.uniform(*self.bounds, size)

    def sample_whole(self, random: Random, size: int) -> Floats:
        """Draws of whole numbers, each as likely as the next."""
        low, high = whole_bounds(self)
        return random.randint(low, high + 1, size).astype(np.float64)


class Lognormal(Family, frozen=True, kw_only=True, tag="lognormal"):
    """Given by two of mean, sigma (of the logarithm), median and 99th percentile.

    With m and s of the logarithm: mean = exp(m + s^2 / 2), p50 = exp(m), p99 = exp(m + Z_99 s).
    They are those of the draws before these are cut.
    """

    mean: Positive | None = None
    sigma: Annotated[float, Meta(ge=0, le=10)] | None = None
    p50: Positive | None = None
    p99: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("mean", "sigma", "p50", "p99")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 2:
            got = ", ".join(given) or "none"
            raise ValueError(f"expected exactly two of {', '.join(names)}, got {got}")
        self.parameters()  # for its complaints

    def parameters(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm."""
        sigma = self._sigma() if self.sigma is None else self.sigma
        if self.p50 is not None:
            return math.log(self.p50), sigma
        if self.p99 is not None:
            return math.log(self.p99) - Z_99 * sigma, sigma
        assert self.mean is not None
        return math.log(self.mean) - sigma**2 / 2, sigma

    def _sigma(self) -> float:
        if self.p99 is None:
            assert self.mean is not None and self.p50 is not None
            if self.mean < self.p50:
                raise ValueError(f"mean: expected a number >= p50, got {self.mean:g}")
            return math.sqrt(2 * math.log(self.mean / self.p50))
        if self.p50 is not None:
            if self.p99 < self.p50:
                raise ValueError(f"p99: expected a number >= p50, got {self.p99:g}")
            return math.log(self.p99 / self.p50) / Z_99
        assert self.mean is not None
        most = math.exp(Z_99**2 / 2)
        if not 1 <= self.p99 / self.mean <= most:
            raise ValueError(f"p99: expected 1 to {most:.1f} times the mean, got {self.p99:g}")
        return Z_99 - math.sqrt(max(0.0, Z_99**2 - 2 * math.log(self.p99 / self.mean)))

    def sample(self, random: Random, size: int) -> Floats:
        """Draws from exp(m + s z)."""
        return random.lognormal(*self.parameters(), size)


class Gamma(Family, frozen=True, kw_only=True, tag="gamma"):
    """Given by its mean and coefficient of variation; 1 is the exponential distribution."""

    mean: Positive
    cv: Annotated[float, Meta(gt=0, le=100)] = 1.0

    def sample(self, random: Random, size: int) -> Floats:
        """Draws with shape 1 / cv^2."""
        return random.gamma(1 / self.cv**2, self.cv**2 * self.mean, size)


class Geometric(Family, frozen=True, kw_only=True, tag="geometric"):
    """Whole numbers from 1; after each one the next follows with probability 1 - 1 / mean."""

    mean: Annotated[float, Meta(ge=1, le=1e9)]

    def sample(self, random: Random, size: int) -> Floats:
        """Draws of whole numbers."""
        return random.geometric(1 / self.mean, size).astype(np.float64)


class Values(Family, frozen=True, kw_only=True, tag="values"):
    """One of the values listed, with weights or all alike."""

    values: Annotated[tuple[Amount, ...], Meta(min_length=1)]
    weights: tuple[Weight, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weights(self.weights, len(self.values))

    def probabilities(self) -> Floats:
        """Of each value."""
        return probabilities(self.weights or [1.0] * len(self.values))

    def sample(self, random: Random, size: int) -> Floats:
        """Draws from the list."""
        return np.array(self.values, float)[choose(random, self.probabilities(), size)]


class Histogram(Family, frozen=True, kw_only=True, tag="histogram"):
    """Bins between neighbours of `edges`, with a weight each; uniform inside a bin."""

    edges: Annotated[tuple[Amount, ...], Meta(min_length=2)]
    weights: tuple[Annotated[float, Meta(ge=0, le=1e12)], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(b <= a for a, b in pairwise(self.edges)):
            raise ValueError("edges: expected increasing numbers")
        _check_weights(self.weights, len(self.edges) - 1)
        if not sum(self.weights):
            raise ValueError("weights: expected one above 0, got none")

    def sample(self, random: Random, size: int) -> Floats:
        """Draws that lie at or above the lower edge of a bin, and below its upper one."""
        edges = np.array(self.edges, float)
        bins = choose(random, probabilities(self.weights), size)
        return edges[bins] + random.random_sample(size) * np.diff(edges)[bins]

    def sample_whole(self, random: Random, size: int) -> Floats:
        """Draws of whole numbers: the upper edge of a bin belongs to the next one."""
        return np.floor(self.sample(random, size))


Distribution = Amount | Fixed | Uniform | Lognormal | Gamma | Geometric | Values | Histogram
"""A number stands for itself."""
Count = Annotated[int, Meta(ge=1, le=10**6)] | Fixed | Uniform | Geometric | Values
"""The families whose mean is known exactly even where they are cut and rounded."""


def draw(given: Distribution, random: Random, size: int) -> Floats:
    """`size` numbers >= 0."""
    family = as_family(given)
    return _cut(family, family.sample(random, size)) * family.times


def draw_whole(given: Distribution, random: Random, size: int, least: int = 1) -> Ints:
    """`size` whole numbers, none below `least`."""
    family = as_family(given)
    drawn = _cut(family, family.sample_whole(random, size)) * family.times
    return np.asarray(np.maximum(np.rint(drawn), least), dtype=np.int64)


def mean_count(given: Count) -> float:
    """The exact mean of `draw_whole(given)`."""
    family = as_family(given)
    if isinstance(family, Geometric) and family.times == 1:
        return _mean_geometric(family)
    if isinstance(family, Uniform):
        low, high = whole_bounds(family)
        return _mean(family, np.arange(low, high + 1, dtype=np.float64))
    if isinstance(family, Values):
        return _mean(
            family, np.array([round(v) for v in family.values], float), family.probabilities()
        )
    if isinstance(family, Fixed):
        return _mean(family, np.array([float(round(family.value))]))
    raise ValueError("times: expected 1 for a geometric count")


def whole_bounds(family: Uniform) -> tuple[int, int]:
    """The whole numbers of a uniform distribution; `ValueError` if there is none."""
    low, high = math.ceil(family.bounds[0]), math.floor(family.bounds[1])
    if low > high:
        raise ValueError("max: expected a whole number from min to max, got none")
    return low, high


def as_family(given: Any) -> Family:
    """The distribution, with a bare number taken as a fixed value."""
    return given if isinstance(given, Family) else Fixed(value=given)


def probabilities(weights: Any) -> Floats:
    """Weights divided by their sum."""
    array = np.array(weights, dtype=float)
    return np.asarray(array / array.sum())


def choose(random: Random, chances: Floats, size: int) -> Ints:
    """`size` positions, drawn with the given probabilities."""
    bounds = np.cumsum(chances)
    found = np.searchsorted(bounds / bounds[-1], random.random_sample(size), side="right")
    return found.astype(np.int64)


def _cut(family: Family, drawn: Floats) -> Floats:
    if family.min is None and family.max is None:
        return drawn
    return np.clip(drawn, family.min, family.max)


def _mean(family: Family, values: Floats, chances: Floats | None = None) -> float:
    whole = np.maximum(np.rint(_cut(family, values) * family.times), 1)
    return float(np.average(whole, weights=chances))


def _mean_geometric(family: Geometric) -> float:
    """E[clamp(N, a, b)] = a + sum over k from a to b - 1 of P(N > k), and P(N > k) = q^k."""
    low = max(1.0, float(np.rint(family.min or 1)))
    q = 1 - 1 / family.mean
    beyond = 0.0 if family.max is None else q ** max(low, float(np.rint(family.max)))
    return float(low + (q**low - beyond) * family.mean)


def _check_weights(weights: Any, count: int) -> None:
    if weights is not None and len(weights) != count:
        raise ValueError(f"weights: expected {count} numbers, got {len(weights)}")
