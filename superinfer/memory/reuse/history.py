"""What is remembered of prefixes, cached or not: who used them when (`trails.py`)."""

from __future__ import annotations

from typing import Final

from superinfer.memory.index.key_runs import KeyRuns, head_of
from superinfer.memory.index.keys import request_keys
from superinfer.memory.reuse.features import Prompt, Visit
from superinfer.memory.reuse.trails import COMMON_FAN_OUT, Trail
from superinfer.request import Request

KEYS: Final = 1 << 17
"""Content ids in the younger half of the memory; when it is full the older half is forgotten."""


class History(KeyRuns[Trail]):
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
        namespace, names = request.namespace, request_keys(request)
        path = self._path(namespace, names)
        prompt = Prompt(request, len(names), path, now)
        for trail in path:
            prompt.add_known(trail)
            trail.number = self._next()
        known = path[-1].stop if path else 0
        if path:
            self._use(namespace, path, known < len(names), prompt)
        stop = len(names)
        partial = bool(request.prompt_tokens % request.hash_block_tokens)
        full = stop - 1 if partial else stop
        # A partial end stands alone, and as new even where it was seen before.
        for start, end in ((known, full), (full, stop)):
            if start < end:
                trail = Trail(names[start:end], start, now, prompt.session, prompt.weight)
                trail.number = self._next()
                self._remember(namespace, trail)
                prompt.add_new(start, end, end > full)
        return prompt.visit

    # -- inside ---------------------------------------------------------------------------------

    def _next(self) -> int:
        """The number of one more stretch."""
        self._stretches += 1
        return self._stretches - 1

    def _find(self, head: object) -> Trail | None:
        found = self._young.get(head)
        return self._old.get(head) if found is None else found

    def _cut(self, namespace: str, run: Trail, stop: int) -> Trail:
        """The part that a prompt shares is young from now on; the rest stays as young as it was."""
        head = head_of(namespace, run.names[0])
        is_young = head in self._young
        upper = run.upper(stop)
        rest = head_of(namespace, run.names[0])
        if is_young:
            self._young[head], self._young[rest] = upper, run
        else:
            self._old[rest] = run
            self._remember(namespace, upper)
        return upper

    def _use(self, namespace: str, path: list[Trail], left: bool, prompt: Prompt) -> None:
        """A prompt has this known beginning, and leaves it if it has more than that."""
        if left:
            path[-1].fan_out += 1
        for trail in path:
            trail.use(prompt.visit.now_s, prompt.weight)
            if trail.fan_out < COMMON_FAN_OUT:
                trail.session = prompt.session
            if head_of(namespace, trail.names[0]) not in self._young:
                self._remember(namespace, trail)

    def _remember(self, namespace: str, trail: Trail) -> None:
        head = head_of(namespace, trail.names[0])
        before = self._young.get(head)
        self._young[head] = trail
        self._young_keys += len(trail.names) - (0 if before is None else len(before.names))
        if self._young_keys > self._keys:
            self._old, self._young, self._young_keys = self._young, {}, 0
