"""Paced delivery: does token i of an answer come by `first due + i * pace`, for every i?"""

from __future__ import annotations

import numpy as np

from superinfer.metrics.tokens import Bools, TokenStreams, segment_max
from superinfer.records.run import Floats, Ints


def in_pace(streams: TokenStreams, due_s: Floats, pace_s: Floats) -> Bools:
    """Which requests got every token in time, with the first due at `due_s`; False where NaN.

    A client that shows an answer at a steady pace notices a late token only when its store of
    early ones is used up, so each token has its own deadline and early ones are credit.
    """
    row, gap_row = streams.run_row, streams.gap_row
    on_time: Bools = (streams.first_token_s <= due_s) & ~np.isnan(pace_s)
    gap_due = due_s[gap_row] + streams.gap_index * pace_s[gap_row]
    on_time[gap_row[streams.gap_end_s > gap_due]] = False
    open_runs = np.flatnonzero(on_time[row])
    due = due_s[row] + streams.run_index * pace_s[row]
    on_time[row[open_runs[_late(streams, open_runs, due, pace_s[row])]]] = False
    return on_time


def _late(streams: TokenStreams, runs: Ints, due_s: Floats, pace_s: Floats) -> Bools:
    """Of `runs`, those with a late token; `due_s` is the deadline of a run's first token."""
    first, stop = streams.run_first[runs], streams.run_stop[runs]
    due, pace = due_s[runs], pace_s[runs]
    late = (streams.step_end_s[first] > due) | (
        streams.run_end_s[runs] > due + (stop - 1 - first) * pace
    )
    # A run that starts in time and never steps slower than its pace needs no closer look.
    slow = segment_max(streams.step_gap_s, first + 1, stop) > pace
    unsure = np.flatnonzero(slow & ~late)
    for one_pace in np.unique(pace[unsure]):
        same = unsure[pace[unsure] == one_pace]
        late[same] = _late_at(streams, first[same], stop[same], due[same], one_pace)
    return late


def _late_at(streams: TokenStreams, first: Ints, stop: Ints, due_s: Floats, pace_s: float) -> Bools:
    """Which runs of one pace have a step k with `end[k] > due + (k - first) * pace`."""
    low, high = int(first[0]), int(stop.max())
    head_start = streams.step_end_s[low:high] - np.arange(high - low) * pace_s
    return segment_max(head_start, first - low, stop - low) > due_s - (first - low) * pace_s
