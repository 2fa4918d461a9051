"""Under every scheduler each request of a public trace ends exactly once, invariants on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from property.invariants import ENDS, Watch, assert_all_free

from sim.driver import simulate
from sim.oracle import Oracle
from sim.run import build_engine
from sim.workload import load_workload
from superinfer.collection import no_collection
from superinfer.lab.config import load_config
from superinfer.schedulers import SCHEDULERS

MEMORY = {"vllm_v1": "vllm_v1", "sglang": "radix", "tensorrt_llm": "retention"}
"""The memory policy that belongs to a scheduler, where it is not the default one."""
TRACES = {
    "sample": "mixed",
    "azure-conv": "azure2023/AzureLLMInferenceTrace_conv.csv",
    "azure-code": "azure2023/AzureLLMInferenceTrace_code.csv",
    "mooncake": "mooncake/conversation_trace.jsonl.gz",
}
MOST_REQUESTS = {"mooncake": 3000}
"""Of a trace that is far more than one device serves: longer, only the queue grows."""
RULES = {
    "tensorrt_llm": {"prompt_exceeds_max_input_len"},
    "sglang": {"prompt_too_long", "retracted_never_fits"},
    "flexgen": {"exceeds_kv_capacity"},
}
"""Why a system turns requests away, as its module's docstring cites."""
EVERY = 2003
"""Calls of the engine between two checks of everything, which takes a look at every request."""


@dataclass
class SampledWatch(Watch):
    """Checks order and plans always, everything else now and then."""

    calls: int = 0

    def check(self) -> None:
        self.calls += 1
        if self.calls % EVERY == 0:
            super().check()


@pytest.mark.slow
@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_request_ends_once(
    scheduler: str, trace: str, request: pytest.FixtureRequest
) -> None:
    path = TRACES[trace]
    if trace != "sample":
        data: Path = request.getfixturevalue("data_dir")
        path = str(data / "traces" / path)
    given = [
        f"run.memory={MEMORY.get(scheduler, 'lru')}",
        "run.prefix_caching=true",
        f"run.limit={MOST_REQUESTS.get(trace, 0)}",
    ]
    config = load_config(None, given, trace=path, scheduler=scheduler)
    workload = load_workload(config)
    ends: Counter[str] = Counter()
    why: Counter[str] = Counter()

    def sink(event: Any) -> None:
        if event[1] in ENDS:
            ends[event[2]] += 1
            if event[1] != "finish":
                why[event[3]] += 1

    engine, _ = build_engine(config, sink, lambda each: workload.output_tokens[each.index])
    watch = SampledWatch(engine)
    oracle = Oracle(workload.output_tokens, engine.config.max_model_len)
    with no_collection():
        simulate(engine, workload.requests, oracle)
    assert ends == {each.request_id: 1 for each in workload.requests}
    assert set(why) <= RULES.get(scheduler, set()), why
    assert watch.plans == []
    Watch.check(watch)
    assert_all_free(engine)
