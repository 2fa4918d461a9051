"""What is remembered of prefixes, cached or not: who used them when.

A *trail* is a run of blocks that the same requests used, so a prompt consists of a few trails. A
*session* is what continues one conversation: a prompt belongs to the session of the deepest trail
that it shares with an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import copysign, log1p, sqrt
from typing import Final

from superinfer.memory.prefix import Key, request_keys
from superinfer.request import Request

GAPS: Final = 8
"""Gaps between uses that are kept."""
COMMON_FAN_OUT: Final = 50
"""A trail that so many prompts left is a common beginning, which says nothing of a session."""
UNIT_TOKENS: Final = 512
"""Features count blocks of this size, whatever the trace's."""
LATELY_S: Final = 600.0
"""A use counts for the weight of a stretch for so long: as far as the shipped model looks."""
KEYS: Final = 1 << 17
"""Content ids in the younger half of the memory; when it is full the older half is forgotten."""
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


class Session:
    """One conversation, as far as prompts show it."""

    __slots__ = ("born_s", "growth_tokens", "shortest_gap_s", "times_s", "tokens", "turns")

    def __init__(self, now: float, tokens: int, before: Session | None, gap_s: float) -> None:
        self.times_s: list[float] = [*before.times_s[1 - GAPS :], now] if before else [now]
        self.turns: int = before.turns + 1 if before else 1
        self.tokens = tokens
        self.growth_tokens = tokens - before.tokens if before else 0
        self.born_s: float = before.born_s if before else now
        self.shortest_gap_s: float = min(before.shortest_gap_s, gap_s) if before else float("inf")


class Trail:
    """Blocks `[start, stop)` of prompts that were used by the same requests."""

    __slots__ = ("fan_out", "number", "session", "start", "stop", "times_s", "uses", "weights")

    def __init__(self, start: int, stop: int, now: float, session: Session, weight: float) -> None:
        self.start, self.stop = start, stop
        self.times_s = [now]
        self.weights = [weight]
        """Of the service classes of these uses."""
        self.uses = 1
        self.fan_out = 0
        self.session = session
        self.number = 0
        """Of its latest use, among all stretches of all visits."""

    def upper(self, stop: int) -> Trail:
        """Cut the trail: the blocks up to `stop` become one of their own."""
        part = Trail(self.start, stop, 0.0, self.session, 0.0)
        part.times_s, part.uses, part.fan_out = self.times_s.copy(), self.uses, 1
        part.weights, part.number = self.weights.copy(), self.number
        self.start = stop
        return part

    def weight(self, now: float, own: float) -> float:
        """The highest weight of those who used it lately, `own` included."""
        lately = now - LATELY_S
        for time_s, weight in zip(self.times_s, self.weights, strict=True):
            if weight > own and time_s >= lately:
                own = weight
        return own


@dataclass(slots=True)
class Visit:
    """What the use of a prompt looks like, one row for each stretch of blocks."""

    now_s: float
    turns: int
    """Earlier turns of its session; 0 where it begins one."""
    starts: list[int] = field(default_factory=list)
    """First block of each stretch."""
    stops: list[int] = field(default_factory=list)
    features: list[list[float]] = field(default_factory=list)
    gaps: list[list[float]] = field(default_factory=list)
    """Logarithms of the seconds between the latest uses, latest first; 0 where there is none."""
    waited_s: list[float | None] = field(default_factory=list)
    """Seconds since each stretch was used before, if it was."""
    weights: list[float] = field(default_factory=list)
    """The highest class weight of those who used each stretch lately."""
    earlier: list[int] = field(default_factory=list)
    """For each stretch the number of its use before, where `waited_s` tells of one. Stretches are
    numbered in the order of the visits."""

    def add(
        self,
        start: int,
        stop: int,
        features: list[float],
        gaps: list[float],
        weight: float,
        waited_s: float | None = None,
        earlier: int = 0,
    ) -> None:
        """One more stretch."""
        self.earlier.append(earlier)
        self.waited_s.append(waited_s)
        self.weights.append(weight)
        self.starts.append(start)
        self.stops.append(stop)
        self.features.append(features)
        self.gaps.append(gaps)


class History:
    """Trails by content id, of a bounded number of ids."""

    def __init__(self, keys: int = KEYS) -> None:
        self._keys = keys
        self._young: dict[object, Trail] = {}
        self._old: dict[object, Trail] = {}
        self._stretches = 0
        """Of all visits."""

    def visit(self, request: Request, now: float) -> Visit:
        """Note that a prompt is used, and say what was known of it before."""
        names = _names(request)
        scale = request.hash_block_tokens / UNIT_TOKENS
        path = self._path(names)
        session, gap_s = _session(path, now)
        common = _prompt_features(request, len(names), path, session, gap_s, now)
        common += _path_features(request, path, session, now)
        visit = Visit(now, session.turns if session else 0)
        times_s = session.times_s if session else []
        session_gaps = log_gaps(times_s, now)
        own = request.slo_class.weight
        for trail in path:
            gaps = log_gaps(trail.times_s, now)
            row = common + _trail_features(trail, gaps, len(names), scale, now)
            if len(trail.times_s) < len(times_s):
                gaps = session_gaps
            waited_s = now - trail.times_s[-1]
            weight, earlier = trail.weight(now, own), trail.number
            visit.add(trail.start, trail.stop, row, gaps, weight, waited_s, earlier)
            trail.number = self._next()
        after = Session(now, request.prompt_tokens, session, gap_s)
        self._use(path, names, after, now, own)
        for start, stop, partial in _new_stretches(request, path[-1].stop if path else 0, names):
            trail = Trail(start, stop, now, after, own)
            trail.number = self._next()
            self._remember(names, start, stop, trail)
            row = [1.0, 0.0, 0.0, *_place(start, stop, len(names), scale), 0.0, float(partial)]
            visit.add(start, stop, [*common, *row, 0.0, 0.0, 0.0], session_gaps, own)
        return visit

    # -- inside ---------------------------------------------------------------------------------

    def _next(self) -> int:
        """The number of one more stretch."""
        self._stretches += 1
        return self._stretches - 1

    def _path(self, names: list[object]) -> list[Trail]:
        """The trails of the longest known beginning; the last one is cut where that ends.

        Chained ids belong to one place in their prompts. An id that a trace has at several places
        is known only where it was seen last.
        """
        path: list[Trail] = []
        block = 0
        while block < len(names):
            trail = self._find(names[block])
            if trail is None or trail.start != block:
                break
            whole = trail.stop <= len(names) and self._find(names[trail.stop - 1]) is trail
            if not whole:
                trail = self._cut(trail, names)
            path.append(trail)
            block = trail.stop
        return path

    def _cut(self, trail: Trail, names: list[object]) -> Trail:
        """The part of a trail that a prompt shares."""
        stop = trail.start + 1
        while stop < min(trail.stop, len(names)) and self._find(names[stop]) is trail:
            stop += 1
        part = trail.upper(stop)
        self._remember(names, part.start, stop, part)
        return part

    def _use(
        self, path: list[Trail], names: list[object], session: Session, now: float, weight: float
    ) -> None:
        if path and path[-1].stop < len(names):
            path[-1].fan_out += 1
        for trail in path:
            trail.times_s = [*trail.times_s[1 - GAPS :], now]
            trail.weights = [*trail.weights[1 - GAPS :], weight]
            trail.uses += 1
            if trail.fan_out < COMMON_FAN_OUT:
                trail.session = session
            if names[trail.start] not in self._young:
                self._remember(names, trail.start, trail.stop, trail)

    def _find(self, name: object) -> Trail | None:
        found = self._young.get(name)
        return self._old.get(name) if found is None else found

    def _remember(self, names: list[object], start: int, stop: int, trail: Trail) -> None:
        young = self._young
        for block in range(start, stop):
            young[names[block]] = trail
        if len(young) > self._keys:
            self._old, self._young = young, {}


def log_gaps(times_s: list[float], now: float) -> list[float]:
    """`log(1 + gap)` of the latest gaps, `now` included; never 0 where there is one."""
    found = [0.0] * GAPS
    later = now
    for place, time_s in enumerate(reversed(times_s)):
        found[place] = log1p(later - time_s) + 0.01
        later = time_s
    return found


def _names(request: Request) -> list[object]:
    keys: tuple[Key, ...] = request_keys(request)
    return [(request.namespace, key) for key in keys] if request.namespace else list(keys)


def _session(path: list[Trail], now: float) -> tuple[Session | None, float]:
    """The session that a prompt goes on with, and the seconds since its last turn."""
    if not path or path[-1].fan_out >= COMMON_FAN_OUT:
        return None, 0.0
    return path[-1].session, now - path[-1].times_s[-1]


def _new_stretches(
    request: Request, known: int, names: list[object]
) -> list[tuple[int, int, bool]]:
    """The blocks that nobody used before; a partial last one stands alone."""
    stop = len(names)
    partial = bool(request.prompt_tokens % request.hash_block_tokens)
    bounds = [known, stop - 1, stop] if partial else [known, stop]
    return [(start, end, partial and end == stop) for start, end in pairwise(bounds) if start < end]


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
    partial = tokens % request.hash_block_tokens
    scale = request.hash_block_tokens / UNIT_TOKENS
    counts = (blocks, matched, blocks - matched)
    first = [*(log1p(scale * count) for count in counts), log1p(tokens)]
    end_tokens = log1p((tokens - 1) % request.hash_block_tokens)
    if session is None:
        return [*first, 0.0, 0.0, 0.0, float(partial > 0), 0.0, 0.0, 0.0, 0.0, end_tokens]
    return [
        *first,
        1.0,
        log1p(gap_s),
        log1p(session.turns),
        float(partial > 0),
        _signed_log(tokens - session.tokens),
        _signed_log(session.growth_tokens),
        log1p(now - session.born_s),
        log1p(min(session.shortest_gap_s, gap_s)),
        end_tokens,
    ]


def _path_features(
    request: Request, path: list[Trail], session: Session | None, now: float
) -> list[float]:
    """How popular the known beginning of a prompt is, where it leaves the turn before, and how
    long the turns of its session are apart.
    """
    if not path:
        return [0.0] * 5
    opening_uses = path[1].uses if len(path) > 1 else 0  # behind what is common to most prompts
    found = [log1p(path[-1].fan_out), log1p(path[-1].uses), log1p(opening_uses)]
    if session is None:
        return [*found, 0.0, 0.0]
    block_tokens = request.hash_block_tokens
    left_out = max(0, -(-session.tokens // block_tokens) - path[-1].stop)
    scale = block_tokens / UNIT_TOKENS
    return [*found, log1p(scale * left_out), _statistics(log_gaps(session.times_s, now))[0]]


def _statistics(gaps: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the gaps that are there (`log_gaps`)."""
    known = gaps[: gaps.index(0.0)] if 0.0 in gaps else gaps
    if not known:
        return 0.0, 0.0
    mean = sum(known) / len(known)
    return mean, sqrt(sum([(gap - mean) ** 2 for gap in known]) / len(known))


def _place(start: int, stop: int, blocks: int, scale: float) -> list[float]:
    """Where a stretch lies in its prompt."""
    return [log1p(scale * count) for count in (start, stop - start, blocks - stop)]


def _trail_features(
    trail: Trail, gaps: list[float], blocks: int, scale: float, now: float
) -> list[float]:
    """What is known of a stretch that was used before, with its `log_gaps`."""
    return [
        0.0,
        log1p(trail.uses),
        log1p(trail.fan_out),
        *_place(trail.start, trail.stop, blocks, scale),
        log1p(now - trail.times_s[-1]),
        0.0,
        *_statistics(gaps),
        log1p((now - trail.times_s[0]) / len(trail.times_s)),
    ]


def _signed_log(value: float) -> float:
    return copysign(log1p(abs(value)), value)
