"""Targets that classes of requests can be promised: what a run gave, a margin, readable numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from superinfer.lab.notices.overload import left_over_s
from superinfer.metrics import RunMetrics
from superinfer.metrics.columns import RequestView, Targets
from superinfer.metrics.tokens import Bools
from superinfer.records.run import Floats, Ints
from superinfer.request import Request

KINDS = ("ttft_ms", "tpot_ms", "e2el_ms", "min_tokens_per_s")
"""Keys of a `[classes.<name>]` table that are targets."""
USUAL = ("ttft_ms", "tpot_ms")
"""What is proposed for a class that states nothing."""
LEVELS = (0.5, 0.95, 0.99)
"""Quantiles of the floors."""

_RATE = "min_tokens_per_s"
_TIE = 1e-6
"""Of a ms or of a token/s: rounding decides nothing."""

Proposal = Mapping[str, float]
"""Target by kind."""


@dataclass(slots=True, frozen=True)
class Miss:
    """A target that some requests of a class cannot meet."""

    kind: str
    share: float
    """Of the requests that have it."""
    worst: Request
    target: float
    value: float
    """What the worst of them got."""
    output_tokens: int


class ClassOutcome:
    """What the requests of one class got in a run."""

    def __init__(self, view: RequestView, rows: Ints) -> None:
        self._view = view
        self.rows = rows
        self.requests = int(rows.size)

    @property
    def unfinished_share(self) -> float:
        """Share of requests that were turned away, failed or were cut off."""
        return 1.0 - float(np.mean(self._view.finished[self.rows]))

    def values(self, kind: str) -> Floats:
        """What each request got, in the unit of the kind.

        NaN where it is not judged (the pace of an answer of one token), and the worst possible
        value where the request did not finish.
        """
        view, rows = self._view, self.rows
        got = _measured(view, kind)[rows]
        worst = 0.0 if kind == _RATE else math.inf
        values: Floats = np.where(view.finished[rows], got, worst)
        return values

    def reached(self, kind: str, share: float) -> float | None:
        """The best value that this share of the requests got; None if nobody is judged."""
        return best_for(self.values(kind), kind, share)

    def targets(self, kind: str) -> Floats:
        """The target of each request in the unit of the kind; NaN where it has none."""
        return _stated(self._view.targets, kind)[self.rows]

    def stated(self) -> dict[str, float | None]:
        """Targets of the class by kind: None where its requests differ; kinds that nobody has are
        left out.
        """
        found: dict[str, float | None] = {}
        for kind in KINDS:
            targets = self.targets(kind)
            if not np.isnan(targets).all():
                same = bool((targets == targets[0]).all())
                found[kind] = round(float(targets[0]), 6) if same else None
        return found

    def attainment(self) -> float | None:
        """Share that met all of its targets, of the requests that have one."""
        asked = self.rows[self._view.targets.any[self.rows]]
        return float(np.mean(self._view.met["slo"][asked])) if asked.size else None

    def kept_share(self, kind: str) -> float | None:
        """Share that met its target of a kind, of the requests that have one."""
        asked = ~np.isnan(self.targets(kind))
        return 1.0 - float(np.mean(self._missed(kind)[asked])) if asked.any() else None

    def miss(self, kind: str) -> Miss | None:
        """Who finished and missed its target of a kind; None if nobody did."""
        view = self._view
        missed = self._missed(kind) & view.finished[self.rows]
        if not missed.any():
            return None
        values, targets = self.values(kind), self.targets(kind)
        ratio = np.where(missed, values / targets, np.nan)
        at = int(np.nanargmin(ratio) if kind == _RATE else np.nanargmax(ratio))
        row = int(self.rows[at])
        return Miss(
            kind,
            float(np.count_nonzero(missed) / np.count_nonzero(~np.isnan(targets))),
            view.record.table.requests[row],
            float(targets[at]),
            float(values[at]),
            int(view.record.table.output_tokens[row]),
        )

    def grows(self) -> bool:
        """True if the waits for a first token grow through the run, as under too high a load: the
        medians of thirds of the arrivals rise, to the double and more, or a queue was left over,
        of which a scheduler may have served the latest first.
        """
        view, rows = self._view, self.rows
        if left_over_s(view.arrival_s[rows], view.ttft_s[rows]):
            return True
        waits = self.values("ttft_ms")
        if waits.size < 3 * _FEWEST_TO_COMPARE:
            return False
        first, second, third = (float(np.median(part)) for part in np.array_split(waits, 3))
        return first < second < third and third >= 2 * first

    def _missed(self, kind: str) -> Bools:
        values, targets = self.values(kind), self.targets(kind)
        return values < targets - _TIE if kind == _RATE else values > targets + _TIE


_FEWEST_TO_COMPARE = 20
"""Requests in a third."""


def outcomes(metrics: RunMetrics) -> dict[str, ClassOutcome]:
    """The classes of a run; with a measured window, the requests that arrived inside it."""
    names = np.array([request.slo_class.name for request in metrics.record.table.requests], object)
    inside = metrics.measured_rows()
    found = {name: inside[names[inside] == name] for name in sorted(set(names))}
    return {name: ClassOutcome(metrics.view, rows) for name, rows in found.items() if rows.size}


def best_for(values: Floats, kind: str, share: float) -> float | None:
    """The best of `values` that at least this share of them reaches (nearest rank, no mean of
    neighbours: a target between two requests would be missed by one of them).
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    sign = -1.0 if kind == _RATE else 1.0
    ascending = np.sort(sign * known)
    return sign * float(ascending[max(0, math.ceil(share * known.size - _TIE) - 1)])


def with_margin(value: float, kind: str, margin: float) -> float:
    """A target that leaves so much room to `value`, in two digits."""
    if kind == _RATE:
        return rounded(value / (1 + margin), up=False)
    return rounded(value * (1 + margin))


def slacker(kind: str, first: float, *others: float) -> float:
    """The target among some that asks for least."""
    return min(first, *others) if kind == _RATE else max(first, *others)


def tighter(kind: str, first: float, *others: float) -> float:
    """The target among some that asks for most."""
    return max(first, *others) if kind == _RATE else min(first, *others)


def rounded(value: float, up: bool = True) -> float:
    """The next number of two digits above `value` (or below it); 0 and infinity stay."""
    if value == 0 or math.isinf(value):
        return value
    exponent = math.floor(math.log10(value)) - 1
    scaled = value / 10.0**exponent
    whole = math.ceil(scaled - _TIE) if up else math.floor(scaled + _TIE)
    return round(whole * 10.0**exponent, max(0, -exponent))


def propose(
    reached: ClassOutcome, alone: ClassOutcome, kinds: Iterable[str], share: float, margin: float
) -> dict[str, float]:
    """Targets with room to what was reached, and to what a request gets that is alone.

    A kind for which nobody is judged, or for which too few finish, has none.
    """
    found: dict[str, float] = {}
    for kind in kinds:
        values = [outcome.reached(kind, share) for outcome in (reached, alone)]
        known = [with_margin(value, kind, margin) for value in values if value is not None]
        if known and possible(target := slacker(kind, known[0], *known[1:])):
            found[kind] = target
    return found


def relax(
    proposal: Proposal,
    outcome: ClassOutcome,
    wanted: float,
    share: float,
    margin: float,
    most: float,
) -> dict[str, float]:
    """The proposal with more room where too few met it: as much as this run asks for, a tenth at
    least and `most` at most (1: to the double, infinity: no limit). If each target alone was met
    often enough, all of them give way.

    A limit is needed because a scheduler that minds deadlines may put those off who have missed
    theirs: how late these are says nothing of the target that they could have met.
    """
    missed = {kind for kind in proposal if (outcome.kept_share(kind) or 0.0) < wanted}
    found = dict(proposal)
    for kind in missed or found.keys():
        reached = outcome.reached(kind, max(share, wanted))
        target = with_margin(proposal[kind], kind, _STEP)
        if reached is not None:
            asked = with_margin(reached, kind, margin)
            limit = with_margin(proposal[kind], kind, most)
            target = slacker(kind, target, tighter(kind, asked, limit))
        if possible(target):
            found[kind] = target
    return found


_STEP = 0.1
"""The least by which a target gives way."""


def possible(target: float) -> bool:
    """False for what only a request that never finishes would need."""
    return 0 < target < math.inf


def _measured(view: RequestView, kind: str) -> Floats:
    if kind == _RATE:
        rate: Floats = view.record.table.output_tokens / np.maximum(view.e2el_s, 1e-9)
        return rate
    seconds: Floats = {"ttft_ms": view.ttft_s, "tpot_ms": view.tpot_s, "e2el_ms": view.e2el_s}[kind]
    return seconds * 1e3


def _stated(targets: Targets, kind: str) -> Floats:
    if kind == _RATE:
        return targets.min_tokens_per_s
    named: Floats = {
        "ttft_ms": targets.ttft_s,
        "tpot_ms": targets.tpot_s,
        "e2el_ms": targets.e2el_s,
    }[kind]
    return named * 1e3
