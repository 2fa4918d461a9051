"""Captured steps: an executor that replays CUDA graphs computes as much as the graph was made for.

A step takes the smallest graph that holds it, and its rows are padded up to the graph's. What is
padded is computed for nothing: dense kernels see the graph's rows, the LM head its output rows, and
decode attention its sequences, those beyond the step's own with no keys. Larger steps are launched
kernel by kernel and cost what they are.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, final


class MixedGraph(NamedTuple):
    """A graph for steps with chunks of prompts."""

    rows: int
    """Tokens of the step, decodes and chunks together."""
    decodes: int
    """How many of them may decode."""


@final
class Graphs:
    """The graphs of an executor, each list in increasing order. Never changes."""

    __slots__ = ("_mixed_rows", "chunks", "decodes", "mixed")

    def __init__(
        self, decodes: tuple[int, ...], mixed: tuple[MixedGraph, ...], chunks: int
    ) -> None:
        self.decodes = decodes
        """Sequences of the graphs for steps of decodes alone."""
        self.mixed = mixed
        """Those for steps with chunks; none where such steps are launched."""
        self.chunks = chunks
        """Chunks that each of `mixed` holds; the LM head computes a row for each."""
        self._mixed_rows = [size.rows for size in mixed]

    @property
    def words(self) -> str:
        """In one line."""
        most = self.decodes[-1] if self.decodes else 0
        words = f"decodes of up to {most} sequences in {len(self.decodes)} sizes"
        if not self.mixed:
            return words
        return (
            f"{words}; steps with up to {self.chunks} chunks of up to {self.mixed[-1].rows:,} rows "
            f"in {len(self.mixed)}"
        )

    def held_decodes(self, decodes: int) -> int:
        """Sequences that a step of decodes alone is computed for."""
        place = bisect_left(self.decodes, decodes)
        return self.decodes[place] if place < len(self.decodes) else decodes

    def holding(self, tokens: int, decodes: int, chunks: int) -> MixedGraph | None:
        """The graph of a step with chunks; None if it is launched kernel by kernel."""
        if chunks > self.chunks:
            return None
        place = bisect_left(self._mixed_rows, tokens)
        while place < len(self.mixed):
            size = self.mixed[place]
            if size.decodes >= decodes:
                return size
            place += 1
        return None
