"""A cache of ids alone, which shows what LRU would hit."""

from __future__ import annotations

from collections import OrderedDict

from superinfer.memory.index.key_runs import KeyRun, KeyRuns, head_of
from superinfer.memory.index.keys import request_keys
from superinfer.request import Request


class ShadowLru(KeyRuns[KeyRun]):
    """Runs of content ids in the order of their last use; of one prompt the deepest was used first.

    Whatever goes from the old end is a leaf of the prefix tree then, for the blocks above a block
    were last used with it or later. So this hits what `replay.CacheReplay` hits with `LruOrder`,
    without a tree.
    """

    def __init__(self) -> None:
        self._heads: dict[object, KeyRun] = {}
        self._order: OrderedDict[KeyRun, object] = OrderedDict()
        """The same, with what each is found by."""
        self._ids = 0

    def serve(self, request: Request, capacity: int) -> int:
        """Look up and insert a prompt, then keep so many ids; returns the leading ones it found."""
        names, namespace, order = request_keys(request), request.namespace, self._order
        path = self._path(namespace, names)
        hits = path[-1].stop if path else 0
        if hits < len(names):
            self._add(KeyRun(names[hits:], hits), namespace)
            self._ids += len(names) - hits
        for run in reversed(path):
            order.move_to_end(run)
        while self._ids > capacity:
            self._trim(self._ids - capacity)
        return hits

    # -- inside ---------------------------------------------------------------------------------

    def _find(self, head: object) -> KeyRun | None:
        return self._heads.get(head)

    def _cut(self, namespace: str, run: KeyRun, stop: int) -> KeyRun:
        """The part that a prompt shares becomes a run of its own; the rest keeps its age."""
        upper = run.upper(stop)
        self._add(run, namespace)
        self._add(upper, namespace)
        return upper

    def _add(self, run: KeyRun, namespace: str) -> None:
        head = head_of(namespace, run.names[0])
        self._heads[head], self._order[run] = run, head

    def _trim(self, ids: int) -> None:
        """Forget so many ids of the oldest run, or all of it."""
        run = next(iter(self._order))
        kept = len(run.names) - ids
        if kept > 0:
            run.names = run.names[:kept]
            self._ids -= ids
            return
        self._ids -= len(run.names)
        head = self._order.pop(run)
        if self._heads.get(head) is run:
            del self._heads[head]
