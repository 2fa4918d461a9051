"""How much service each tenant got: Virtual Token Counters.

Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv 2401.00588, section 3):
a prompt token that is computed counts 1 and an output token 2; a tenant that comes back from
idleness starts at the lowest counter of those that are active, so idle time earns no credit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from superinfer.heaps import GrowingKeys

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
        self._active: dict[str, None] = {}
        """Who has live requests, apart from the returned. Tenants of the past may be many."""
        self._returned: dict[str, None] = {}
        """Who came back from idleness and has not been lifted yet, in order of coming."""
        self._least = GrowingKeys()
        """The active by their service."""
        self._followers = [self._least]

    def follow(self, keys: GrowingKeys) -> None:
        """Tell of each tenant whose service may have fallen at the step that it is asked for."""
        self._followers.append(keys)

    def arrive(self, name: str) -> None:
        """A request of the tenant came in."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant()
        if not tenant.live:
            self._returned[name] = None
        tenant.live += 1

    def lift(self, step: int) -> None:
        """Let those who came back from idleness start no lower than who was active."""
        for name in self._returned:
            tenant = self._tenants[name]
            least = self._least.lowest(lambda other: self._service_if_active(other, step))
            if least is not None:
                tenant.served = max(tenant.served, least[0])
            if tenant.live:
                self._active[name] = None
                self._least.touch(name)
        self._returned.clear()

    def leave(self, name: str) -> None:
        """A request of the tenant ended."""
        tenant = self._tenants[name]
        tenant.live -= 1
        if not tenant.live:
            self._active.pop(name, None)

    def prefilled(self, name: str, tokens: int) -> None:
        """Prompt tokens were computed."""
        self._tenants[name].served += PROMPT_WEIGHT * tokens

    def joined(self, name: str, join_step: int) -> None:
        """One of its requests joined the decode batch."""
        tenant = self._tenants[name]
        tenant.decoding += 1
        tenant.join_steps += join_step
        self._fell(name)

    def left(self, name: str, join_step: int, tokens: int) -> None:
        """One of its requests left the batch after so many tokens there."""
        tenant = self._tenants[name]
        tenant.decoding -= 1
        tenant.join_steps -= join_step
        tenant.served += OUTPUT_WEIGHT * tokens
        self._fell(name)

    def service(self, name: str, step: int) -> float:
        """Weighted tokens so far."""
        tenant = self._tenants[name]
        return tenant.served + OUTPUT_WEIGHT * (step * tenant.decoding - tenant.join_steps)

    def _service_if_active(self, name: str, step: int) -> float | None:
        return self.service(name, step) if name in self._active else None

    def _fell(self, name: str) -> None:
        for keys in self._followers:
            keys.touch(name)
