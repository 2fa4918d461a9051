"""How long clients waited for a token, and how long a run took."""

from __future__ import annotations

import numpy as np

from superinfer.metrics.columns import RequestView
from superinfer.records.run import Floats


def duration_s(view: RequestView) -> float:
    """First arrival to the last end of a request in any state, in seconds."""
    ends = view.record.table.finish_s
    ends = ends[~np.isnan(ends)]
    return float(ends.max() - view.arrival_s.min()) if ends.size else 0.0


def longest_stall_s(view: RequestView) -> Floats:
    """Longest wait of each client whose answer had begun, requests of every state included.

    A request that failed or was cancelled also waited from its last token to its end in vain.
    """
    in_vain = view.record.table.finish_s - view.streams.last_token_s()
    stall: Floats = np.fmax(view.longest_gap_s, np.where(view.finished, np.nan, in_vain))
    return stall


def longest_wait_s(view: RequestView) -> Floats:
    """Longest time of each client without a token, the wait for the first one included.

    Who got no more waited until its end, or until the end of the run if that was cut off.
    """
    finish_s, ends_s = view.record.table.finish_s, view.streams.step_end_s
    run_end_s = ends_s.max() if ends_s.size else np.nan
    latest_s = view.streams.last_token_s()
    since_s = np.where(np.isnan(latest_s), view.arrival_s, latest_s)
    in_vain = np.where(np.isnan(finish_s), run_end_s, finish_s) - since_s
    served: Floats = np.fmax(view.ttft_s, view.longest_gap_s)
    wait: Floats = np.fmax(served, np.where(view.finished, np.nan, in_vain))
    return wait
