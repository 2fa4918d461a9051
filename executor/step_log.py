"""What each step of a run computed, and how long it took: `steps.parquet` of its result folder.

Whoever asks why a simulation of the run is off finds the steps that are (`validation.steps`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from superinfer.costs.base import Chunk, CostModel
from superinfer.errors import InputError
from superinfer.lab.columns import Lists, read_table
from superinfer.plan import Plan, Work


@dataclass(frozen=True, slots=True)
class Step:
    """What a step computed, and how long it took from boundary to boundary."""

    chunks: tuple[Chunk, ...]
    decodes: int
    context_tokens: int
    seconds: float
    replay_s: float | None = None
    """Of that on the device, where the step is replayed from a graph."""
    queued_s: float | None = None
    """What it takes where the next step is queued before it is over, as with lag 1."""

    @property
    def work(self) -> Work:
        """What a cost model prices."""
        return Work(self.chunks, self.decodes, self.context_tokens)

    @property
    def tokens(self) -> int:
        """Rows that it computes, padding aside."""
        return self.decodes + sum(chunk.tokens for chunk in self.chunks)

    @property
    def sequences(self) -> int:
        """Requests in it."""
        return self.decodes + len(self.chunks)

    def device_s(self, cost: CostModel) -> float:
        """Seconds that the cost model gives its kernels."""
        return cost.step_s(*self.work)


class Logged(NamedTuple):
    """A step, and what it may have had to wait for."""

    step: Step
    waited_bytes: int
    """Copied or rewritten with fewer bits before it: its batch waits for that."""


@dataclass(slots=True)
class StepLog:
    """Steps in their order, a list for each column."""

    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    decodes: list[int] = field(default_factory=list)
    context_tokens: list[int] = field(default_factory=list)
    waited_bytes: list[int] = field(default_factory=list)
    chunk_ends: list[int] = field(default_factory=list)
    """Of each step in the two lists below."""
    chunk_tokens: list[int] = field(default_factory=list)
    chunk_context_tokens: list[int] = field(default_factory=list)

    def add(self, ran: Work, waited_bytes: int, start_s: float, end_s: float) -> None:
        """What a step computed, and what it may have waited for; nothing if everybody in it had
        ended.
        """
        if not (ran.decodes or ran.chunks):
            return
        self.start_s.append(start_s)
        self.end_s.append(end_s)
        self.decodes.append(ran.decodes)
        self.context_tokens.append(ran.context_tokens)
        self.waited_bytes.append(waited_bytes)
        for chunk in ran.chunks:
            self.chunk_tokens.append(chunk.tokens)
            self.chunk_context_tokens.append(chunk.context_tokens)
        self.chunk_ends.append(len(self.chunk_tokens))

    def steps(self) -> list[Step]:
        """All that were added."""
        chunks = list(map(Chunk, self.chunk_tokens, self.chunk_context_tokens))
        spans = zip([0, *self.chunk_ends], self.chunk_ends, strict=False)
        own = (tuple(chunks[begin:end]) for begin, end in spans)
        seconds = (end - start for start, end in zip(self.start_s, self.end_s, strict=True))
        return list(map(Step, own, self.decodes, self.context_tokens, seconds))

    def columns(self) -> dict[str, Any]:
        """For `superinfer.lab.columns.write_columns`."""
        return {
            "start_s": np.array(self.start_s, np.float64),
            "end_s": np.array(self.end_s, np.float64),
            "decodes": np.array(self.decodes, np.int64),
            "context_tokens": np.array(self.context_tokens, np.int64),
            "chunk_tokens": Lists(self.chunk_ends, self.chunk_tokens),
            "chunk_context_tokens": Lists(self.chunk_ends, self.chunk_context_tokens),
            "waited_bytes": np.array(self.waited_bytes, np.int64),
        }


def waited_bytes(plan: Plan) -> int:
    """What a plan copies or rewrites before its first step."""
    copied = sum(copy.nbytes for copy in plan.before_step)
    return copied + sum(job.nbytes for job in plan.requantised)


def read_steps(path: Path) -> list[Logged]:
    """The steps of a `steps.parquet`; InputError where there is none, it is damaged, or it holds
    something else.
    """
    rows = read_table(path).to_pylist()
    try:
        return [_logged(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("expected the record of a run's steps", file=str(path)) from error


def _logged(row: dict[str, Any]) -> Logged:
    pairs = zip(row["chunk_tokens"], row["chunk_context_tokens"], strict=True)
    seconds = row["end_s"] - row["start_s"]
    if not 0 <= seconds < inf:
        raise ValueError(seconds)
    chunks = tuple(Chunk(tokens, context) for tokens, context in pairs)
    step = Step(chunks, row["decodes"], row["context_tokens"], seconds)
    return Logged(step, row["waited_bytes"])
