"""The life of a request, written from its events: phases, chunks of its prompt, and moments.

`superinfer.lab.timelines.replay` says from when an event counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

QUEUED, PREFILL, RECOMPUTE, DECODE = "queued", "prefill", "recompute", "decode"
PREEMPTED, SWAPPED, MOVING_OUT, MOVING_IN = "preempted", "swapped", "moving out", "moving in"

ENDS = {
    "finish": "finished",
    "fail": "failed",
    "reject": "rejected",
    "cancel": "cancelled",
    "unfinished": "unfinished",
}
"""Events that end a request, and their outcomes."""
RESULTS = ("first_token", *ENDS)
"""What comes right behind the step that brought it."""
DIRECTIONS = {
    "rotate_out": "d2h",
    "rotate_in": "h2d",
    "load": "h2d",
    "backup": "d2h",
    "write_through": "d2h",
    "offload": "d2h",
}
"""Events that start a copy, and where it goes."""
PLANNED = ("admit", "preempt", *DIRECTIONS)
"""Events that carry out a plan."""
_TOLD = frozenset(("submit", "transfer", "evict", *RESULTS, *PLANNED))
"""All other events of a request are shown as moments."""


@dataclass(slots=True)
class Span:
    """A named stretch of time in the life of a request, or a moment where both ends are equal."""

    start_s: float
    end_s: float
    name: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Story:
    """One request from its arrival to its end; its phases follow each other without a gap."""

    request_id: str
    start_s: float
    prompt_tokens: int
    max_tokens: int
    end_s: float = inf
    outcome: str = "unfinished"
    detail: object = None
    """Output tokens; for a rejected or failed request the rule."""
    phases: list[Span] = field(default_factory=list)
    chunks: list[Span] = field(default_factory=list)
    moments: list[Span] = field(default_factory=list)


class Life:
    """Writes one story."""

    def __init__(self, story: Story, block_tokens: int) -> None:
        self.story = story
        self.ended = False
        self._block_tokens = block_tokens
        self._phase, self._since_s = QUEUED, story.start_s
        self._resumed = PREFILL
        """The phase that goes on when the cache is back."""
        self._nearly_tokens = 0
        """A prefill that computed more than this has reached its last block."""
        self._complete_s = inf
        """When a recomputation was complete, unless more of it follows."""

    def read(self, kind: str, t: float, numbers: tuple[Any, ...]) -> None:
        """Take in one event that counts from time `t`."""
        if kind not in _TOLD:
            self.story.moments.append(Span(t, t, kind, {"numbers": list(numbers)}))
        elif self.ended:
            return
        elif kind == "first_token":
            self.story.moments.append(Span(t, t, "first token"))
            self._enter(DECODE, t)
        elif kind in ENDS:
            self.end(ENDS[kind], numbers[0] if numbers else None, t)
        else:
            self._move(kind, t, numbers)

    def compute(self, start_s: float, end_s: float, tokens: int, context: int) -> None:
        """A step computed part of the prompt (or, again, of prompt and answer)."""
        start_s = max(start_s, self._since_s)
        if self.ended or start_s > end_s:
            return
        args = {"tokens": tokens, "context_tokens": context}
        self.story.chunks.append(Span(start_s, end_s, "chunk", args))
        reached = context + tokens > self._nearly_tokens
        self._complete_s = end_s if reached else inf

    def end(self, outcome: str, detail: object, t: float) -> None:
        """The request leaves."""
        self._enter("", t)
        self.ended = True
        self.story.end_s, self.story.outcome, self.story.detail = self._since_s, outcome, detail

    def _move(self, kind: str, t: float, numbers: tuple[Any, ...]) -> None:
        """A decision on where the request's cache is, or its end."""
        if kind == "admit":
            blocks, prefix_tokens = numbers
            self._nearly_tokens = (blocks - 1) * self._block_tokens + prefix_tokens
            self._complete_s = inf
            self._enter(RECOMPUTE if self._phase == PREEMPTED else PREFILL, t)
        elif kind == "preempt":
            self._enter(PREEMPTED, t)
        elif kind == "rotate_out":
            self._resumed = self._enter(MOVING_OUT, t)
        elif kind == "rotate_in":
            self._enter(MOVING_IN, t)
        elif kind == "load":
            self._resumed = self._enter(MOVING_IN, t)
        elif kind == "transfer":
            self._enter(SWAPPED if self._phase == MOVING_OUT else self._resumed, t)

    def _enter(self, phase: str, t: float) -> str:
        """End the present phase at `t` (never before it began), start another, return the ended."""
        t = max(t, self._since_s)
        if self._phase == RECOMPUTE and self._complete_s < t:
            self._add(RECOMPUTE, self._complete_s)
            self._phase = DECODE
        self._add(self._phase, t)
        ended, self._phase = self._phase, phase
        return ended

    def _add(self, phase: str, end_s: float) -> None:
        if end_s > self._since_s:
            self.story.phases.append(Span(self._since_s, end_s, phase))
        self._since_s = max(self._since_s, end_s)
