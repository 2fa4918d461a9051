"""Routers by name. To add one: a class in a file of its own, a line here, a test file."""

from __future__ import annotations

ROUTERS: dict[str, str] = {
    "round_robin": "superinfer.routers.round_robin:RoundRobinRouter",
    "least_loaded": "superinfer.routers.least_loaded:LeastLoadedRouter",
    "prefix_affinity": "superinfer.routers.prefix_affinity:PrefixAffinityRouter",
    "slo_aware": "superinfer.routers.slo_aware:SloAwareRouter",
}
