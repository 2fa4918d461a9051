"""How long an answer will be: learned from the answers that have ended.

The core never sees a true length. A histogram per tenant and class holds the latest answers; the
question is always conditional on what the request has given already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal, Protocol

from superinfer.errors import ConfigError
from superinfer.request import Request

LengthSource = Literal["histogram", "none", "oracle"]
TrueLength = Callable[[Request], int]
"""Answer tokens of a request, as only a simulation knows them."""

HISTORY: Final = 1000
"""Answers that a histogram remembers: enough for a P90, and few enough to follow the load."""
COLD_START_TOKENS: Final = 512
"""Assumed answer where nothing is known, if the client's own limit is not shorter."""
NO_QUANTILE: Final = -1
"""In place of a length: too few are known."""
MEDIAN: Final = 0.5
CAUTIOUS: Final = 0.5
"""Quantiles for ordering, and for memory: the peak of many requests is predicted by their medians,
and where it is not, a forced preemption costs a copy."""


class LengthEstimator(Protocol):
    """Predicts how many tokens of an answer are still to come."""

    def tokens_left(self, request: Request, given_tokens: int, quantile: float) -> int:
        """Tokens to come (>= 1) after `given_tokens`, at a quantile (below 1) of what is known."""
        ...

    def learn(self, request: Request, output_tokens: int) -> None:
        """An answer ended after so many tokens."""
        ...


class NoLengths:
    """Knows nothing: the client's limit bounds an answer, and is no estimate of it."""

    def tokens_left(self, request: Request, given_tokens: int, quantile: float) -> int:
        """What the cold start assumes of an answer; the limit near its end."""
        assumed = min(request.max_tokens, COLD_START_TOKENS)
        while assumed <= given_tokens:
            assumed *= 2
        return max(1, min(assumed, request.max_tokens) - given_tokens)

    def learn(self, request: Request, output_tokens: int) -> None:
        """Nothing is kept."""


class HistogramLengths(NoLengths):
    """The latest answers of the same tenant and class, else of the class."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], _History] = {}
        self._by_class: dict[str, _History] = {}

    def tokens_left(self, request: Request, given_tokens: int, quantile: float) -> int:
        """The quantile of the remembered answers that are longer than this one already is."""
        class_name = request.slo_class.name
        history, length = self._by_key.get((request.tenant, class_name)), NO_QUANTILE
        if history is not None:
            length = history.quantile_above(given_tokens, quantile)
        if length == NO_QUANTILE and (history := self._by_class.get(class_name)) is not None:
            length = history.quantile_above(given_tokens, quantile)
        if length == NO_QUANTILE:
            return super().tokens_left(request, given_tokens, quantile)
        return min(length, max(request.max_tokens, given_tokens + 1)) - given_tokens

    def learn(self, request: Request, output_tokens: int) -> None:
        """Remember the answer for its tenant and class, and for the class."""
        class_name = request.slo_class.name
        key = (request.tenant, class_name)
        of_tenant = self._by_key.get(key)
        if of_tenant is None:
            of_tenant = self._by_key[key] = _History()
            self._by_class.setdefault(class_name, _History())
        of_tenant.add(output_tokens)
        self._by_class[class_name].add(output_tokens)


class OracleLengths(NoLengths):
    """True lengths, for studies of what better prediction would be worth."""

    def __init__(self, true_length: TrueLength) -> None:
        self._true_length = true_length

    def tokens_left(self, request: Request, given_tokens: int, quantile: float) -> int:
        """Exactly what is left."""
        return max(1, self._true_length(request) - given_tokens)


class ScaledLengths(NoLengths):
    """What another estimator says, times a factor."""

    def __init__(self, estimator: LengthEstimator, by: float) -> None:
        self._estimator, self._by = estimator, by

    def tokens_left(self, request: Request, given_tokens: int, quantile: float) -> int:
        """The other's answer, times the factor."""
        return max(
            1, round(self._by * self._estimator.tokens_left(request, given_tokens, quantile))
        )

    def learn(self, request: Request, output_tokens: int) -> None:
        """The other one learns."""
        self._estimator.learn(request, output_tokens)


def estimator_of(
    source: LengthSource, true_length: TrueLength | None, scale: float = 1.0
) -> LengthEstimator:
    """The estimator of a setting, its answers times `scale`; ConfigError for an oracle where nobody
    knows the truth.
    """
    found = _estimator_of(source, true_length)
    return found if scale == 1.0 else ScaledLengths(found, scale)


def _estimator_of(source: LengthSource, true_length: TrueLength | None) -> LengthEstimator:
    if source == "histogram":
        return HistogramLengths()
    if source == "none":
        return NoLengths()
    if true_length is None:
        raise ConfigError("scheduler.lengths: 'oracle' is for studies in simulation only")
    return OracleLengths(true_length)


class _History:
    """The latest lengths, in order of time and sorted."""

    __slots__ = ("_latest", "_sorted")

    FEWEST = 8
    """Below this many longer answers there is no quantile to speak of."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, tokens: int) -> None:
        self._latest.append(tokens)
        if len(self._latest) > HISTORY:
            old = self._latest.popleft()
            if old == tokens:
                return
            del self._sorted[_first_above(self._sorted, old) - 1]
        self._sorted.insert(_first_above(self._sorted, tokens), tokens)

    def quantile_above(self, tokens: int, quantile: float) -> int:
        """Of the lengths above `tokens`; `NO_QUANTILE` where there are too few."""
        first = _first_above(self._sorted, tokens)
        longer = len(self._sorted) - first
        if longer < self.FEWEST:
            return NO_QUANTILE
        return self._sorted[first + int(quantile * longer)]


def _first_above(lengths: list[int], tokens: int) -> int:
    """Place of the first length above `tokens`.

    `bisect_right`, written out: compiled for a list of ints it takes less than half the time.
    """
    low, high = 0, len(lengths)
    while low < high:
        middle = (low + high) >> 1
        if tokens < lengths[middle]:
            high = middle
        else:
            low = middle + 1
    return low
