"""A steady window of a run: what happened inside it, for measurements that leave out both ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from superinfer.metrics.columns import RequestView
from superinfer.metrics.tokens import Bools
from superinfer.records.run import Copies, Floats, Ints


@dataclass(slots=True, frozen=True)
class Window:
    """From `start_s` (included) to `end_s` (excluded), in seconds of the run."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Seconds."""
        return self.end_s - self.start_s

    def holds(self, times_s: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Mask of the times that lie inside; unknown ones do not."""
        return (times_s >= self.start_s) & (times_s < self.end_s)

    def output_tokens(self, view: RequestView) -> Ints:
        """Output tokens of each request that came inside, whether it finished or not."""
        streams = view.streams
        tokens = self.holds(streams.first_token_s).astype(np.int64)
        edges = streams.steps_until(np.array([self.start_s, self.end_s]))
        low, high = edges[streams.run_replica()].T
        inside = np.clip(streams.run_stop, low, high) - np.clip(streams.run_first, low, high)
        np.add.at(tokens, streams.run_row, inside)
        np.add.at(tokens, streams.gap_row, self.holds(streams.gap_end_s))
        return tokens

    def input_tokens(self, view: RequestView) -> Ints:
        """Prompt tokens of each request whose first token came inside."""
        return np.where(self.holds(view.streams.first_token_s), view.input_tokens, 0)

    def copied_bytes(self, copies: Copies, chosen: Bools) -> tuple[int, int]:
        """Bytes of the chosen copies that were decided inside: to the device, and to the host."""
        nbytes = copies.nbytes[chosen & self.holds(copies.decided_s)]
        return int(nbytes[nbytes > 0].sum()), -int(nbytes[nbytes < 0].sum())
