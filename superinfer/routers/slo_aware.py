"""Router `slo_aware`: by predicted slack, and batch work where it hurts nobody.

A request with a bound on a latency goes where the target that is in most danger has the largest
share left. Predicted are the wait for the first token, from the prompts that come before it and the
cost of a step beside the replica's batch, and the pace of the batch with the request in it. Where
replicas cache prefixes, what one has of the prompt shortens that wait; the time that all others
there are spared is added to the share, `prefix_weight` times.

A request without one goes where it fits into memory and breaks no pace that a client was promised,
and of those replicas to the least loaded, less what is cached of its prompt; if there is none, to
where the fewest requests are in a hurry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from superinfer.errors import ConfigError
from superinfer.request import Request
from superinfer.routers.view import ReplicaView, hurried


@dataclass
class SloAwareRouter:
    """Asks the cost model of every replica two or three times for each request."""

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

    def route(self, request: Request, now: float) -> int:
        """Of equals the first is taken."""
        if hurried(request.slo):
            return min(self._replicas, key=lambda each: self._rank_hurried(each, request)).index
        return min(self._replicas, key=lambda each: self._rank_patient(each, request)).index

    # -- inside ---------------------------------------------------------------------------------

    def _rank_hurried(self, replica: ReplicaView, request: Request) -> tuple[float, int]:
        rank = self._slack(replica, request) + self.prefix_weight * self._spared(replica, request)
        return -rank, replica.outstanding_tokens

    def _spared(self, replica: ReplicaView, request: Request) -> float:
        """Prefill that a cached prefix saves at a replica, as a share of the target that a wait
        for the first token counts against.
        """
        saved_s, slo = replica.saved_s(request, self.chunk_tokens), request.slo
        if not saved_s:
            return 0.0
        target_s = slo.ttft_s if slo.ttft_s is not None else slo.e2el_s
        if target_s is None:
            target_s = (slo.tpot_s or 0.0) * replica.expected_answer_tokens(request)
        return saved_s / target_s if target_s > 0 else saved_s

    def _slack(self, replica: ReplicaView, request: Request) -> float:
        """The smallest share of a target that is left; negative where it is predicted to fail."""
        slo = request.slo
        ahead = replica.hurried_prompt_tokens
        if not self.overtaking:
            ahead += replica.patient_prompt_tokens
        first_s = replica.first_token_s(request, ahead, self.chunk_tokens)
        step_s = replica.decode_step_s(request)
        shares = []
        if slo.ttft_s is not None:
            shares.append(_left(first_s, slo.ttft_s))
        if slo.tpot_s is not None:
            shares.append(_left(step_s, slo.tpot_s))
        if slo.e2el_s is not None:
            answer_s = first_s + step_s * replica.expected_answer_tokens(request)
            shares.append(_left(answer_s, slo.e2el_s))
        return min(shares)

    def _rank_patient(self, replica: ReplicaView, request: Request) -> tuple[float, int, int]:
        load = replica.outstanding_tokens - replica.cached_tokens(request)
        if self._harmless(replica, request):
            return 0, load, 0
        return 1, replica.hurried_requests, load

    def _harmless(self, replica: ReplicaView, request: Request) -> bool:
        """True if it fits beside what is there and waits, and every promised pace is kept."""
        needed = request.prompt_tokens + replica.expected_answer_tokens(request)
        if replica.free_kv_tokens < replica.waiting_prompt_tokens + needed:
            return False
        pace_s = replica.tightest_tpot_s()
        kept_s = replica.decode_step_s(request)
        return pace_s is None or kept_s <= (1 - self.pace_margin) * pace_s


def _left(predicted_s: float, target_s: float) -> float:
    """Share of a target that is left."""
    return (target_s - predicted_s) / target_s if target_s > 0 else -predicted_s
