"""The memory of one trail and of one session.

A *trail* is a run of blocks that the same requests used, so a prompt consists of a few trails. A
*session* is what continues one conversation: a prompt belongs to the session of the deepest trail
that it shares with an earlier one.
"""

from __future__ import annotations

import math
from math import inf
from typing import Final

from superinfer.memory.index.key_runs import KeyRun
from superinfer.memory.index.keys import Key

log1p: Final = math.log1p
"""Final, which compiled code finds at once; it looks up a function of a library at every call."""
GAPS: Final = 8
"""Gaps between uses that are kept."""
COMMON_FAN_OUT: Final = 50
"""A trail that so many prompts left is a common beginning, which says nothing of a session."""
LATELY_S: Final = 600.0
"""A use counts for the weight of a stretch for so long: as far as the shipped model looks."""
NO_GAPS: Final = [0.0] * (GAPS - 1)


class Session:
    """One conversation, as far as prompts show it."""

    __slots__ = (
        "born_s",
        "growth_tokens",
        "last_s",
        "past_gaps",
        "shortest_gap_s",
        "tokens",
        "turns",
        "uses",
    )

    def __init__(self, now: float, tokens: int, before: Session | None, gap_s: float) -> None:
        self.last_s = now
        self.past_gaps: list[float] = NO_GAPS
        """`log_gap` between its latest turns, latest first; 0 where there is none."""
        self.uses = 1
        """Turns that these gaps stand for, this one included."""
        self.turns = 1
        self.tokens = tokens
        self.growth_tokens = 0
        self.born_s = now
        self.shortest_gap_s: float = inf
        if before is not None:
            self.past_gaps = [log_gap(now - before.last_s), *before.past_gaps[:-1]]
            self.uses = min(GAPS, before.uses + 1)
            self.turns = before.turns + 1
            self.growth_tokens = tokens - before.tokens
            self.born_s = before.born_s
            self.shortest_gap_s = min(before.shortest_gap_s, gap_s)


class Trail(KeyRun):
    """Blocks `[start, stop)` of prompts that were used by the same requests."""

    __slots__ = ("fan_out", "number", "past_gaps", "session", "times_s", "uses", "weights")

    def __init__(
        self,
        names: tuple[Key, ...],
        start: int,
        now: float,
        session: Session,
        weight: float,
    ) -> None:
        super().__init__(names, start)
        self.times_s = [now]
        self.past_gaps = NO_GAPS
        """`log_gap` between its latest uses, latest first; 0 where there is none."""
        self.weights = [weight]
        """Of the service classes of these uses."""
        self.uses = 1
        self.fan_out = 0
        self.session = session
        self.number = 0
        """Of its latest use, among all stretches of all visits."""

    def upper(self, stop: int) -> Trail:
        """Cut it at block `stop`: it becomes the lower part. Returns the upper one, which the same
        requests have used.
        """
        blocks = stop - self.start
        part = Trail(self.names[:blocks], self.start, 0.0, self.session, 0.0)
        part.times_s, part.uses, part.fan_out = self.times_s, self.uses, 1
        part.past_gaps, part.weights, part.number = self.past_gaps, self.weights, self.number
        self.names, self.start = self.names[blocks:], stop
        return part

    def use(self, now: float, weight: float) -> None:
        """One more."""
        self.past_gaps = [log_gap(now - self.times_s[-1]), *self.past_gaps[:-1]]
        self.times_s = [*self.times_s[1 - GAPS :], now]
        self.weights = [*self.weights[1 - GAPS :], weight]
        self.uses += 1

    def weight(self, now: float, own: float) -> float:
        """The highest weight of those who used it lately, `own` included."""
        lately = now - LATELY_S
        for place, weight in enumerate(self.weights):
            if weight > own and self.times_s[place] >= lately:
                own = weight
        return own


def session_of(path: list[Trail], now: float) -> tuple[Session | None, float]:
    """The session that a prompt goes on with, and the seconds since its last turn."""
    if not path or path[-1].fan_out >= COMMON_FAN_OUT:
        return None, 0.0
    return path[-1].session, now - path[-1].times_s[-1]


def log_gap(gap_s: float) -> float:
    """`log(1 + gap)` and a little more, so that it is never 0."""
    return log1p(gap_s) + 0.01


def gaps_at(last_s: float, past_gaps: list[float], now: float) -> list[float]:
    """`log_gap` of the latest gaps, that which ends now included."""
    return [log_gap(now - last_s), *past_gaps]
