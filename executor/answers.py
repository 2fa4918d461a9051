"""What each request says: its prompt, its answer so far, and when that is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from executor.steps.sampler import GREEDY, History, Sampling, SamplingRow
from superinfer.request import Request

Tokens = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Answer:
    """The tokens of one request on the host."""

    prompt: Tokens
    limit: int
    """Most tokens of the answer."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end it; they are no part of the text."""
    sampling: Sampling = GREEDY
    history: History | None = None
    on_token: Callable[[int], bool] | None = None
    """Told each token; True ends the answer (a stop text was met)."""
    tokens: list[int] = field(default_factory=list)
    over: bool = False

    @property
    def known(self) -> int:
        """Tokens of prompt and answer that the host has."""
        return len(self.prompt) + len(self.tokens)

    def add(self, token: int) -> bool:
        """Take in the next token; True if it is the last."""
        self.tokens.append(token)
        stopped = self.on_token is not None and self.on_token(token)
        self.over = stopped or token in self.stop_tokens or len(self.tokens) >= self.limit
        return self.over

    def slice(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of prompt and answer, as far as the host has them."""
        prompt = self.prompt[start:stop]
        if stop <= len(self.prompt):
            return prompt
        first = max(0, start - len(self.prompt))
        rest = self.tokens[first : stop - len(self.prompt)]
        return np.concatenate((prompt, np.array(rest, np.int64)))

    def row(self, position: int) -> SamplingRow:
        """How the token at a position is drawn."""
        return SamplingRow(self.sampling, position, self.history)


class Answers:
    """The answers of a run, by the index of their requests."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = list(answers)
        self.greedy = all(answer.sampling.greedy for answer in self._answers)
        """True if all take the most likely tokens."""

    def __getitem__(self, request: Request) -> Answer:
        return self._answers[request.index]
