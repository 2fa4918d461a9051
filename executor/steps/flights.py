"""What is left to do of plans, and the steps on the device whose tokens nobody has read."""

from __future__ import annotations

from dataclasses import dataclass, field

from executor.steps.packing import Array
from executor.steps.runner import Batch, Launched
from superinfer.costs.base import Chunk
from superinfer.plan import Plan, PrefillChunk
from superinfer.plan import Work as Ran
from superinfer.sequence import Sequence


@dataclass(slots=True, eq=False)
class Work:
    """What the device has to do for a plan."""

    members: list[Sequence]
    """Who decodes, in the order of rows."""
    lengths: Array
    """int64: keys of each after the first step's write."""
    chunks: list[PrefillChunk]
    launched: int = 0
    """Steps that are on the device or over."""
    planned_tokens: int = field(init=False)
    """Keys of all members after the first step's write, those who leave early included."""

    def __post_init__(self) -> None:
        """Add up the keys."""
        self.planned_tokens = int(self.lengths.sum())

    def ran(self, plan: Plan, step: int, batch: Batch) -> Ran:
        """A step as it was launched, in the terms of a cost model: blocks of fewer bits make
        contexts lighter, of whoever is left as of all.
        """
        chunks = tuple(Chunk(len(chunk.tokens), chunk.context) for chunk in batch.chunks)
        context = plan.context_tokens + step * plan.decodes
        if len(batch.decodes) < plan.decodes:
            planned = self.planned_tokens + step * plan.decodes
            context = round(context * int(batch.decodes.lengths.sum()) / planned)
        return Ran(chunks, len(batch.decodes), context)


@dataclass(slots=True, eq=False)
class Flight:
    """A step on the device whose tokens nobody has read."""

    launched: Launched
    giving: list[Sequence]
    """Who gets a token, in the order of the outputs."""
    ran: Ran
    """What it computes: without those who ended, or were given up, since it was planned."""
    entries: dict[Sequence, int] = field(init=False)

    def __post_init__(self) -> None:
        """Number the outputs."""
        self.entries = {seq: entry for entry, seq in enumerate(self.giving)}
