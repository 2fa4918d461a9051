"""What the use of a prompt looks like to the model of reuse: numbers for each stretch of blocks."""

from __future__ import annotations

import math
from math import copysign, sqrt
from typing import Final

from superinfer.memory.reuse.trails import GAPS, Session, Trail, gaps_at, log1p, session_of
from superinfer.request import Request

UNIT_TOKENS: Final = 512
"""Features count blocks of this size, whatever the trace's."""
NO_TIMES: Final = [0.0] * GAPS
FEATURES: Final = [
    "blocks",
    "matched",
    "new",
    "prompt_tokens",
    "continues",
    "session_gap",
    "turns",
    "partial_end",
    "growth",
    "last_growth",
    "session_age",
    "shortest_gap",
    "last_tokens",
    "deepest_fan_out",
    "deepest_uses",
    "opening_uses",
    "left_out",
    "session_gaps",
    "is_new",
    "uses",
    "fan_out",
    "start",
    "length",
    "after",
    "gap",
    "is_partial",
    "own_gaps",
    "own_spread",
    "own_mean_gap",
]


class Visit:
    """What the use of a prompt looks like, one row for each stretch of blocks."""

    __slots__ = (
        "earlier",
        "features",
        "gaps",
        "now_s",
        "starts",
        "stops",
        "turns",
        "waited_s",
        "weights",
    )

    def __init__(self, now_s: float, turns: int) -> None:
        self.now_s = now_s
        self.turns = turns
        """Earlier turns of its session; 0 where it begins one."""
        self.starts: list[int] = []
        """First block of each stretch."""
        self.stops: list[int] = []
        self.features: list[float] = []
        """`FEATURES` of them for each, one after the other."""
        self.gaps: list[float] = []
        """`log_gap` between the latest uses of each, `GAPS` of them, latest first; 0 where there is
        none."""
        self.waited_s: list[float | None] = []
        """Seconds since each stretch was used before, if it was."""
        self.weights: list[float] = []
        """The highest class weight of those who used each stretch lately."""
        self.earlier: list[int] = []
        """For each stretch the number of its use before, where `waited_s` tells of one. Stretches
        are numbered in the order of the visits."""

    def add(
        self,
        start: int,
        stop: int,
        weight: float,
        waited_s: float | None = None,
        earlier: int = 0,
    ) -> None:
        """One more stretch."""
        self.earlier.append(earlier)
        self.starts.append(start)
        self.stops.append(stop)
        self.weights.append(weight)
        self.waited_s.append(waited_s)

    def features_of(self, stretch: int) -> list[float]:
        """Its row of `features`."""
        return self.features[stretch * len(FEATURES) : (stretch + 1) * len(FEATURES)]

    def gaps_of(self, stretch: int) -> list[float]:
        """Its row of `gaps`."""
        return self.gaps[stretch * GAPS : (stretch + 1) * GAPS]


class Prompt:
    """A prompt at one of its uses: what all of its stretches have in common."""

    __slots__ = (
        "_blocks",
        "_common",
        "_now_s",
        "_scale",
        "_session_gaps",
        "_session_uses",
        "session",
        "visit",
        "weight",
    )

    def __init__(self, request: Request, blocks: int, path: list[Trail], now: float) -> None:
        """It has `blocks` content ids, and begins with the trails of `path`."""
        before, gap_s = session_of(path, now)
        self._blocks, self._now_s = blocks, now
        self._scale = request.hash_block_tokens / UNIT_TOKENS
        self._session_gaps, self._session_uses = NO_TIMES, 0
        if before is not None:
            self._session_gaps = gaps_at(before.last_s, before.past_gaps, now)
            self._session_uses = before.uses
        self._common = _prompt_features(request, blocks, path, before, gap_s, now)
        self._common += _path_features(request, path, before, self._session_gaps)
        self.session = Session(now, request.prompt_tokens, before, gap_s)
        """Its session, this turn included."""
        self.weight = request.slo_class.weight
        self.visit = Visit(now, 0 if before is None else before.turns)

    def add_known(self, trail: Trail) -> None:
        """One more stretch, which was used before as `trail` tells."""
        now, visit = self._now_s, self.visit
        last_s = trail.times_s[-1]
        gaps = gaps_at(last_s, trail.past_gaps, now)
        visit.features += self._common
        visit.features += _trail_features(trail, gaps, self._blocks, self._scale, now)
        # Of what was used less often than its session has gaps, those of the session tell more.
        visit.gaps += self._session_gaps if len(trail.times_s) < self._session_uses else gaps
        weight = trail.weight(now, self.weight)
        visit.add(trail.start, trail.stop, weight, now - last_s, trail.number)

    def add_new(self, start: int, stop: int, partial: bool) -> None:
        """One more stretch, which was not used before; a `partial` one is no whole content id."""
        visit, is_partial = self.visit, 1.0 if partial else 0.0
        before, length, after = _place(start, stop, self._blocks, self._scale)
        visit.features += self._common
        visit.features += [1.0, 0.0, 0.0, before, length, after, 0.0, is_partial, 0.0, 0.0, 0.0]
        visit.gaps += self._session_gaps
        visit.add(start, stop, self.weight)


def _prompt_features(
    request: Request,
    blocks: int,
    path: list[Trail],
    session: Session | None,
    gap_s: float,
    now: float,
) -> list[float]:
    """What all blocks of a prompt have in common."""
    matched = path[-1].stop if path else 0
    tokens = request.prompt_tokens
    partial = float(tokens % request.hash_block_tokens > 0)
    scale = request.hash_block_tokens / UNIT_TOKENS
    found = [
        log1p(scale * blocks),
        log1p(scale * matched),
        log1p(scale * (blocks - matched)),
        log1p(tokens),
    ]
    end_tokens = log1p((tokens - 1) % request.hash_block_tokens)
    if session is None:
        found += [0.0, 0.0, 0.0, partial, 0.0, 0.0, 0.0, 0.0, end_tokens]
        return found
    found += [
        1.0,
        log1p(gap_s),
        log1p(session.turns),
        partial,
        _signed_log(tokens - session.tokens),
        _signed_log(session.growth_tokens),
        log1p(now - session.born_s),
        log1p(min(session.shortest_gap_s, gap_s)),
        end_tokens,
    ]
    return found


def _path_features(
    request: Request, path: list[Trail], session: Session | None, session_gaps: list[float]
) -> list[float]:
    """How popular the known beginning of a prompt is, where it leaves the turn before, and how
    long the turns of its session are apart.
    """
    if not path:
        return [0.0, 0.0, 0.0, 0.0, 0.0]
    opening_uses = path[1].uses if len(path) > 1 else 0  # behind what is common to most prompts
    last = path[-1]
    fan_out, uses, opening = log1p(last.fan_out), log1p(last.uses), log1p(opening_uses)
    if session is None:
        return [fan_out, uses, opening, 0.0, 0.0]
    block_tokens = request.hash_block_tokens
    left_out = max(0, -(-session.tokens // block_tokens) - last.stop)
    scale = block_tokens / UNIT_TOKENS
    return [fan_out, uses, opening, log1p(scale * left_out), _statistics(session_gaps)[0]]


def _statistics(gaps: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the gaps that are there."""
    total, count = 0.0, 0
    for gap in gaps:
        if gap == 0.0:
            break
        total += gap
        count += 1
    if not count:
        return 0.0, 0.0
    mean, squares = total / count, 0.0
    for place in range(count):
        squares += math.pow(gaps[place] - mean, 2.0)
    return mean, sqrt(squares / count)


def _place(start: int, stop: int, blocks: int, scale: float) -> tuple[float, float, float]:
    """Where a stretch lies in its prompt."""
    return log1p(scale * start), log1p(scale * (stop - start)), log1p(scale * (blocks - stop))


def _trail_features(
    trail: Trail, gaps: list[float], blocks: int, scale: float, now: float
) -> list[float]:
    """What is known of a stretch that was used before, with its gaps."""
    mean, spread = _statistics(gaps)
    times_s = trail.times_s
    before, length, after = _place(trail.start, trail.stop, blocks, scale)
    return [
        0.0,
        log1p(trail.uses),
        log1p(trail.fan_out),
        before,
        length,
        after,
        log1p(now - times_s[-1]),
        0.0,
        mean,
        spread,
        log1p((now - times_s[0]) / len(times_s)),
    ]


def _signed_log(value: float) -> float:
    return copysign(log1p(abs(value)), value)
