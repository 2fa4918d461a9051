"""What the requests of a trace say of themselves and a configuration does not go by, in words."""

from __future__ import annotations

from collections.abc import Sequence

from superinfer.lab.config import Config
from superinfer.request import Request

BY_PRIORITY = "priority, tensorrt_llm and vllm_v1 with scheduler.policy=priority"
"""The schedulers that come with us and go by the priorities of requests."""


def unused_fields(config: Config, requests: Sequence[Request]) -> list[str]:
    """One line per such field, for a note: priorities that differ, where the scheduler does not go
    by them, and prompts that begin alike without prefix caching.
    """
    found = []
    if not config.run.prefix_caching and _begin_alike(requests):
        found.append("prompts begin alike by their hash_ids, and --prefix-caching is off")
    if len({request.priority for request in requests}) > 1 and not goes_by_priority(config):
        found.append(f"the scheduler does not go by the priorities in the trace ({BY_PRIORITY} do)")
    return found


def goes_by_priority(config: Config) -> bool:
    """Whether the scheduler with its settings goes by the priorities of requests; one that does not
    come with us and does not say is taken to.
    """
    foreign = ":" in config.run.scheduler
    return bool(getattr(config.build_scheduler(), "goes_by_priority", foreign))


def _begin_alike(requests: Sequence[Request]) -> bool:
    """Whether two prompts have their first block in common."""
    first = [(request.namespace, request.hash_ids[0]) for request in requests if request.hash_ids]
    return len(set(first)) < len(first)
