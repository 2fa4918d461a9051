"""How far a run stayed inside what its cost model was measured on, by the time of its steps.

The backend books the steps that it runs. What a scheduler asks the cost model for is not booked.
Along a slice every quantity stays or grows by the same amount a step, so the step that leaves a
range is found by one division, however long the slice is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from superinfer.costs.base import PrefillWork

Chunks = Sequence[PrefillWork]

NO_END: Final = 2.0**62
"""The end of what has none; finite, so that a multiple of it is a number."""

_MOST_NAMES: Final = 4

STEP_TOKENS: Final = "step tokens"
OUTPUT_ROWS: Final = "output rows"
SEQUENCES: Final = "decode sequences"
CONTEXT: Final = "total decode context tokens"
MEAN_CONTEXT: Final = "mean decode context tokens"
KEYS: Final = "prefill tokens with their context"
CHUNK_TOKENS: Final = "tokens of a prefill chunk"
CHUNK_CONTEXT: Final = "context tokens before a prefill chunk"

_QUANTITIES: Final = (
    STEP_TOKENS,
    OUTPUT_ROWS,
    SEQUENCES,
    CONTEXT,
    MEAN_CONTEXT,
    KEYS,
    CHUNK_TOKENS,
    CHUNK_CONTEXT,
)
"""In the order in which `_first` and `_growth` give them."""
_STILL: Final = (0,) * len(_QUANTITIES)
"""The growth in a slice of one step."""


class Limit(NamedTuple):
    """Where the measurements of some kernels end."""

    quantity: str
    """One of the constants above."""
    end: float
    """The largest value measured."""
    kernels: str = ""
    """Names, where other kernels have another end of the same quantity."""

    @property
    def what(self) -> str:
        """The quantity in words."""
        return f"{self.quantity} ({self.kernels})" if self.kernels else self.quantity


@dataclass(frozen=True, slots=True)
class Limits:
    """Every end of a cost model's measurements; none where nothing was measured."""

    entries: tuple[Limit, ...] = ()

    @classmethod
    def of(cls, ends: Iterable[tuple[str, str, float]]) -> Limits:
        """From (quantity, kernel, end); kernels with the same end go together."""
        found: dict[str, dict[float, list[str]]] = {}
        for quantity, kernel, end in ends:
            if end < NO_END:
                found.setdefault(quantity, {}).setdefault(end, []).append(kernel)
        return cls(
            tuple(
                Limit(quantity, end, _listed(kernels) if len(by_end) > 1 else "")
                for quantity, by_end in found.items()
                for end, kernels in by_end.items()
            )
        )

    def end(self, *quantities: str) -> float:
        """The nearest end of any of these quantities."""
        ends = (entry.end for entry in self.entries if entry.quantity in quantities)
        return min(ends, default=NO_END)


NO_LIMITS: Final = Limits()


@dataclass(slots=True)
class _Left:
    """One limit, for how long it was passed and how far."""

    limit: Limit
    seconds: float = 0.0
    largest: float = 0.0


class Coverage:
    """Seconds of steps inside and outside the limits; `book` adds to them."""

    __slots__ = (
        "_context_end",
        "_decodes_end",
        "_keys_end",
        "_left",
        "_mean_end",
        "_rows_end",
        "_tokens_end",
        "limits",
        "outside_s",
        "total_s",
    )

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        self.limits = limits
        self.total_s = self.outside_s = 0.0
        self._left = [
            (_QUANTITIES.index(limit.quantity), limit.end, _Left(limit)) for limit in limits.entries
        ]
        self._tokens_end, self._rows_end = limits.end(STEP_TOKENS), limits.end(OUTPUT_ROWS)
        self._decodes_end = limits.end(SEQUENCES, STEP_TOKENS, OUTPUT_ROWS)
        self._context_end, self._mean_end = limits.end(CONTEXT), limits.end(MEAN_CONTEXT)
        # Neither a chunk nor what precedes it is longer than both together.
        self._keys_end = limits.end(KEYS, CHUNK_TOKENS, CHUNK_CONTEXT)

    def add(self, other: Coverage) -> None:
        """Book all that another one of the same limits has booked."""
        self.total_s += other.total_s
        self.outside_s += other.outside_s
        for (_, _, mine), (_, _, more) in zip(self._left, other._left, strict=True):
            mine.seconds += more.seconds
            mine.largest = max(mine.largest, more.largest)

    @property
    def extrapolated_share(self) -> float:
        """Share of the time of all steps that was outside some limit."""
        return self.outside_s / self.total_s if self.total_s else 0.0

    @property
    def left_range(self) -> list[dict[str, object]]:
        """Every limit that was passed, the longest passed first; shares are of all step time.

        The largest value is rounded up.
        """
        passed = [left for _, _, left in self._left if left.seconds]
        return [
            {
                "what": left.limit.what,
                "limit": _plain(left.limit.end),
                "largest": ceil(left.largest),
                "share": left.seconds / self.total_s,
            }
            for left in sorted(passed, key=lambda left: -left.seconds)
        ]

    def book(
        self,
        chunks: Chunks,
        decodes: int,
        context_tokens: int,
        start_s: float,
        end_s: Sequence[float],
    ) -> None:
        """Book a slice by the work of its first step, its start and the end of each of its steps.

        From step to step each decode has one token more and a chunk moves on by its tokens. There
        is one chunk at most in a slice of several steps.
        """
        self.total_s += end_s[-1] - start_s
        steps = len(end_s)
        context = context_tokens + (steps - 1) * decodes
        near = (
            decodes <= self._decodes_end
            and context <= self._context_end
            and context <= self._mean_end * decodes
        )
        if chunks and near:
            tokens, keys_end = decodes, self._keys_end
            for chunk in chunks:
                tokens += chunk.tokens
                if steps * chunk.tokens + chunk.context_tokens > keys_end:
                    near = False
            near = near and tokens <= self._tokens_end and decodes + len(chunks) <= self._rows_end
        if not near:
            self._book_far(chunks, decodes, context_tokens, start_s, end_s)

    def _book_far(
        self,
        chunks: Chunks,
        decodes: int,
        context_tokens: int,
        start_s: float,
        end_s: Sequence[float],
    ) -> None:
        """Find out which limits a slice passes, and from which step on."""
        steps = inside = len(end_s)
        first = last = _first(chunks, decodes, context_tokens)
        growth = _STILL
        if steps > 1:
            growth = _growth(chunks, decodes)
            last = tuple(x + (steps - 1) * more for x, more in zip(first, growth, strict=True))
        for number, end, left in self._left:
            if last[number] <= end:
                continue
            within = _steps_within(end - first[number], growth[number])
            left.seconds += end_s[-1] - (end_s[within - 1] if within else start_s)
            if last[number] > left.largest:
                left.largest = last[number]
            if within < inside:
                inside = within
        if inside < steps:
            self.outside_s += end_s[-1] - (end_s[inside - 1] if inside else start_s)


def _first(chunks: Chunks, decodes: int, context_tokens: int) -> tuple[float, ...]:
    """Every quantity in the first step of a slice."""
    tokens, keys, longest, prior = decodes, 0, 0, 0
    for chunk in chunks:
        length, before = chunk.tokens, chunk.context_tokens
        tokens += length
        keys = keys if keys > length + before else length + before
        longest = longest if longest > length else length
        prior = prior if prior > before else before
    mean = context_tokens / decodes if decodes else 0.0
    return tokens, decodes + len(chunks), decodes, context_tokens, mean, keys, longest, prior


def _growth(chunks: Chunks, decodes: int) -> tuple[int, ...]:
    """By how much each grows from step to step."""
    moved = chunks[0].tokens if chunks else 0
    return 0, 0, 0, decodes, int(decodes > 0), moved, 0, moved


def _steps_within(distance: float, growth: float) -> int:
    """Steps, the first at 0, that come no further than `distance`; not all of them do."""
    return int(distance // growth) + 1 if distance >= 0 else 0


def _listed(kernels: list[str]) -> str:
    if len(kernels) <= _MOST_NAMES:
        return ", ".join(kernels)
    return f"{kernels[0]} and {len(kernels) - 1} more"


def _plain(value: float) -> object:
    """The value, as an integer where it is one; compiled code would make a `float` of it again."""
    return int(value) if value == int(value) else value
