"""What is remembered of prefixes, cached or not: who used them when.

A *trail* is a run of blocks that the same requests used, so a prompt consists of a few trails. A
*session* is what continues one conversation: a prompt belongs to the session of the deepest trail
that it shares with an earlier one.
"""

from __future__ import annotations

import math
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


NO_GAPS: Final = [0.0] * (GAPS - 1)
NO_TIMES: Final = [0.0] * GAPS


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
        self.shortest_gap_s: float = math.inf
        if before is not None:
            self.past_gaps = [log_gap(now - before.last_s), *before.past_gaps[:-1]]
            self.uses = min(GAPS, before.uses + 1)
            self.turns = before.turns + 1
            self.growth_tokens = tokens - before.tokens
            self.born_s = before.born_s
            self.shortest_gap_s = min(before.shortest_gap_s, gap_s)


class Trail:
    """Blocks `[start, stop)` of prompts that were used by the same requests."""

    __slots__ = (
        "fan_out",
        "names",
        "number",
        "past_gaps",
        "session",
        "start",
        "stop",
        "times_s",
        "uses",
        "weights",
    )

    def __init__(
        self,
        names: tuple[Key, ...],
        start: int,
        now: float,
        session: Session,
        weight: float,
    ) -> None:
        self.names = names
        """Content ids of these blocks."""
        self.start = start
        self.stop = start + len(names)
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
        """Cut the trail: the blocks up to `stop` become one of their own."""
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


class History:
    """Trails by their first content id, with a bounded number of ids in all of them."""

    def __init__(self, keys: int = KEYS) -> None:
        self._keys = keys
        self._young: dict[object, Trail] = {}
        self._old: dict[object, Trail] = {}
        self._young_keys = 0
        """Content ids of all trails there."""
        self._stretches = 0
        """Of all visits."""

    def visit(self, request: Request, now: float) -> Visit:
        """Note that a prompt is used, and say what was known of it before."""
        names = request_keys(request)
        scale = request.hash_block_tokens / UNIT_TOKENS
        path = self._path(request.namespace, names)
        session, gap_s = _session(path, now)
        common = _prompt_features(request, len(names), path, session, gap_s, now)
        session_gaps, turns = NO_TIMES, 0
        if session is not None:
            session_gaps = gaps_at(session.last_s, session.past_gaps, now)
            turns = session.uses
        common += _path_features(request, path, session, session_gaps)
        visit = Visit(now, 0 if session is None else session.turns)
        own = request.slo_class.weight
        features, found_gaps = visit.features, visit.gaps
        for trail in path:
            last_s = trail.times_s[-1]
            gaps = gaps_at(last_s, trail.past_gaps, now)
            features += common
            features += _trail_features(trail, gaps, len(names), scale, now)
            found_gaps += session_gaps if len(trail.times_s) < turns else gaps
            weight, waited_s = trail.weight(now, own), now - last_s
            visit.add(trail.start, trail.stop, weight, waited_s, trail.number)
            trail.number = self._next()
        after = Session(now, request.prompt_tokens, session, gap_s)
        known = path[-1].stop if path else 0
        if path:
            self._use(request.namespace, path, known < len(names), after, now, own)
        stop = len(names)
        partial = bool(request.prompt_tokens % request.hash_block_tokens)
        full = stop - 1 if partial else stop
        # A partial end stands alone, and as new even where it was seen before.
        for start, end in ((known, full), (full, stop)):
            if start >= end:
                continue
            trail = Trail(names[start:end], start, now, after, own)
            trail.number = self._next()
            self._remember(request.namespace, trail)
            features += common
            features += [1.0, 0.0, 0.0, *_place(start, end, stop, scale), 0.0]
            features += [float(end > full), 0.0, 0.0, 0.0]
            found_gaps += session_gaps
            visit.add(start, end, own)
        return visit

    # -- inside ---------------------------------------------------------------------------------

    def _next(self) -> int:
        """The number of one more stretch."""
        self._stretches += 1
        return self._stretches - 1

    def _path(self, namespace: str, names: tuple[Key, ...]) -> list[Trail]:
        """The trails of the longest known beginning; the last one is cut where that ends.

        Chained ids belong to one place in their prompts.
        """
        path: list[Trail] = []
        block = 0
        while block < len(names):
            trail = self._find(_head(namespace, names[block]))
            if trail is None or trail.start != block:
                break
            if names[block : trail.stop] != trail.names:
                trail = self._cut(namespace, trail, names)
            path.append(trail)
            block = trail.stop
        return path

    def _cut(self, namespace: str, trail: Trail, names: tuple[Key, ...]) -> Trail:
        """The part of a trail that a prompt shares; the rest stays as young as it was."""
        own, start = trail.names, trail.start
        same = 1
        while same < len(own) and start + same < len(names) and own[same] == names[start + same]:
            same += 1
        head = _head(namespace, own[0])
        is_young = head in self._young
        part = trail.upper(start + same)
        if is_young:
            self._young[head] = part
            self._young[_head(namespace, own[same])] = trail
        else:
            self._old[_head(namespace, own[same])] = trail
            self._remember(namespace, part)
        return part

    def _use(
        self,
        namespace: str,
        path: list[Trail],
        left: bool,
        session: Session,
        now: float,
        weight: float,
    ) -> None:
        """A prompt has this known beginning, and leaves it if it has more than that."""
        if left:
            path[-1].fan_out += 1
        for trail in path:
            trail.use(now, weight)
            if trail.fan_out < COMMON_FAN_OUT:
                trail.session = session
            if _head(namespace, trail.names[0]) not in self._young:
                self._remember(namespace, trail)

    def _find(self, name: object) -> Trail | None:
        found = self._young.get(name)
        return self._old.get(name) if found is None else found

    def _remember(self, namespace: str, trail: Trail) -> None:
        head = _head(namespace, trail.names[0])
        before = self._young.get(head)
        self._young[head] = trail
        self._young_keys += len(trail.names) - (0 if before is None else len(before.names))
        if self._young_keys > self._keys:
            self._old, self._young, self._young_keys = self._young, {}, 0


def log_gap(gap_s: float) -> float:
    """`log(1 + gap)` and a little more, so that it is never 0."""
    return log1p(gap_s) + 0.01


def gaps_at(last_s: float, past_gaps: list[float], now: float) -> list[float]:
    """`log_gap` of the latest gaps, that which ends now included."""
    return [log_gap(now - last_s), *past_gaps]


def _head(namespace: str, name: Key) -> object:
    """What a trail that begins so is found by."""
    return (namespace, name) if namespace else name


def _session(path: list[Trail], now: float) -> tuple[Session | None, float]:
    """The session that a prompt goes on with, and the seconds since its last turn."""
    if not path or path[-1].fan_out >= COMMON_FAN_OUT:
        return None, 0.0
    return path[-1].session, now - path[-1].times_s[-1]


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
    first = [
        log1p(scale * blocks),
        log1p(scale * matched),
        log1p(scale * (blocks - matched)),
        log1p(tokens),
    ]
    end_tokens = log1p((tokens - 1) % request.hash_block_tokens)
    if session is None:
        return [*first, 0.0, 0.0, 0.0, partial, 0.0, 0.0, 0.0, 0.0, end_tokens]
    return [
        *first,
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
    found = [log1p(last.fan_out), log1p(last.uses), log1p(opening_uses)]
    if session is None:
        return [*found, 0.0, 0.0]
    block_tokens = request.hash_block_tokens
    left_out = max(0, -(-session.tokens // block_tokens) - last.stop)
    scale = block_tokens / UNIT_TOKENS
    return [*found, log1p(scale * left_out), _statistics(session_gaps)[0]]


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
        squares += (gaps[place] - mean) ** 2
    return mean, sqrt(squares / count)


def _place(start: int, stop: int, blocks: int, scale: float) -> list[float]:
    """Where a stretch lies in its prompt."""
    return [log1p(scale * start), log1p(scale * (stop - start)), log1p(scale * (blocks - stop))]


def _trail_features(
    trail: Trail, gaps: list[float], blocks: int, scale: float, now: float
) -> list[float]:
    """What is known of a stretch that was used before, with its gaps."""
    mean, spread = _statistics(gaps)
    times_s = trail.times_s
    return [
        0.0,
        log1p(trail.uses),
        log1p(trail.fan_out),
        *_place(trail.start, trail.stop, blocks, scale),
        log1p(now - times_s[-1]),
        0.0,
        mean,
        spread,
        log1p((now - times_s[0]) / len(times_s)),
    ]


def _signed_log(value: float) -> float:
    return copysign(log1p(abs(value)), value)
