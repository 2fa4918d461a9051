"""Fairness between tenants: Jain's index and the service gap of Virtual Token Counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superinfer.metrics.columns import RequestView
from superinfer.metrics.tokens import Bools
from superinfer.records.run import Floats, Ints

PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""Service of one prompt and of one output token (Sheng et al. 2024, section 3.1)."""
_MOST_TENANTS = 64
_INSTANTS = 512


@dataclass(slots=True)
class Fairness:
    """Service of tenants over time, as matrices of tenant by instant.

    Service is counted in weighted tokens: 1 per prompt token when its request is first scheduled
    and 2 per output token when it comes. Instants are at most 512 step ends, evenly spread over
    the steps; with more than 64 tenants, the 64 that submitted most requests are compared.
    """

    service: Floats
    demand: Floats
    """Service that the requests which arrived so far end up with."""
    backlogged: Bools
    """True where some request of the tenant has arrived and was never scheduled yet."""

    def jain_index(self) -> float:
        """Jain's index of served shares, from 1 (fair) down to 1/tenants.

        `(sum x)^2 / (n * sum x^2)` (Jain, Chiu and Hawe 1984, DEC-TR-301) of x = service
        over the max-min fair share of all service given so far, where no tenant's share exceeds
        its demand; then the mean over the instants at which a tenant is backlogged. 1 if there is
        no such instant. So a tenant that asks for little and gets it does not count as unfair.
        """
        contended = self.backlogged.any(axis=0) & (self.service.sum(axis=0) > 0)
        if not contended.any():
            return 1.0
        service, demand = self.service[:, contended], self.demand[:, contended]
        fair = max_min_share(demand, service.sum(axis=0))
        x = np.divide(service, fair, out=np.zeros_like(service), where=fair > 0)
        tenants = np.count_nonzero(demand > 0, axis=0)
        return float(np.mean(x.sum(axis=0) ** 2 / (tenants * np.square(x).sum(axis=0))))

    def vtc_gap(self) -> float:
        """Largest difference in service between two tenants while both are backlogged.

        `max |W_i(t1, t2) - W_j(t1, t2)|` in weighted tokens over all pairs and over all intervals
        in which both are backlogged throughout: the quantity that Sheng et al., "Fairness in
        Serving Large Language Models" (OSDI 2024, arXiv 2401.00588), bound for their scheduler.
        0 if no two are ever backlogged at once.
        """
        pairs = range(self.service.shape[0] - 1)
        return max(self._gap_to_later_tenants(tenant) for tenant in pairs)

    def _gap_to_later_tenants(self, tenant: int) -> float:
        ahead = (self.service[tenant] - self.service[tenant + 1 :]).ravel()
        both = self.backlogged[tenant] & self.backlogged[tenant + 1 :]
        change = np.diff(both, axis=1, prepend=False)
        change[:, 0] = True
        starts = np.flatnonzero(change)
        spread = np.maximum.reduceat(ahead, starts) - np.minimum.reduceat(ahead, starts)
        return float(spread.max(where=both.ravel()[starts], initial=0.0))


def fairness(view: RequestView) -> Fairness | None:
    """Follow the service of every tenant of `view` through the run; None below two tenants."""
    names = [request.tenant for request in view.record.table.requests]
    if len(set(names)) < 2:
        return None
    kept = [name for name, _ in Counter(names).most_common(_MOST_TENANTS)]
    number = {name: i for i, name in enumerate(kept)}
    tenant = np.array([number.get(name, -1) for name in names], np.int64)
    curves = _Curves(tenant, len(kept), _instants(view))
    return Fairness(_service(view, curves), _demand(view, curves), _backlogged(view, curves))


def max_min_share(demand: Floats, total: Floats) -> Floats:
    """Split `total[t]` over `demand[:, t]` max-min fairly: nobody gets more than it asks for.

    The smallest demands are met in full; the others share the rest equally.
    """
    ascending = np.sort(demand, axis=0)
    tenants = np.arange(len(demand), 0, -1)[:, None]
    met = np.cumsum(ascending, axis=0) - ascending
    level = (total - met) / tenants
    # The water level is the first equal split that does not exceed the next demand.
    enough = level <= ascending
    at = np.where(enough.any(axis=0), enough.argmax(axis=0), len(demand) - 1)
    share: Floats = np.minimum(demand, np.take_along_axis(level, at[None], axis=0))
    return share


@dataclass(slots=True)
class _Curves:
    """Adds amounts up per tenant and instant."""

    tenant: Ints
    tenants: int
    times_s: Floats

    def until(self, rows: Ints, at_s: Floats, amount: Floats | Ints) -> Floats:
        """Sum of `amount` of request `rows` that happened by each instant; NaN is never."""
        return self.by_bin(rows, np.searchsorted(self.times_s, at_s), amount)

    def by_bin(self, rows: Ints, first_instant: NDArray[np.intp], amount: Floats | Ints) -> Floats:
        """Sum of `amount` that counts from instant number `first_instant` on."""
        tenant, width = self.tenant[rows], self.times_s.size + 1
        kept = tenant >= 0
        place = tenant[kept] * width + first_instant[kept]
        total = np.bincount(place, amount[kept], self.tenants * width)
        steps = total.astype(np.float64, copy=False).reshape(self.tenants, width)
        total_so_far: Floats = np.cumsum(steps, axis=1)
        return total_so_far[:, :-1]


def _instants(view: RequestView) -> Floats:
    """Step ends spread evenly over the steps, or evenly spread times of a run without steps."""
    ends = np.sort(view.streams.step_end_s)  # they ascend replica by replica
    if ends.size:
        return ends[np.unique(np.linspace(0, ends.size - 1, _INSTANTS).astype(np.int64))]
    known = np.append(view.arrival_s, view.record.table.finish_s)
    return np.linspace(view.arrival_s.min(), np.nanmax(known), _INSTANTS)


def _service(view: RequestView, curves: _Curves) -> Floats:
    table, streams = view.record.table, view.streams
    rows = np.arange(view.arrival_s.size)
    prompts = curves.until(rows, table.first_scheduled_s, view.input_tokens)
    one = np.ones(rows.size)
    output = curves.until(rows, streams.first_token_s, one)
    output += curves.until(streams.gap_row, streams.gap_end_s, np.ones(streams.gap_row.size))
    return PROMPT_WEIGHT * prompts + OUTPUT_WEIGHT * (output + _decoded(view, curves))


def _decoded(view: RequestView, curves: _Curves) -> Floats:
    """Output tokens that runs gave by each instant, replica by replica.

    After `done` steps a run has given `(done - first)+ - (done - stop)+` tokens, so counts and
    sums of `first` and `stop` up to `done` are enough.
    """
    streams = view.streams
    given = np.zeros((curves.tenants, curves.times_s.size))
    replica = streams.run_replica()
    for number, done in enumerate(streams.steps_until(curves.times_s, right=True)):
        mine = replica == number
        row = streams.run_row[mine]
        given += _ramp(curves, row, streams.run_first[mine], done)
        given -= _ramp(curves, row, streams.run_stop[mine], done)
    return given


def _ramp(curves: _Curves, row: Ints, start: Ints, done: Ints) -> Floats:
    """Sum over runs of the steps that were done from `start` on, by tenant and instant."""
    instant = np.searchsorted(done, start)
    count = curves.by_bin(row, instant, np.ones(start.size))
    return count * done - curves.by_bin(row, instant, start)


def _demand(view: RequestView, curves: _Curves) -> Floats:
    wanted = PROMPT_WEIGHT * view.input_tokens + OUTPUT_WEIGHT * view.record.table.output_tokens
    return curves.until(np.arange(wanted.size), view.arrival_s, wanted)


def _backlogged(view: RequestView, curves: _Curves) -> Bools:
    """A request leaves the backlog when it is first scheduled, or ends without that."""
    table, rows = view.record.table, np.arange(view.arrival_s.size)
    left = np.where(np.isnan(table.first_scheduled_s), table.finish_s, table.first_scheduled_s)
    one = np.ones(rows.size)
    waiting = curves.until(rows, view.arrival_s, one) - curves.until(rows, left, one)
    return waiting > 0.5
