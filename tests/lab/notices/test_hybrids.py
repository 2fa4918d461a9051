"""Which pairs of scheduler and memory policy are hybrids, and how results name them."""

from __future__ import annotations

import pytest

from superinfer.lab.config import Config, load_config
from superinfer.lab.notices.hybrids import (
    footnote,
    hybrid_note,
    is_hybrid,
    marked,
    own_memory,
    pair_of,
    pair_words,
)
from superinfer.memory import MEMORY_POLICIES
from superinfer.schedulers import OWN_MEMORY, SCHEDULERS


def pair(scheduler: str, memory: str, caching: bool = True, *settings: str) -> Config:
    return load_config(None, settings, scheduler=scheduler, memory=memory, prefix_caching=caching)


def summary(config: Config) -> dict[str, object]:
    return {"run": {**config.resolved(), **pair_of(config)}}


def test_all_but_ours_name_policies_that_exist() -> None:
    assert set(OWN_MEMORY) == set(SCHEDULERS) - {"rotating"}
    assert {name for names in OWN_MEMORY.values() for name in names} <= set(MEMORY_POLICIES)
    assert all(OWN_MEMORY.values())


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_what_belongs_is_no_hybrid_and_all_else_is(scheduler: str) -> None:
    own = own_memory(scheduler)
    for memory in MEMORY_POLICIES:
        assert is_hybrid(pair(scheduler, memory)) is (memory not in own), memory


def test_ours_takes_all_but_those_of_one_rival() -> None:
    assert {"lru", "slo_aware"} <= set(own_memory("rotating"))
    assert set(MEMORY_POLICIES) - set(own_memory("rotating")) == {
        *("radix", "hicache", "retention", "vllm_v1")
    }


def test_without_prefix_caching_lru_that_recomputes_is_nobody_else_s() -> None:
    assert not is_hybrid(pair("sglang", "lru", False))
    assert not is_hybrid(pair("vllm_v1", "lru", False))
    assert is_hybrid(pair("sglang", "lru", False, "memory.preemption=swap"))
    assert is_hybrid(pair("sglang", "slo_aware", False)), "it takes bits from caches"
    assert is_hybrid(pair("sglang", "retention", False))


def test_a_policy_of_one_s_own_belongs_to_ours_and_to_no_rival() -> None:
    outside = "superinfer.memory.lru:LruMemory"
    assert not is_hybrid(pair("rotating", outside))
    assert is_hybrid(pair("edf", outside))
    assert not is_hybrid(pair("superinfer.schedulers.fcfs:FcfsScheduler", outside))
    assert is_hybrid(pair("superinfer.schedulers.fcfs:FcfsScheduler", "radix"))


def test_summary_and_note_name_what_belongs() -> None:
    mixed, faithful = pair("sglang", "lru"), pair("sglang", "hicache")
    assert pair_of(mixed) == {"hybrid": True, "own_memory": ["radix", "hicache"]}
    assert pair_of(faithful)["hybrid"] is False
    words = "sglang with the memory policy lru (its own: radix, hicache)"
    assert hybrid_note(mixed) == f"a hybrid: {words}"
    assert hybrid_note(faithful) == ""
    assert pair_words(summary(mixed)) == words
    assert pair_words(summary(faithful)) == pair_words({}) == ""


def test_marks_have_one_footnote_for_each_pair() -> None:
    runs = [summary(pair(*names)) for names in (("sglang", "lru"), ("vllm", "lru"))]
    runs += [summary(pair("edf", "radix")), runs[0], {"completed": 3}]
    names = [marked(f"arm {number}", run) for number, run in enumerate(runs)]
    assert names == ["arm 0 *", "arm 1", "arm 2 *", "arm 3 *", "arm 4"]
    assert footnote(runs) == (
        "* A hybrid: sglang with the memory policy lru (its own: radix, hicache); "
        "edf with the memory policy radix (its own: lru)."
    )
    assert footnote(runs[1:2]) == ""
