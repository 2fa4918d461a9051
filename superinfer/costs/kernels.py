"""Step times of models that are made of kernels, as the sum of these.

A step takes `fixed(tokens) + rows(output rows) + decode attention + prefill attention`:

* fixed: all kernels that see every token of the step (projections, norms, all-reduce);
* rows: kernels that see one row per answer (LM head, sampling). Each decode and each chunk counts
  as one row; a chunk that does not end its prompt gives none, an error of microseconds;
* decode attention: piecewise linear in the batch's total context;
* prefill attention: by chunk tokens and the context before the chunk.

Where it is known, decode attention is another curve in steps that have chunks too: there one kernel
serves both, and it neither splits contexts nor shares keys among heads as that for decodes does.

Where the device replays graphs, tokens, rows and decodes are those of the graph (`graphs.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from superinfer.costs.base import PrefillWork, SliceLine
from superinfer.costs.devices import Link
from superinfer.costs.graphs import Graphs, MixedGraph
from superinfer.costs.profile import HostCost
from superinfer.costs.shapes import ModelShape
from superinfer.costs.step import StepCost, steps_within
from superinfer.costs.tables import Curve

MOST_SINGLE_CHUNKS: Final = 1 << 15
"""Steps with one chunk that are remembered; a few MB."""


class _Lines(NamedTuple):
    """Decode attention of one batch size over total context: pieces of straight lines."""

    ends: list[float]
    """Where the pieces end; the last one has no end and is not listed."""
    lines: list[tuple[float, float]]
    """Intercept and slope of each piece."""
    alone_s: float
    """Everything else of a step of these decodes alone."""


@mypyc_attr(allow_interpreted_subclasses=True)
class KernelCost(StepCost):
    """A cost model out of four parts; subclasses supply the parts, this one the caching.

    The caches change with use; answers do not. Without `graphs` a step costs what it is.
    """

    def __init__(
        self,
        shape: ModelShape,
        tp: int,
        links: dict[str, Link],
        host: HostCost,
        graphs: Graphs | None = None,
    ) -> None:
        super().__init__(shape, tp, links, host)
        self._graphs = graphs
        self._fixed_cache: dict[int, float] = {}
        self._rows_cache: dict[int, float] = {}
        self._lines_cache: dict[int, _Lines] = {}
        self._beside_cache: dict[int, _Lines] = {}
        self._idle_s = 0.0
        """With chunks: seconds per pair of a sequence and a query that it does not have."""
        self._single_cache: dict[tuple[int, int, int], float] = {}

    def step_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        """Device seconds of one step; 0 for an empty one."""
        if not chunks:
            if not decodes:
                return 0.0
            return self._decode_line(decodes, context_tokens).first_s
        return self._mixed_s(chunks, decodes, context_tokens)

    def slice_line(
        self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
    ) -> SliceLine:
        """The line of a slice that starts with this step; not for an empty one."""
        if not chunks:
            return self._decode_line(decodes, context_tokens)
        first_s = self._mixed_s(chunks, decodes, context_tokens)
        if len(chunks) > 1 or first_s == self._launch_s:
            return SliceLine(first_s, 0.0, 1)
        growth_s, steps = self._prefill_growth(chunks[0])
        if decodes:
            graph = None if self._graphs is None else self._graph(chunks, decodes)
            found = self._beside_of(decodes, decodes if graph is None else graph.decodes)
            piece = _piece_at(found.ends, context_tokens)
            growth_s += found.lines[piece][1] * decodes
            steps = min(steps, _steps_to_end(found, piece, decodes, context_tokens))
        return SliceLine(first_s, growth_s, steps)

    @abstractmethod
    def _fixed_s(self, tokens: int) -> float:
        """Seconds of the kernels that see all tokens of a step."""

    @abstractmethod
    def _rows_s(self, rows: int) -> float:
        """Seconds of the kernels that see one row per answer."""

    @abstractmethod
    def _decode_curve(self, decodes: int) -> Curve:
        """Seconds of decode attention over total context tokens."""

    def _beside_curve(self, decodes: int) -> Curve | None:
        """The same in a step that has chunks too, or None where nothing else is known of it."""
        return None

    @abstractmethod
    def _prefill_s(self, chunks: Sequence[PrefillWork]) -> float:
        """Seconds of prefill attention of all chunks (at least one)."""

    @abstractmethod
    def _prefill_growth(self, chunk: PrefillWork) -> tuple[float, float]:
        """Seconds by which prefill attention grows from this chunk to the next one of its size, and
        for how many steps, this one included, that stays the same.
        """

    def _decode_line(self, decodes: int, context_tokens: int) -> SliceLine:
        held = decodes if self._graphs is None else self._graphs.held_decodes(decodes)
        found = self._lines_of(decodes, held)
        piece = _piece_at(found.ends, context_tokens)
        base_s, slope_s = found.lines[piece]
        first_s = found.alone_s + base_s + slope_s * context_tokens
        steps = _steps_to_end(found, piece, decodes, context_tokens)
        return SliceLine(first_s, slope_s * decodes, steps)

    def _mixed_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        if len(chunks) == 1:
            chunk = chunks[0]
            key = (chunk.tokens, chunk.context_tokens, decodes)
            seconds = self._single_cache.get(key) or self._single(key, chunks)
        else:
            seconds = self._beside_decode(chunks, decodes)
        graph = None if self._graphs is None else self._graph(chunks, decodes)
        if decodes:
            held = decodes if graph is None else graph.decodes
            ends, lines, _ = self._beside_of(decodes, held)
            base, slope = lines[_piece_at(ends, context_tokens)]
            seconds += base + slope * context_tokens
        if graph is not None:  # replayed, not launched
            return seconds
        return seconds if seconds > self._launch_s else self._launch_s

    def _graph(self, chunks: Sequence[PrefillWork], decodes: int) -> MixedGraph | None:
        """The graph of a step with chunks, if it has one."""
        if self._graphs is None:
            return None
        tokens = decodes
        for chunk in chunks:
            tokens += chunk.tokens
        return self._graphs.holding(tokens, decodes, len(chunks))

    def _single(self, key: tuple[int, int, int], chunks: Sequence[PrefillWork]) -> float:
        """`_beside_decode` of one chunk, remembered: prompts of one length ask the same again."""
        if len(self._single_cache) >= MOST_SINGLE_CHUNKS:
            self._single_cache.clear()
        found = self._single_cache[key] = self._beside_decode(chunks, key[2])
        return found

    def _beside_decode(self, chunks: Sequence[PrefillWork], decodes: int) -> float:
        """All of a step but decode attention."""
        prefilled, longest = 0, 0
        for chunk in chunks:
            prefilled += chunk.tokens
            if chunk.tokens > longest:
                longest = chunk.tokens
        rows, tokens = decodes + len(chunks), decodes + prefilled
        # Every sequence gets the thread blocks of the longest chunk; those of no query end at once.
        idle_s = self._idle_s * (rows * longest - prefilled)
        if self._graphs is not None:
            graph = self._graphs.holding(tokens, decodes, len(chunks))
            if graph is not None:
                tokens, rows = graph.rows, graph.decodes + self._graphs.chunks
        fixed = self._fixed_cache.get(tokens) or self._fixed(tokens)
        fixed += self._rows_cache.get(rows) or self._row(rows)
        chunked_s = self._chunked_s + self._next_chunk_s * (len(chunks) - 1)
        return fixed + self._prefill_s(chunks) + idle_s + chunked_s

    def _fixed(self, tokens: int) -> float:
        seconds = self._fixed_cache[tokens] = self._fixed_s(tokens)
        return seconds

    def _row(self, rows: int) -> float:
        seconds = self._rows_cache[rows] = self._rows_s(rows)
        return seconds

    def _lines_of(self, decodes: int, held: int) -> _Lines:
        """Steps of so many decodes alone where `held` are computed."""
        key = decodes if held == decodes else decodes + (held << 32)
        return self._lines_cache.get(key) or self._lines(key, decodes, held)

    def _lines(self, key: int, decodes: int, held: int) -> _Lines:
        curve, alone_s = self._decode_curve(decodes), self._fixed(held) + self._row(held)
        idle_s = 0.0
        if held != decodes:
            idle_s = self._decode_curve(held).at(0.0) - curve.at(0.0)
        found = self._lines_cache[key] = _pieces(curve, alone_s, idle_s)
        return found

    def _beside_of(self, decodes: int, held: int) -> _Lines:
        """Decode attention beside chunks, of so many sequences where `held` are computed."""
        key = decodes if held == decodes else decodes + (held << 32)
        return self._beside_cache.get(key) or self._beside(key, decodes, held)

    def _beside(self, key: int, decodes: int, held: int) -> _Lines:
        curve = self._beside_curve(decodes)
        if curve is None:
            found = self._lines_of(decodes, held)
        else:
            wider = None if held == decodes else self._beside_curve(held)
            idle_s = 0.0 if wider is None else wider.at(0.0) - curve.at(0.0)
            found = _pieces(curve, 0.0, idle_s)
        self._beside_cache[key] = found
        return found


def _pieces(curve: Curve, alone_s: float, idle_s: float) -> _Lines:
    """A curve's lines, and `idle_s` more: sequences without keys cost what such sequences cost more
    among themselves.
    """
    pieces, more_s = curve.segments(), max(0.0, idle_s)
    ends = [end for end, _, _ in pieces[:-1]]
    return _Lines(ends, [(base + more_s, slope) for _, base, slope in pieces], alone_s)


def _piece_at(ends: list[float], context_tokens: float) -> int:
    """Which piece holds so much context, by where the pieces end.

    `bisect_right`, written out: compiled for a list of floats it takes less than half the time.
    """
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) >> 1
        if context_tokens < ends[middle]:
            high = middle
        else:
            low = middle + 1
    return low


def _steps_to_end(found: _Lines, piece: int, decodes: int, context_tokens: int) -> float:
    """Steps, each `decodes` tokens of context further, that stay on a piece."""
    if piece == len(found.ends):
        return inf
    return steps_within(found.ends[piece] - context_tokens, decodes)
