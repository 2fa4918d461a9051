"""What many replicas last told, in columns: a request is compared with all of them at once.

A replica is asked again only when it says that something changed. What it told is exact; but the
seconds of a step with the request in the batch depend on the prompt, and for those there is a lower
bound, by the lines on which the steps of the present batch lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import numpy as np
import numpy.typing as npt

from superinfer.memory.index.keys import request_keys
from superinfer.request import Request
from superinfer.routers.view import ReplicaView

Column = npt.NDArray[np.float64]
"""A number for each replica; tokens are whole numbers, far below 2**53."""

BELOW: Final = 1 - 1e-9
"""What a bound is taken times: a sum on the way to it may have been rounded up."""
LINES: Final = 3
REACH_TOKENS: Final = 8192
"""So many lines of a replica at most, one behind the other, until they reach so long a prompt."""


class Board:
    """The columns of a router's replicas, as they are after `refresh`."""

    def __init__(self, replicas: Sequence[ReplicaView], chunk_tokens: int) -> None:
        self._replicas, self._chunk_tokens = replicas, chunk_tokens
        self._nothing = np.zeros(len(replicas))
        self._caching = any(replica.caches_prefixes for replica in replicas)
        known: dict[int, int] = {}
        self._costs = [known.setdefault(id(each.believed), len(known)) for each in replicas]
        self._columns = columns = np.zeros((11, len(replicas)))
        self._state: Column = columns[:5]
        """What determines what is predicted for a prompt of which nothing is cached."""
        self.hurried_prompt_tokens: Column = columns[3]
        self.patient_prompt_tokens: Column = columns[4]
        self.outstanding_tokens: Column = columns[5]
        self.hurried_requests: Column = columns[6]
        """These as in a view."""
        self.room_tokens: Column = columns[7]
        """Tokens for which there is room beside what is there and waits."""
        self.tightest_tpot_s: Column = columns[8]
        """Infinite where nobody has such a target."""
        self.chunk_s: Column = columns[9]
        """Seconds of a step with a chunk of a prompt beside the present batch."""
        self._width: Column = columns[10]
        """Sequences of the batch, with one more."""
        self._lines = np.zeros((4, LINES, len(replicas)))
        """First and last step of each line, where a step is a prompt longer by the width; seconds
        of its first step, and by how much they grow."""
        self._stale = set(range(len(replicas)))
        for replica in replicas:
            replica.on_change = self._stale.add

    def refresh(self) -> None:
        """Ask those that changed."""
        for number in self._stale:
            self._columns[:, number] = self._told(number)
            self._lines[:, :, number] = self._told_lines(self._replicas[number])
        self._stale.clear()

    def cached_tokens(self, request: Request) -> Column:
        """Asked anew for each request, where prefixes are cached at all."""
        if not self._caching:
            return self._nothing
        keys = request_keys(request)
        return np.array([each.cached_tokens(request, keys) for each in self._replicas], np.float64)

    def state(self, number: int, cached_tokens: Column) -> tuple[bytes, float]:
        """The same for two replicas of which the same is predicted for one request."""
        return self._state[:, number].tobytes(), cached_tokens[number]

    def first_token_s(self, own_tokens: Column, tokens_ahead: Column) -> Column:
        """As `ReplicaView.first_token_s`, by what is not cached of a prompt."""
        steps = np.maximum(1.0, (tokens_ahead + own_tokens) / self._chunk_tokens)
        seconds: Column = self.chunk_s * steps
        return seconds

    def decode_step_least_s(self, request: Request) -> Column:
        """No more than `ReplicaView.decode_step_s`; minus infinity for a prompt on no line.

        Between two steps of a line the time lies between theirs, and lines here do not fall.
        """
        begin, end, first_s, growth_s = self._lines
        step = np.floor((request.prompt_tokens - 1) / self._width)
        on_line = (begin <= step) & (step < end)
        seconds = BELOW * (first_s + growth_s * (step - begin))
        least_s: Column = np.where(on_line, seconds, -inf).max(axis=0)
        return least_s

    def decode_step_near_s(self, request: Request) -> Column:
        """The same, where those on no line are asked."""
        near_s = self.decode_step_least_s(request)
        for number in np.flatnonzero(near_s == -inf).tolist():
            near_s[number] = self._replicas[number].decode_step_s(request)
        return near_s

    # -- inside ---------------------------------------------------------------------------------

    def _told(self, number: int) -> tuple[float, ...]:
        """What one replica tells, in the order of the columns."""
        replica = self._replicas[number]
        pace_s = replica.tightest_tpot_s()
        return (
            self._costs[number],
            replica.decodes,
            replica.context_tokens,
            replica.hurried_prompt_tokens,
            replica.patient_prompt_tokens,
            replica.outstanding_tokens,
            replica.hurried_requests,
            replica.free_kv_tokens - replica.waiting_prompt_tokens,
            inf if pace_s is None else pace_s,
            replica.chunk_s(self._chunk_tokens),
            replica.decodes + 1,
        )

    def _told_lines(self, replica: ReplicaView) -> Column:
        """The lines of one replica; those that fall, or that nobody needs, have no step."""
        lines, width, begin = np.zeros((4, LINES)), replica.decodes + 1, 0.0
        for place in range(LINES):
            if begin * width > REACH_TOKENS:
                break
            line = replica.decode_line(1 + int(begin) * width)
            end = begin + line.steps
            if line.growth_s >= 0:
                lines[:, place] = begin, end - 1, line.first_s, line.growth_s
            begin = end
        return lines
