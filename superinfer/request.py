"""What a client asks for: a request, its service-level objective and its class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(slots=True, frozen=True)
class SLO:
    """Targets of one request; `None` means that there is no such target.

    TTFT, TPOT and E2E are upper bounds in seconds, `min_tokens_per_s` is a lower bound
    on output tokens over end-to-end latency.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2el_s: float | None = None
    min_tokens_per_s: float | None = None

    @property
    def empty(self) -> bool:
        """True if no target is set."""
        return (
            self.ttft_s is None
            and self.tpot_s is None
            and self.e2el_s is None
            and self.min_tokens_per_s is None
        )


@dataclass(slots=True, frozen=True)
class SLOClass:
    """A service class: default targets of its requests, and how the system may treat them."""

    name: str = "default"
    slo: SLO = field(default_factory=SLO)
    weight: float = 1.0
    """Relative value of meeting the objective."""
    max_stall_s: float | None = None
    """Longest tolerated gap between two tokens; `None`: no bound."""
    min_kv_bits: int = 16
    """Lowest KV-cache precision that the class allows: 16, 8 or 4."""
    max_tokens: int = 1024
    """Answer limit of a request that declares none."""
    delivery: str = "strict"
    """`strict`, or `paced`: tokens that come early are credit."""


DEFAULT_CLASS: Final = SLOClass()


@dataclass(slots=True)
class Request:
    """One request as the core sees it. It never holds the true answer length."""

    request_id: str
    arrival_s: float
    prompt_tokens: int
    max_tokens: int
    slo: SLO = DEFAULT_CLASS.slo
    slo_class: SLOClass = DEFAULT_CLASS
    tenant: str = "default"
    session_id: str | None = None
    priority: int = 0
    """Lower runs first (vLLM's direction)."""
    namespace: str = ""
    hash_ids: tuple[int, ...] = ()
    """Chained content ids of the prompt, one per `hash_block_tokens`, the last maybe partial."""
    hash_block_tokens: int = 512
    delay_s: float | None = None
    """Closed-loop sessions: the client sends this turn so long after the end of the one before."""
    index: int = 0
    """Position in the workload: where an oracle finds the answer length."""
