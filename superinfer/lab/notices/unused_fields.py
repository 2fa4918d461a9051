"""What the requests of a trace say of themselves and a configuration does not go by, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superinfer.lab.config import Config
from superinfer.memory.base import Ladder
from superinfer.request import Request

BY_PRIORITY = "priority, tensorrt_llm and vllm_v1 with scheduler.policy=priority"
"""The schedulers that come with us and go by the priorities of requests."""
_WHO_DOES = f"{BY_PRIORITY} do"
_SHRINKS_NOT = "takes no bits away (slo_aware does)"


def unused_fields(config: Config, requests: Sequence[Request]) -> list[str]:
    """One line per such field, for a note: priorities that differ, where the scheduler does not go
    by them, prompts that begin alike without prefix caching, and classes whose caches may have
    fewer bits, where the memory policy takes none away.
    """
    return fields_of(requests).unused(config)


@dataclass(slots=True, frozen=True)
class Fields:
    """What the requests of a trace say of themselves; found once, whatever runs on them."""

    begin_alike: bool
    """Whether two prompts have their first block in common."""
    priorities: bool
    """Whether requests differ in priority."""
    fewer_bits: tuple[str, ...]
    """Classes of requests whose caches may have fewer than 16 bits."""

    def unused(self, config: Config) -> list[str]:
        """The lines of `unused_fields`."""
        found = []
        if self.begin_alike and not config.run.prefix_caching:
            found.append("prompts begin alike by their hash_ids, and --prefix-caching is off")
        if self.priorities and not goes_by_priority(config):
            found.append(f"the scheduler does not go by the priorities in the trace ({_WHO_DOES})")
        if self.fewer_bits and not isinstance(config.build_memory(), Ladder):
            whose = ", ".join(self.fewer_bits)
            found.append(
                f"min_kv_bits of {whose}: memory policy {config.run.memory} {_SHRINKS_NOT}"
            )
        return found


def fields_of(requests: Sequence[Request]) -> Fields:
    """What these requests say."""
    priorities = {request.priority for request in requests}
    classes = {request.slo_class.name for request in requests if request.slo_class.min_kv_bits < 16}
    return Fields(_begin_alike(requests), len(priorities) > 1, tuple(sorted(classes)))


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
