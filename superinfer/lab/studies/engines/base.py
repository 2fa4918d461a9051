"""What an engine of a study is: something that runs tasks elsewhere and survives their deaths."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

ATTEMPTS = 2
"""A task whose process died is given to another one, once."""
TICK_S = 0.25
"""How long an engine waits between two looks at its tasks."""

Tick = Callable[[list[int]], None]
"""Takes the numbers of the tasks under way, a few times per second."""


@dataclass(slots=True, frozen=True)
class Died:
    """In place of an answer: the process of the task died each time."""


def no_tick(running: list[int]) -> None:
    """A tick that nobody hears."""


class StudyEngine(Protocol):
    """Where the runs of a study are made."""

    @property
    def shares_files(self) -> bool:
        """Whether a task finds and leaves files where this process would; else it sends them."""

    def session(self) -> AbstractContextManager[None]:
        """For the time of the block, keep what several `run` need, such as a connection."""

    def run(
        self, function: Callable[[Task], Answer], tasks: Sequence[Task], tick: Tick = no_tick
    ) -> Generator[tuple[int, Answer | Died], None, None]:
        """Yield the number of each task and `function(task)`, in the order in which they end.

        `function` must be importable where tasks run, tasks and answers picklable; what `function`
        raises is raised here. Closing the iterator, an exception and the death of this process stop
        all tasks.
        """
