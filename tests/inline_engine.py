"""An engine of studies for tests: tasks run in this process; a worker takes longer to start."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from superinfer.lab.studies.engines.base import Answer, Died, Task, Tick, no_tick


@dataclass
class Inline:
    """Runs tasks one after the other, and counts them."""

    shares_files: bool = True
    dies_at: int = -1
    """Number of the task, over all studies, at which this process gets KeyboardInterrupt."""
    kills: int = -1
    """Number of the task whose process dies."""
    tasks: list[object] = field(default_factory=list)

    def session(self) -> AbstractContextManager[None]:
        """As `StudyEngine.session`."""
        return nullcontext()

    def run(
        self, function: Callable[[Task], Answer], tasks: Sequence[Task], tick: Tick = no_tick
    ) -> Generator[tuple[int, Answer | Died], None, None]:
        """As `StudyEngine.run`."""
        for number, task in enumerate(tasks):
            tick([number])
            if len(self.tasks) == self.dies_at:
                raise KeyboardInterrupt
            self.tasks.append(task)
            dies = len(self.tasks) - 1 == self.kills
            yield number, Died() if dies else function(task)
