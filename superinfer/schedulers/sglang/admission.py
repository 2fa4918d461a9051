"""Filling one prefill batch. Source: `PrefillAdder` in `managers/schedule_policy.py` at v0.4.6.

The blocks of a whole prompt are taken when its first chunk is admitted, there chunk by chunk; as
nobody is admitted before the last chunk, that changes no decision.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from superinfer.draft import Draft
from superinfer.memory.index.node import Node
from superinfer.schedulers.sglang.order import stops
from superinfer.sequence import Sequence, State


class Verdict(Enum):
    """What came of trying to add a request."""

    MORE = auto()
    """Try the next one."""
    NO_TOKEN = auto()
    """Memory is spent: the running batch counts as full."""
    OTHER = auto()
    """The budget of the step is spent."""


class PrefillBatch:
    """Budgets of one prefill batch, and who is in it."""

    __slots__ = (
        "_block_tokens",
        "_draft",
        "_input_left",
        "_reserved",
        "chunk_left",
        "seqs",
        "tail",
    )

    def __init__(
        self, draft: Draft, block_tokens: int, input_tokens: int, chunk_tokens: float
    ) -> None:
        self._draft = draft
        self._block_tokens = block_tokens
        self._input_left = input_tokens
        self._reserved = 0.0
        self.chunk_left = chunk_tokens
        self.seqs: list[Sequence] = []
        self.tail: Sequence | None = None
        """The one whose prompt is cut, if there is one."""

    def reserve(self, tokens: float) -> None:
        """Keep memory for what runs already."""
        self._reserved += tokens

    def share_with_decodes(self, decodes: int) -> None:
        """Mixed batch: each decode takes a token of every budget."""
        self._input_left -= decodes
        self.chunk_left -= decodes
        self._reserved += decodes

    def go_on(self, seq: Sequence, limit_tokens: int) -> None:
        """The next chunk of a prompt that was cut before, ahead of everybody else."""
        left = seq.prefill_tokens - seq.computed_tokens
        tokens = min(left, max(1, int(self.chunk_left)))
        self._draft.prefill(seq, tokens)
        self.seqs.append(seq)
        self._spend(tokens)
        if tokens < left:
            self.tail = seq
        else:
            self._reserved += limit_tokens

    def add(self, seq: Sequence, limit_tokens: int, node: Node | None) -> Verdict:
        """Admit a waiting request whose cached prefix ends at `node`, if budgets and memory allow.

        Memory is needed for all that is not on the device, also for what the host has of it.
        Locking the prefix takes it out of what could be evicted, so memory is looked at twice.
        """
        found, here = stops(node)
        to_fill = seq.prefill_tokens - here * self._block_tokens
        need = to_fill + limit_tokens
        if need >= self._memory_left():
            return Verdict.NO_TOKEN
        if self._in_blocks(to_fill) > self._input_left and self.seqs:
            return Verdict.OTHER
        if need > self._memory_left() - self._unlocked(node):
            return Verdict.NO_TOKEN
        uncached = seq.prefill_tokens - found * self._block_tokens
        if self._in_blocks(uncached) > self.chunk_left and self._cut() <= 0:
            return Verdict.OTHER
        return self._admit(seq, limit_tokens)

    # -- inside ---------------------------------------------------------------------------------

    def _admit(self, seq: Sequence, limit_tokens: int) -> Verdict:
        """Admit it with all of its prompt that is not cached, or with what the budget has left.

        How much is not cached is known for certain now: only a tree can be looked at before.
        """
        if not self._draft.try_admit(seq):
            return Verdict.NO_TOKEN
        assert seq.state is State.PREFILLING
        tokens, reserved = seq.prefill_tokens - seq.computed_tokens, limit_tokens
        if self._in_blocks(tokens) > self.chunk_left:
            tokens, reserved = self._cut(), 0
            self.tail = seq
        self._draft.prefill(seq, tokens)
        self.seqs.append(seq)
        self._reserved += reserved
        self._spend(tokens)
        if self._memory_left() <= 0:
            return Verdict.NO_TOKEN
        if self._input_left <= 0 or self.chunk_left <= 0:
            return Verdict.OTHER
        return Verdict.MORE

    def _cut(self) -> int:
        """Tokens of a prompt that does not fit into the step: whole blocks."""
        return int(self.chunk_left) // self._block_tokens * self._block_tokens

    def _spend(self, tokens: int) -> None:
        charged = self._in_blocks(tokens)
        self._input_left -= charged
        self.chunk_left -= charged

    def _in_blocks(self, tokens: int) -> int:
        """Tokens rounded up to whole blocks."""
        return -(-tokens // self._block_tokens) * self._block_tokens

    def _memory_left(self) -> float:
        """Tokens that are free or could be evicted, less what is reserved."""
        return self._draft.available * self._block_tokens - self._reserved

    def _unlocked(self, node: Node | None) -> int:
        """Tokens of a cached prefix on the device that nobody holds."""
        if node is None:
            return 0
        idle = sum(step.blocks for step in node.path() if step.on_device and not step.refs)
        return idle * self._block_tokens


NO_CHUNKS = math.inf
