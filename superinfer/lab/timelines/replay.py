"""What an event log says about time: steps, copies and the phases of requests, with start and end.

Events carry one time each (`superinfer.events`), so the rest is put back together here:

* a step starts where the one before ended, where its plan was made if the device was idle, or where
  the copies that it waits for ended;
* with lag 1 a plan is made while the step before it runs: its decisions count from the end of it;
* a copy in the background ended when it landed and took what `copy_s` says; one that a step waits
  for starts when the device is free.

A request that a scheduler parks stays in its phase: parking is no event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from superinfer.events import Event
from superinfer.lab.timelines.stories import DIRECTIONS, ENDS, PLANNED, RESULTS, Life, Story

CopySeconds = Callable[[int, str], float]
"""Seconds that copying so many blocks in a direction, `d2h` or `h2d`, takes."""

_STEP = ("prefill", "decode")
_TIE = 1e-12
"""Times that differ by less than this share are the same moment."""


@dataclass(slots=True)
class Step:
    """One engine iteration."""

    end_s: float
    start_s: float = -inf
    decodes: int = 0
    """Sequences that decoded."""
    context_tokens: int = 0
    """Their summed context."""
    chunks: list[tuple[str, int, int]] = field(default_factory=list)
    """Request, tokens computed, tokens of context before them."""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed in this step."""
        return sum(tokens for _, tokens, _ in self.chunks)


@dataclass(slots=True)
class Copy:
    """One copy of KV cache; no longer than a moment where its length is unknown."""

    start_s: float
    end_s: float
    direction: str
    request_id: str
    """Empty for cached blocks that no request asked to copy."""
    blocks: int
    background: bool
    written_through: bool = False
    """True for full blocks of running requests, copied ahead of need."""


@dataclass(slots=True)
class Replay:
    """Everything that a log tells, each list in order of time."""

    steps: list[Step] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    stories: list[Story] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    """Requests without device memory to run on, at every change."""
    evictions: list[tuple[float, int]] = field(default_factory=list)
    """Cached blocks reclaimed."""
    end_s: float = 0.0


def replay(
    events: Sequence[Event],
    shown: Collection[str],
    *,
    lag: int = 0,
    block_tokens: int = 1,
    copy_s: CopySeconds | None = None,
    full_duplex: bool = False,
) -> Replay:
    """Put a log, in the order of emission, back together; stories of the requests `shown` only.

    `block_tokens` tells a finished recomputation from one that was preempted half-way; with 1 every
    one counts as finished. `full_duplex` says how copies run that a step waits for (`plan.Plan`).
    """
    landings = _landings(events)
    return _Replayer(frozenset(shown), lag, block_tokens, copy_s, full_duplex, landings).run(events)


class _Replayer:
    """One pass over a log."""

    def __init__(
        self,
        shown: frozenset[str],
        lag: int,
        block_tokens: int,
        copy_s: CopySeconds | None,
        full_duplex: bool,
        landings: Mapping[int, Event],
    ) -> None:
        self._shown, self._lag = shown, lag
        self._block_tokens, self._copy_s, self._full_duplex = block_tokens, copy_s, full_duplex
        self._landings = landings
        self._found = Replay()
        self._lives: dict[str, Life] = {}
        self._waiting: set[str] = set()
        self._step: Step | None = None
        """The step whose events are being read."""
        self._free_s = -inf
        """When the device is through with all steps, and the copies before them, so far."""
        self._planned_s = -inf
        self._ahead: list[tuple[int, Event]] = []
        """Decisions that count from the end of the step on the device."""
        self._step_over = False
        """True once that step has been read."""
        self._link_free_s: dict[tuple[str, bool], float] = {}
        self._background: dict[str, list[tuple[float, float]]] = {"d2h": [], "h2d": []}
        """When background copies of a direction were decided and when they were through."""

    def run(self, events: Sequence[Event]) -> Replay:
        """Read all events, then end what is still open."""
        for number, event in enumerate(events):
            if event[1] in _STEP:
                self._read_step(event)
            else:
                self._close_step()
                self._read(number, event)
        self._close_step()
        self._release()
        return self._finish()

    def _finish(self) -> Replay:
        found, lives = self._found, self._lives.values()
        ends = [life.story.end_s for life in lives if life.ended]
        ends += [copy.end_s for copy in found.copies] + [t for t, _ in found.waiting]
        found.end_s = max([0.0, self._free_s, *ends])
        for life in lives:
            if not life.ended:
                life.end("unfinished", None, found.end_s)
        found.stories = [life.story for life in lives]
        found.waiting.sort(key=lambda sample: sample[0])
        return found

    # -- steps ----------------------------------------------------------------------------------

    def _read_step(self, event: Any) -> None:
        end_s, kind, request_id, first, second = event
        if self._step is not None and self._step.end_s != end_s:
            self._close_step()
        if self._step is None:
            if self._step_over or self._admits_ahead(request_id):
                self._release()
            self._step = Step(end_s)
        if kind == "prefill":
            self._step.chunks.append((request_id, first, second))
        else:
            self._step.decodes, self._step.context_tokens = first, second
            self._close_step()

    def _admits_ahead(self, request_id: str) -> bool:
        """True if the step runs a request that is still to be admitted: nothing ran meanwhile."""
        return any(item[1] == "admit" and item[2] == request_id for _, item in self._ahead)

    def _close_step(self) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        step.start_s = min(max(self._free_s, self._planned_s), step.end_s)
        self._free_s = step.end_s
        self._step_over = bool(self._ahead)
        self._found.steps.append(step)
        for request_id, tokens, context in step.chunks:
            life = self._lives.get(request_id)
            if life is not None:
                life.compute(step.start_s, step.end_s, tokens, context)

    # -- everything else ------------------------------------------------------------------------

    def _read(self, number: int, event: Any) -> None:
        t, kind = event[0], event[1]
        if self._step_over and kind not in RESULTS:
            self._release()
        if kind not in PLANNED:
            if kind == "transfer":  # an idle device waited for it
                self._planned_s = max(self._planned_s, t)
            self._tell(event, t)
        elif self._lag and t <= self._free_s + abs(self._free_s) * _TIE:
            self._ahead.append((number, event))
        else:
            self._planned_s = max(self._planned_s, t)
            self._decide(number, event, t)

    def _release(self) -> None:
        """The step on the device is over: what was decided meanwhile begins."""
        self._step_over = False
        ahead, self._ahead = self._ahead, []
        now = self._free_s
        for number, event in ahead:
            self._decide(number, event, now)

    def _decide(self, number: int, event: Any, t: float) -> None:
        if event[1] not in DIRECTIONS:
            self._tell(event, t)
            return
        copy = self._copy(event, t, self._landings.get(number))
        self._found.copies.append(copy)
        self._tell(event, t if copy.background else copy.start_s)
        if not copy.background:
            self._tell((copy.end_s, "transfer", *event[2:]), copy.end_s)

    def _copy(self, event: Any, t: float, landing: Any) -> Copy:
        _, kind, request_id, blocks = event
        direction, background = DIRECTIONS[kind], landing is not None
        earliest_s = max(t, self._link_free_s.get((direction, background), -inf))
        if background:
            landed_s, _, _, blocks = landing
            seconds = self._copy_s(blocks, direction) if self._copy_s else inf
            end_s = max(landed_s, earliest_s)
            start_s = max(earliest_s, end_s - seconds)
            self._background[direction].append((event[0], end_s))
        else:
            own_s = self._link_free_s.get((direction, background), -inf)
            waited_s = max(event[0], own_s) if self._full_duplex else max(earliest_s, self._free_s)
            start_s = max(waited_s, self._behind_s(direction, event[0]))
            seconds = self._copy_s(blocks, direction) if self._copy_s else 0.0
            end_s = start_s + seconds
            self._free_s = max(self._free_s, end_s)
        self._link_free_s[direction, background] = end_s
        written = kind == "write_through"
        return Copy(start_s, end_s, direction, request_id, blocks, background, written)

    def _behind_s(self, direction: str, decided_s: float) -> float:
        """When the background copies that were decided before are through; a step's own copies come
        before those of the same decision.
        """
        earlier = (end for at, end in reversed(self._background[direction]) if at < decided_s)
        return next(earlier, -inf)

    def _tell(self, event: Any, t: float) -> None:
        kind, request_id = event[1], event[2]
        if kind == "evict":
            self._found.evictions.append((t, event[3]))
        elif kind == "submit" and request_id in self._shown:
            self._lives[request_id] = Life(Story(request_id, t, *event[3:]), self._block_tokens)
        elif request_id in self._lives:
            self._lives[request_id].read(kind, t, event[3:])
        self._count(kind, request_id, t)

    def _count(self, kind: str, request_id: str, t: float) -> None:
        before = len(self._waiting)
        if kind in ("submit", "preempt", "rotate_out"):
            self._waiting.add(request_id)
        elif kind in ("admit", "rotate_in") or kind in ENDS:
            self._waiting.discard(request_id)
        if len(self._waiting) != before:
            self._found.waiting.append((t, len(self._waiting)))


def _landings(events: Sequence[Event]) -> dict[int, Event]:
    """The landing of the copy that an event started, by the number of that event."""
    started: dict[object, int] = {}
    backups: deque[int] = deque()
    """They have no request and land in the order in which they started."""
    found: dict[int, Event] = {}
    for number, event in enumerate(events):
        if event[1] in {"backup", "write_through"}:
            backups.append(number)
        elif event[1] in DIRECTIONS:
            started[event[2]] = number
        elif event[1] == "transfer" and not event[2]:
            found[backups.popleft()] = event
        elif event[1] == "transfer" and event[2] in started:
            found[started.pop(event[2])] = event
    return found
