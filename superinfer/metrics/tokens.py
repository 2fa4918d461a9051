"""Inter-token times from `TokenTimes`, in work per step and per run instead of per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from superinfer.metrics.statistics import weighted_statistics
from superinfer.records.run import Floats, Ints, TokenTimes

Bools = NDArray[np.bool_]
Array = TypeVar("Array", Floats, Ints)

_SAME_TIME_S = 1e-6
"""Two ways to add up the same gaps differ by rounding only; a recomputed prefill takes longer."""


@dataclass(slots=True)
class TokenStreams:
    """Runs in order of their first step, gaps as recorded, and where each lies in its answer.

    Tokens of an answer are numbered from 0, the first token.
    """

    first_token_s: Floats
    step_end_s: Floats
    step_gap_s: Floats
    """Time since the step before; 0 for the first step of a replica, which is no gap."""
    run_row: Ints
    run_first: Ints
    run_stop: Ints
    run_wait_s: Floats
    """Wait before the first token of each run."""
    run_end_s: Floats
    """When the last token of each run came."""
    run_index: Ints
    """Number of the first token of each run in its answer."""
    gap_row: Ints
    gap_s: Floats
    gap_end_s: Floats
    """When the token after each gap came."""
    gap_index: Ints
    """Number of that token in its answer."""
    replica_first: Ints
    """Where the steps of each replica begin: times only ascend inside those of one."""

    def steps_until(self, times_s: Floats, *, right: bool = False) -> Ints:
        """For each replica (row) and time, the number of its first step that ends then or later
        (`right`: only later), counted over all.
        """
        stops = np.append(self.replica_first[1:], self.step_end_s.size)
        side: Literal["left", "right"] = "right" if right else "left"
        return np.array(
            [
                first + np.searchsorted(self.step_end_s[first:stop], times_s, side)
                for first, stop in zip(self.replica_first, stops, strict=True)
            ],
            np.int64,
        )

    def run_replica(self) -> Ints:
        """The replica of each run."""
        found: Ints = np.searchsorted(self.replica_first, self.run_first, side="right") - 1
        return found

    def longest_gap_s(self) -> Floats:
        """Longest time between two tokens of each request; NaN below two tokens."""
        longest = np.full(self.first_token_s.size, -np.inf)
        inside = segment_max(self.step_gap_s, self.run_first + 1, self.run_stop)
        np.maximum.at(longest, self.run_row, np.maximum(inside, self.run_wait_s))
        np.maximum.at(longest, self.gap_row, self.gap_s)
        return np.where(np.isneginf(longest), np.nan, longest)

    def last_token_s(self) -> Floats:
        """When the last token of each request came; NaN where none did."""
        last = self.first_token_s.copy()
        np.fmax.at(last, self.run_row, self.run_end_s)
        np.fmax.at(last, self.gap_row, self.gap_end_s)
        return last


def token_streams(tokens: TokenTimes, first_token_s: Floats) -> TokenStreams:
    """Bring `tokens` into order and number the tokens of each answer."""
    order = np.argsort(tokens.run_first, kind="stable")
    row, first, stop = (a[order] for a in (tokens.run_row, tokens.run_first, tokens.run_stop))
    previous, end = tokens.run_previous_s[order], tokens.decode_end_s
    streams = TokenStreams(
        first_token_s=first_token_s,
        step_end_s=end,
        step_gap_s=_step_gaps_s(tokens),
        run_row=row,
        run_first=first,
        run_stop=stop,
        run_wait_s=end[first] - previous,
        run_end_s=end[stop - 1],
        run_index=np.ones_like(row),
        gap_row=tokens.gap_row,
        gap_s=tokens.gap_s,
        gap_end_s=np.empty_like(tokens.gap_s),
        gap_index=np.ones_like(tokens.gap_row),
        replica_first=tokens.replica_first,
    )
    _number_tokens(streams, previous)
    return streams


@dataclass(slots=True)
class GapPool:
    """All times between two tokens, ascending: one value per step and per wait outside steps."""

    gap_ms: Floats
    streams: TokenStreams
    _order: Ints

    @classmethod
    def of(cls, streams: TokenStreams) -> GapPool:
        """Pool the gaps of all requests."""
        values = np.concatenate((streams.step_gap_s, streams.run_wait_s, streams.gap_s))
        order = np.argsort(values, kind="stable")
        return cls(values[order] * 1e3, streams, order)

    def weights(self, rows: Bools) -> NDArray[np.int32]:
        """How many tokens of the requests in mask `rows` came after each of `gap_ms`."""
        run = rows[self.streams.run_row]
        steps = self.streams.step_gap_s.size
        change = np.bincount(self.streams.run_first[run] + 1, minlength=steps + 1)
        change -= np.bincount(self.streams.run_stop[run], minlength=steps + 1)
        # 32 bits: half of the memory to gather from, and far more than the largest batch.
        tokens = np.empty(self.gap_ms.size, np.int32)
        np.cumsum(change[:steps], out=tokens[:steps])
        tokens[steps : steps + run.size] = run
        tokens[steps + run.size :] = rows[self.streams.gap_row]
        return tokens[self._order]

    def statistics_ms(self, rows: Bools) -> dict[str, float | None]:
        """Mean, deviation and quantiles over every gap of the requests in mask `rows`, in ms."""
        return weighted_statistics(self.gap_ms, self.weights(rows))


def segment_max(values: Floats, first: Ints, stop: Ints) -> Floats:
    """Maximum of `values[first[i]:stop[i]]`, -inf where empty; `first` must ascend to be fast."""
    if not first.size:
        return np.empty(0)
    # reduceat also reduces from each stop to the next first: little, as `first` ascends.
    bounds = np.column_stack((first, stop)).ravel()
    found = np.maximum.reduceat(np.append(values, -np.inf), bounds)[::2]
    return np.where(stop > first, found, -np.inf)


def _step_gaps_s(tokens: TokenTimes) -> Floats:
    gaps: Floats = np.diff(tokens.decode_end_s, prepend=tokens.decode_end_s[:1])
    gaps[tokens.replica_first[tokens.replica_first < gaps.size]] = 0.0
    return gaps


def _number_tokens(streams: TokenStreams, previous_s: Floats) -> None:
    """Set `run_index`, `gap_index` and `gap_end_s`: merge runs and gaps of each request in time.

    The record says how long each gap took, not when. A gap lies before a run when the waits that
    no run covers, up to that run, add up to at least the gaps up to and including this one.
    """
    runs = streams.run_row.size
    row = np.concatenate((streams.run_row, streams.gap_row))
    waited = np.concatenate((_uncovered_s(streams, previous_s), _running_sum(streams)))
    order = np.lexsort((waited, row))
    row, is_run = row[order], order < runs
    given = np.concatenate((streams.run_stop - streams.run_first, np.ones_like(streams.gap_row)))
    index = np.empty(row.size, np.int64)
    index[order] = 1 + _sum_in_row(row, given[order]) - given[order]
    streams.run_index[:], streams.gap_index[:] = index[:runs], index[runs:]
    end = np.concatenate((streams.run_end_s, streams.gap_s))[order]
    _chain(end, is_run, _leads(row), streams.first_token_s[row])
    times = np.empty_like(end)
    times[order] = end
    streams.gap_end_s[:] = times[runs:]


def _chain(end_s: Floats, is_run: Bools, leads: Bools, first_token_s: Floats) -> None:
    """Turn the lengths of gaps in `end_s` into times: each starts when the item before it ended."""
    at = np.arange(end_s.size)
    start = leads & ~is_run
    end_s[start] += first_token_s[start]
    # Depth by depth, so that each time is one exact sum and not a difference of long ones.
    depth = at - np.maximum.accumulate(np.where(is_run | start, at, 0))
    order = np.argsort(depth, kind="stable")
    levels = np.flatnonzero(np.diff(depth[order])) + 1
    for here in np.split(order, levels)[1:]:
        end_s[here] += end_s[here - 1]


def _uncovered_s(streams: TokenStreams, previous_s: Floats) -> Floats:
    """For each run, all waits of its request before it that no run covers."""
    order = np.argsort(streams.run_row, kind="stable")
    row = streams.run_row[order]
    before = np.roll(streams.run_end_s[order], 1)
    leads = _leads(row)
    before[leads] = streams.first_token_s[row[leads]]
    waited = np.empty(row.size)
    waited[order] = _sum_in_row(row, np.maximum(previous_s[order] - before, 0.0))
    return waited + _SAME_TIME_S


def _running_sum(streams: TokenStreams) -> Floats:
    """For each gap, the sum of the gaps of its request up to and including it."""
    order = np.argsort(streams.gap_row, kind="stable")
    total = np.empty(order.size)
    total[order] = _sum_in_row(streams.gap_row[order], streams.gap_s[order])
    return total


def _leads(rows: Ints) -> Bools:
    """True at the first item of every row in sorted `rows`."""
    found: Bools = np.diff(rows, prepend=-1) != 0
    return found


def _sum_in_row(rows: Ints, values: Array) -> Array:
    """Running sum of `values` inside each row of sorted `rows`."""
    total: Array = np.cumsum(values)
    leads = _leads(rows)
    total -= (total - values)[leads][np.cumsum(leads) - 1]
    return total
