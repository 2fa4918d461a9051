"""What requests say of themselves and a configuration does not go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sim.run import run_simulation
from superinfer.lab.config import Config, load_config
from superinfer.lab.notices.unused_fields import BY_PRIORITY, goes_by_priority, unused_fields
from superinfer.request import Request
from superinfer.schedulers import SCHEDULERS
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.priority import PriorityScheduler
from superinfer.slo_classes import PRESETS
from traces.workload import Workload

Contents = tuple[str, tuple[int, ...]]
"""Namespace and hash ids."""


def of_priorities(*priorities: int) -> Sequence[Request]:
    return [Request(str(p), 0.0, 10, 10, priority=p) for p in priorities]


def test_schedulers_that_do_not_go_by_priorities_say_so() -> None:
    wanted = f"the scheduler does not go by the priorities in the trace ({BY_PRIORITY} do)"
    assert unused_fields(load_config(scheduler="rotating"), of_priorities(0, 3)) == [wanted]
    assert unused_fields(load_config(scheduler="priority"), of_priorities(0, 3)) == []


def test_equal_priorities_are_none() -> None:
    assert unused_fields(load_config(scheduler="rotating"), of_priorities(3, 3)) == []


def test_those_named_are_those_that_go_by_priorities() -> None:
    found = {name for name in SCHEDULERS if goes_by_priority(load_config(scheduler=name))}
    assert found == {"priority", "tensorrt_llm"}
    by_policy = ["scheduler.policy=priority"]
    assert goes_by_priority(load_config(settings=by_policy, scheduler="vllm_v1"))


@pytest.mark.parametrize("base", [FcfsScheduler, PriorityScheduler])
def test_a_scheduler_from_outside_is_taken_to_unless_it_says_otherwise(base: type) -> None:
    name = f"{base.__module__}:{base.__name__}"
    assert goes_by_priority(load_config(scheduler=name))


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, []) for name in SCHEDULERS), ("vllm_v1", ["scheduler.policy=priority"])],
)
def test_what_is_said_is_what_is_done(name: str, settings: list[str]) -> None:
    """Of requests that have to take turns, the order of their priorities changes who is first
    exactly with the schedulers that say so.
    """
    sizes = {"costs": "roofline", "block_tokens": 16, "kv_blocks": 400}
    config = load_config(settings=settings, scheduler=name, **sizes)
    changes = first_tokens(config, range(8)) != first_tokens(config, range(8, 0, -1))
    assert changes == goes_by_priority(config)


def first_tokens(config: Config, priorities: Sequence[int]) -> list[float]:
    """When requests that came together, too many for the memory, gave their first tokens."""
    requests = [
        Request(str(i), 0.0, 1000, 10, priority=p, index=i) for i, p in enumerate(priorities)
    ]
    result = run_simulation(config, Workload(requests, [10] * len(requests)))
    found = result.record.table.first_token_s
    assert np.isfinite(found).all()
    return [float(first) for first in found]


def test_prompts_that_begin_alike_and_no_cache() -> None:
    alike = of_contents(("", (1, 2)), ("", (1, 3)))
    wanted = "prompts begin alike by their hash_ids, and --prefix-caching is off"
    assert unused_fields(load_config(), alike) == [wanted]
    assert unused_fields(load_config(prefix_caching=True), alike) == []


def test_fewer_bits_and_a_memory_policy_that_takes_none_away() -> None:
    wanted = "min_kv_bits of batch: memory policy lru takes no bits away (slo_aware does)"
    small, plain = (
        Request("r", 0.0, 9, 9, slo_class=replace(PRESETS["batch"], min_kv_bits=bits))
        for bits in (4, 16)
    )
    assert unused_fields(load_config(), [plain, small]) == [wanted]
    assert unused_fields(load_config(), [plain]) == []
    assert unused_fields(load_config(memory="slo_aware"), [plain, small]) == []


NONE, ONE = ("", ()), ("", (1, 2))


@pytest.mark.parametrize("other", [NONE, ("", (3, 2)), ("another", (1, 2))])
def test_prompts_that_no_cache_would_help(other: Contents) -> None:
    assert unused_fields(load_config(), of_contents(NONE, ONE, other)) == []


def of_contents(*contents: Contents) -> Sequence[Request]:
    return [Request("r", 0.0, 9, 9, namespace=of, hash_ids=ids) for of, ids in contents]
