"""The largest load, or the fewest machines, that keep a promise like `slo_attainment >= 0.95`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.config import Config
from superinfer.lab.numbers import mean_number
from superinfer.lab.studies.differences import check_metrics
from superinfer.lab.studies.study import Study, run_study
from superinfer.settings import shown_value

MOST_EXPANSIONS = 10
_BEYOND = (2, 4)
"""How many tolerances above the first load that fails the search looks once more."""


@dataclass(slots=True, frozen=True)
class Probe:
    """One load that was tried, what the metric was there, and whether that is good enough."""

    load: float
    value: float
    kept: bool


@dataclass(slots=True, frozen=True)
class LoadSearch:
    """The answer of `largest_load`, and everything that it rests on."""

    load: float | None
    """The largest load found that keeps the promise; None when no load tried does."""
    bracketed: bool
    """Whether a load within the tolerance above `load` was seen to fail."""
    probes: tuple[Probe, ...]
    """In the order in which they were tried."""

    @property
    def kept_above(self) -> tuple[float, ...]:
        """Loads that keep the promise although a smaller one fails: the metric is not monotone."""
        failing = min((probe.load for probe in self.probes if not probe.kept), default=math.inf)
        return tuple(sorted(p.load for p in self.probes if p.kept and p.load > failing))

    def __str__(self) -> str:
        tried = [probe.load for probe in self.probes]
        if self.load is None:
            return f"no load keeps it: it fails down to {min(tried):.6g}, the smallest tried"
        if not self.bracketed:
            return f"at least {self.load:.6g}: it holds up to there, the largest load tried"
        above = ", ".join(f"{load:.6g}" for load in self.kept_above)
        return f"{self.load:.6g}" + (f" (not monotone: it holds again at {above})" if above else "")


def largest_load(
    run_at: Callable[[float], float],
    threshold: float,
    low: float,
    high: float,
    tolerance: float = 0.01,
    *,
    at_most: bool = False,
    log: Callable[[Probe], None] = lambda _: None,
) -> LoadSearch:
    """Bisect for the largest load at which `run_at(load) >= threshold` (`at_most`: `<=`).

    The search ends when the load that holds and the one that fails are within `tolerance`,
    relative. Where [low, high] holds no such pair, the bound in the way is halved or doubled up to
    ten times; if there is still none, the result says so. A value that is NaN fails. With a noisy
    metric the answer is the largest load tried below every one that failed; two loads a little
    higher are tried at the end, and `kept_above` names what held nevertheless. Every probe goes to
    `log`. The same function gives the same probes in the same order. Raises
    ConfigError for a threshold that is NaN, and unless 0 < low < high and 0 < tolerance.
    """
    threshold = _number(threshold, "expected a number as threshold")
    if math.isnan(threshold):
        raise ConfigError("expected a number as threshold, got nan")
    if not (0 < low < high < math.inf and 0 < tolerance < math.inf):
        raise ConfigError(f"expected 0 < low < high and a tolerance > 0, got {low}, {high}")
    search = _Search(run_at, threshold, at_most, log)
    bounds = _bracket(search, low, high)
    if bounds is None:
        kept = [probe.load for probe in search.probes.values() if probe.kept]
        return LoadSearch(max(kept, default=None), False, tuple(search.probes.values()))
    good, bad = bounds
    while bad - good > tolerance * good:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if search.keeps(middle) else (good, middle)
    for steps in _BEYOND:
        search.keeps(bad * (1 + steps * tolerance))
    return LoadSearch(good, True, tuple(search.probes.values()))


class Fewest:
    """Bisects for the smallest whole number, from 1 to `most`, at which a promise is kept.

        while (count := search.wanted) is not None:
            search.tell(kept(count))

    From `first` on it doubles until the promise holds, then halves what is between: `found` and the
    number below it were both tried. A promise that is kept, broken and kept again as the number
    grows has no single answer; the one found is the beginning of such a stretch.
    """

    def __init__(self, most: int, first: int = 1) -> None:
        if not 1 <= first <= most:
            raise ConfigError(f"expected 1 <= first <= most, got {first} and {most}")
        self.most = most
        self.wanted: int | None = first
        """What is to be tried next; None when the search is over."""
        self.found: int | None = None
        """The smallest number known to keep the promise; None while none is."""
        self._failed = 0

    def tell(self, kept: bool) -> None:
        """Whether the promise was kept at `wanted`."""
        assert self.wanted is not None
        if kept:
            self.found = self.wanted
        else:
            self._failed = self.wanted
        self.wanted = self._next()

    def _next(self) -> int | None:
        if self.found is None:
            return min(2 * self._failed, self.most) if self._failed < self.most else None
        return (self._failed + self.found) // 2 if self.found - self._failed > 1 else None


def mean_at(
    study: Study,
    metric: str,
    vary: Callable[[Config, float], Config] | None = None,
) -> Callable[[float], float]:
    """`run_at` for `largest_load`: the mean of a summary's number over the seeds of a study.

    `study` has one arm; `vary` puts the load into its configuration (by default as
    `run.rate_scale`). Results are stored by the study, so a search that was stopped goes on from
    there. NaN where a run's number is null; SuperInferError when a run fails, and ConfigError for a
    metric that runs do not have.
    """
    if len(study.arms) != 1:
        raise ConfigError(f"expected a study of one arm, got {', '.join(study.arms) or 'none'}")
    ((name, config),) = study.arms.items()
    change = vary or (lambda config, scale: config.with_run(rate_scale=scale))

    def run_at(load: float) -> float:
        result = run_study(replace(study, arms={name: change(config, load)}))
        if result.failures:
            raise SuperInferError(f"load {load:.6g}: {result.failures[0]}")
        runs = result.runs(name)
        check_metrics({name: runs}, [metric])
        value = mean_number([run.summary for run in runs], metric)
        return math.nan if value is None else value

    return run_at


# -- inside ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Search:
    run_at: Callable[[float], float]
    threshold: float
    at_most: bool
    log: Callable[[Probe], None]
    probes: dict[float, Probe] = field(default_factory=dict)

    def keeps(self, load: float) -> bool:
        """Whether the promise holds at a load, which is tried once at most."""
        if load not in self.probes:
            value = _number(self.run_at(load), f"run_at: expected a number at load {load:.6g}")
            kept = value <= self.threshold if self.at_most else value >= self.threshold
            self.probes[load] = Probe(load, value, kept)
            self.log(self.probes[load])
        return self.probes[load].kept


def _number(value: object, expected: str) -> float:
    """A number of any kind, which may be NaN; ConfigError for anything else."""
    try:
        if not isinstance(value, str):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{expected}, got {shown_value(value)}")


def _bracket(search: _Search, low: float, high: float) -> tuple[float, float] | None:
    """A load that holds and a larger one that fails, or None."""
    if not search.keeps(low):
        for _ in range(MOST_EXPANSIONS):
            low, high = low / 2, low
            if search.keeps(low):
                return low, high
        return None
    for _ in range(MOST_EXPANSIONS + 1):
        if not search.keeps(high):
            return low, high
        low, high = high, 2 * high
    return None
