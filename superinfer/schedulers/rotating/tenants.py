"""How much service each tenant got: Virtual Token Counters.

Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv 2401.00588, section 3):
a prompt token that is computed counts 1 and an output token 2; a tenant that comes back from
idleness starts at the lowest counter of those that are active, so idle time earns no credit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROMPT_WEIGHT: Final = 1.0
OUTPUT_WEIGHT: Final = 2.0


@dataclass(slots=True)
class _Tenant:
    served: float = 0.0
    live: int = 0
    decoding: int = 0
    join_steps: int = 0
    """Summed step numbers at which its decoding requests joined the batch."""


class TenantCounters:
    """Weighted tokens per tenant; decoding requests count by the steps since they joined."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._returned: list[str] = []

    def arrive(self, name: str) -> None:
        """A request of the tenant came in."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant()
        if not tenant.live and name not in self._returned:
            self._returned.append(name)
        tenant.live += 1

    def lift(self, step: int) -> None:
        """Let those who came back from idleness start no lower than who was active."""
        while self._returned:
            name = self._returned[0]
            others = [n for n, t in self._tenants.items() if t.live and n not in self._returned]
            if others:
                tenant, low = self._tenants[name], min(self.service(n, step) for n in others)
                tenant.served = max(tenant.served, low)
            del self._returned[0]

    def leave(self, name: str) -> None:
        """A request of the tenant ended."""
        self._tenants[name].live -= 1

    def prefilled(self, name: str, tokens: int) -> None:
        """Prompt tokens were computed."""
        self._tenants[name].served += PROMPT_WEIGHT * tokens

    def joined(self, name: str, join_step: int) -> None:
        """One of its requests joined the decode batch."""
        tenant = self._tenants[name]
        tenant.decoding += 1
        tenant.join_steps += join_step

    def left(self, name: str, join_step: int, tokens: int) -> None:
        """One of its requests left the batch after so many tokens there."""
        tenant = self._tenants[name]
        tenant.decoding -= 1
        tenant.join_steps -= join_step
        tenant.served += OUTPUT_WEIGHT * tokens

    def service(self, name: str, step: int) -> float:
        """Weighted tokens so far."""
        tenant = self._tenants[name]
        return tenant.served + OUTPUT_WEIGHT * (step * tenant.decoding - tenant.join_steps)
