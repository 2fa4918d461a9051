"""Router `slo_aware`: by predicted slack, and batch work where it hurts nobody.

A request with a bound on a latency goes where the target that is in most danger has the largest
share left. Predicted are the wait for the first token, from the prompts that come before it and the
cost of a step beside the replica's batch, and the pace of the batch with the request in it. Where
replicas cache prefixes, what one has of the prompt shortens that wait; the time that all others
there are spared is added to the share, `prefix_weight` times.

A request without one goes where it fits into memory and breaks no pace that a client was promised,
and of those replicas to the least loaded, less what is cached of its prompt; if there is none, to
where the fewest requests are in a hurry.

A few replicas are all asked. Of many, a board has what they last told, from which it follows how
good each can be at best; those that can be the best are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import inf
from typing import Final, TypeVar

import numpy as np

from superinfer.errors import ConfigError
from superinfer.request import SLO, Request
from superinfer.routers.board import Board, Column
from superinfer.routers.view import ReplicaView, hurried

FEW: Final = 16
"""So many replicas are asked sooner than a board of them is read."""

_Seconds = TypeVar("_Seconds", float, Column)


@dataclass
class SloAwareRouter:
    """Asks the cost model of every replica two or three times for each request, or of many those
    that come into question.
    """

    chunk_tokens: int = 512
    """Prompt tokens that a replica is taken to compute in a step."""
    overtaking: bool = True
    """Whether prompts with a bound on a latency are computed before those without, as `rotating`,
    `priority` and `edf` do; false for schedulers that go by arrival."""
    prefix_weight: float = 1.0
    """How much the prefill that a cached prefix saves at a replica counts, as a share of the
    request's target, beside the smallest share left of the targets; 0: for its own wait alone."""
    pace_margin: float = 0.1
    """Share of a promised pace that batch work has to leave."""
    name: str = field(default="slo_aware", init=False)
    _replicas: Sequence[ReplicaView] = field(default=(), init=False, repr=False)
    _board: Board | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """ConfigError for settings without a meaning."""
        if self.chunk_tokens < 1:
            raise ConfigError(f"router.chunk_tokens: expected at least 1, got {self.chunk_tokens}")
        if not 0 <= self.prefix_weight < inf:
            raise ConfigError(
                f"router.prefix_weight: expected a number of at least 0, got {self.prefix_weight:g}"
            )
        if not self.pace_margin < 1:
            raise ConfigError(f"router.pace_margin: expected below 1, got {self.pace_margin:g}")

    def bind(self, replicas: Sequence[ReplicaView]) -> None:
        """Learn the replicas."""
        self._replicas = replicas
        self._board = Board(replicas, self.chunk_tokens) if len(replicas) > FEW else None

    def route(self, request: Request, now: float) -> int:
        """Of equals the first is taken."""
        board, hurry = self._board, hurried(request.slo)
        if board is None:
            rank = self._rank_hurried if hurry else self._rank_patient
            return min(self._replicas, key=lambda each: rank(each, request)).index
        board.refresh()
        by_board = self._hurried_by_board if hurry else self._patient_by_board
        return by_board(board, request)

    # -- inside ---------------------------------------------------------------------------------

    def _rank_hurried(self, replica: ReplicaView, request: Request) -> tuple[float, int]:
        rank = self._slack(replica, request)
        if saved_s := replica.saved_s(request, self.chunk_tokens):
            target_s = _waited_for_s(request.slo, replica.expected_answer_tokens(request))
            rank += self.prefix_weight * _spared(saved_s, target_s)
        return -rank, replica.outstanding_tokens

    def _slack(self, replica: ReplicaView, request: Request) -> float:
        """The smallest share of a target that is left; negative where it is predicted to fail."""
        ahead = replica.hurried_prompt_tokens
        if not self.overtaking:
            ahead += replica.patient_prompt_tokens
        first_s = replica.first_token_s(request, ahead, self.chunk_tokens)
        step_s = replica.decode_step_s(request)
        answer_tokens = replica.expected_answer_tokens(request)
        return min(_shares(request.slo, first_s, step_s, answer_tokens))

    def _hurried_by_board(self, board: Board, request: Request) -> int:
        """The same as by the ranks of all: who can be best is asked first, until the best so far
        is better than any other one can be.
        """
        cached, outstanding = board.cached_tokens(request), board.outstanding_tokens
        least = -self._most_hurried(board, request, cached)
        known: dict[tuple[bytes, float], float] = {}
        best = (inf, inf, 0)
        for number in np.lexsort((outstanding, least)).tolist():
            if (least[number], outstanding[number], number) > best:
                break
            state = board.state(number, cached)
            if state not in known:
                known[state], _ = self._rank_hurried(self._replicas[number], request)
            best = min(best, (known[state], outstanding[number], number))
        return best[2]

    def _most_hurried(self, board: Board, request: Request, cached: Column) -> Column:
        """The rank of each replica, or more."""
        slo = request.slo
        ahead = board.hurried_prompt_tokens
        if not self.overtaking:
            ahead = ahead + board.patient_prompt_tokens
        first_s = board.first_token_s(request.prompt_tokens - cached, ahead)
        step_s = board.decode_step_near_s(request)
        answer_tokens = self._replicas[0].expected_answer_tokens(request)
        most = reduce(np.minimum, _shares(slo, first_s, step_s, answer_tokens))
        if not cached.any():
            return most
        saved_s = board.chunk_s * cached / self.chunk_tokens
        spared = _spared(saved_s, _waited_for_s(slo, answer_tokens))
        return most + self.prefix_weight * spared

    def _rank_patient(self, replica: ReplicaView, request: Request) -> tuple[float, int, int]:
        load = replica.outstanding_tokens - replica.cached_tokens(request)
        if self._harmless(replica, request):
            return 0, load, 0
        return 1, replica.hurried_requests, load

    def _patient_by_board(self, board: Board, request: Request) -> int:
        """The same as by the ranks of all."""
        answer_tokens = self._replicas[0].expected_answer_tokens(request)
        load = board.outstanding_tokens - board.cached_tokens(request)
        harmless = board.room_tokens >= request.prompt_tokens + answer_tokens
        paces_s = (1 - self.pace_margin) * board.tightest_tpot_s
        harmless &= board.decode_step_least_s(request) <= paces_s
        while harmless.any():
            number = int(np.where(harmless, load, inf).argmin())
            if self._harmless(self._replicas[number], request):
                return number
            harmless[number] = False
        fewest = board.hurried_requests == board.hurried_requests.min()
        return int(np.where(fewest, load, inf).argmin())

    def _harmless(self, replica: ReplicaView, request: Request) -> bool:
        """True if it fits beside what is there and waits, and every promised pace is kept."""
        needed = request.prompt_tokens + replica.expected_answer_tokens(request)
        if replica.free_kv_tokens < replica.waiting_prompt_tokens + needed:
            return False
        pace_s = replica.tightest_tpot_s()
        if pace_s is None:
            return True
        return replica.decode_step_s(request) <= (1 - self.pace_margin) * pace_s


def _shares(slo: SLO, first_s: _Seconds, step_s: _Seconds, answer_tokens: int) -> list[_Seconds]:
    """Of each target the share that is left."""
    shares = []
    if slo.ttft_s is not None:
        shares.append(_left(first_s, slo.ttft_s))
    if slo.tpot_s is not None:
        shares.append(_left(step_s, slo.tpot_s))
    if slo.e2el_s is not None:
        shares.append(_left(first_s + step_s * answer_tokens, slo.e2el_s))
    return shares


def _left(predicted_s: _Seconds, target_s: float) -> _Seconds:
    """Share of a target that is left."""
    return (target_s - predicted_s) / target_s if target_s > 0 else -predicted_s


def _waited_for_s(slo: SLO, answer_tokens: int) -> float:
    """The target that a wait for the first token counts against."""
    if slo.ttft_s is not None:
        return slo.ttft_s
    return slo.e2el_s if slo.e2el_s is not None else (slo.tpot_s or 0.0) * answer_tokens


def _spared(saved_s: _Seconds, target_s: float) -> _Seconds:
    """Prefill that a cached prefix saves at a replica, as a share of that target."""
    return saved_s / target_s if target_s > 0 else saved_s
