"""What rank 0 sends to the others, and how."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from executor.kv.tables import BlockTable
from executor.models import Group
from executor.ranks.histories import Histories, Names
from executor.steps.inputs import ChunkRows, DecodeRow
from executor.steps.runner import Batch

PATIENCE = timedelta(days=30)
"""How long ranks wait for orders."""


class Channel:
    """Orders from rank 0 to the others, in order."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._handle = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        """True on rank 0."""
        return self.group.rank == 0

    def send(self, order: Any) -> None:
        """Tell the others."""
        dist.broadcast_object_list([order], src=0, group=self._handle)

    def receive(self) -> Any:
        """What rank 0 says next."""
        box = [None]
        dist.broadcast_object_list(box, src=0, group=self._handle)
        return box[0]

    def least(self, number: int) -> int:
        """The least of the numbers that the ranks have."""
        box = torch.tensor(number)
        dist.all_reduce(box, op=dist.ReduceOp.MIN, group=self._handle)
        return int(box)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the other ranks know of a background transfer."""

    number: int
    timing: str = "background"


@dataclass(slots=True)
class Rows:
    """A batch with its tables as arrays."""

    lengths: list[int]
    tokens: list[int]
    chunks: list[tuple[int, Any, bool]]
    counts: list[int]
    """Blocks of each table, those of decodes first."""
    offsets: np.ndarray[Any, Any]
    bits: np.ndarray[Any, Any]
    sampling: Any
    """With names in place of what penalties count."""
    over: list[int]
    """Names that are heard no more."""

    @classmethod
    def of(cls, batch: Batch, block_tokens: int, names: Names) -> Rows:
        """What the others need of a batch."""
        ends = [row.length for row in batch.decodes]
        ends += [chunk.context + len(chunk.tokens) for chunk in batch.chunks]
        counts = [-(-end // block_tokens) for end in ends]
        tables = [row.table for row in batch.decodes] + [chunk.table for chunk in batch.chunks]
        held = list(zip(tables, counts, strict=True))
        return cls(
            ends[: len(batch.decodes)],
            [row.token for row in batch.decodes],
            [(c.context, np.asarray(c.tokens), c.wants_logits) for c in batch.chunks],
            counts,
            np.concatenate([table.offsets[:count] for table, count in held]),
            np.concatenate([table.bits[:count] for table, count in held]),
            batch.sampling and names.named(batch.sampling),
            names.over(),
        )

    def batch(self, histories: Histories) -> Batch:
        """The batch once more."""
        histories.forget(self.over)
        tables, first = [], 0
        for count in self.counts:
            table = BlockTable(count)
            table.append(self.offsets[first : first + count], 16)
            table.bits[:] = self.bits[first : first + count]
            tables.append(table)
            first += count
        decodes = zip(tables, self.lengths, self.tokens, strict=False)
        chunks = zip(tables[len(self.lengths) :], self.chunks, strict=True)
        return Batch.of(
            [DecodeRow(table, length, token) for table, length, token in decodes],
            [ChunkRows(table, *chunk) for table, chunk in chunks],
            self.sampling and histories.found(self.sampling),
        )
