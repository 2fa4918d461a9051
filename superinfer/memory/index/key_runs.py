"""Runs of content ids that the same prompts share, so that what is kept of prompts is kept by run
and not by block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from superinfer.memory.index.keys import Key


class KeyRun:
    """Content ids that follow one another in prompts, from block `start` on."""

    __slots__ = ("names", "start")

    def __init__(self, names: tuple[Key, ...], start: int) -> None:
        self.names, self.start = names, start

    @property
    def stop(self) -> int:
        """The block behind the last one."""
        return self.start + len(self.names)

    def upper(self, stop: int) -> KeyRun:
        """Cut the run at block `stop`: it becomes the lower part. Returns the upper one."""
        blocks = stop - self.start
        part = KeyRun(self.names[:blocks], self.start)
        self.names, self.start = self.names[blocks:], stop
        return part


RunT = TypeVar("RunT", bound=KeyRun)


class KeyRuns(ABC, Generic[RunT]):
    """Runs, each found by its `head_of`: a prompt is a path of a few of them."""

    def _path(self, namespace: str, names: tuple[Key, ...]) -> list[RunT]:
        """The runs of the longest known beginning; the last one is cut where that ends."""
        path: list[RunT] = []
        block = 0
        while block < len(names):
            run = self._find(head_of(namespace, names[block]))
            if run is None or run.start != block:
                break
            if names[block : run.stop] != run.names:
                run = self._cut(namespace, run, block + _common(run.names, names, block))
            path.append(run)
            block = run.stop
        return path

    @abstractmethod
    def _find(self, head: object) -> RunT | None:
        """The run that is found by `head`."""

    @abstractmethod
    def _cut(self, namespace: str, run: RunT, stop: int) -> RunT:
        """Make two of a run, at block `stop`. Returns the upper one."""


def head_of(namespace: str, name: Key) -> object:
    """What a run that begins so is found by."""
    return (namespace, name) if namespace else name


def _common(own: tuple[Key, ...], names: tuple[Key, ...], block: int) -> int:
    """How many ids of a run, the first of which is there, a prompt has from `block` on."""
    same = 1
    while same < len(own) and block + same < len(names) and own[same] == names[block + same]:
        same += 1
    return same
