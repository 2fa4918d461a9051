"""The bundled traces through the shipped model, with memory short.

Times are given by the cost model of a GPU, so that deadlines press as they would there, and the
decisions can be held to those of the simulator; every token is computed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from executor_runs import CPU, Rig, sizes_for

from executor.kv.tables import CopyJob, RequantiseJob
from executor.models import load_model
from executor.shipped import TINY
from executor.workload import answers_of
from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.costs import build_cost
from superinfer.engine import Engine
from superinfer.memory.lru import LruMemory
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.schedulers.rotating import RotatingScheduler
from superinfer.schedulers.vllm import VllmScheduler
from superinfer.slo_classes import PRESETS
from traces.readers import read_trace
from traces.workload import Workload

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
SMALLER = 4
"""Requests are so many times shorter than in the trace, and memory is smaller."""
BITS = {"batch": 4, "code": 8}


def sample(name: str, limit: int) -> Workload:
    classes = {key: replace(known, min_kv_bits=BITS.get(key, 16)) for key, known in PRESETS.items()}
    workload = read_trace(SAMPLES / name, classes=classes, limit=limit)
    for request in workload.requests:
        request.prompt_tokens = max(1, request.prompt_tokens // SMALLER)
        request.hash_block_tokens = max(1, request.hash_block_tokens // SMALLER)
    workload.output_tokens = [max(1, tokens // SMALLER) for tokens in workload.output_tokens]
    return workload


ARMS: dict[str, Any] = {
    "vllm": (lambda: VllmScheduler(preemption="swap"), LruMemory),
    "rotating": (RotatingScheduler, LruMemory),
    "rotating-shrinking": (
        RotatingScheduler,
        lambda: SloAwareMemory(shrink_8_at=0.5, shrink_4_at=0.8, host_ratio=0.5),
    ),
}


def ran(arm: str, workload: Workload, blocks: int, lag: int, prefix: bool) -> tuple[Rig, Any]:
    """The executor after the run, and what the simulator and it said."""
    make, remember = ARMS[arm]
    cost = build_cost("llama-3.1-8b", "a100-80g")
    model = load_model(TINY, device=CPU, dtype=torch.float32, block_tokens=16)
    logs: list[list[str]] = []
    for driver in ("simulator", "executor"):
        memory, events = remember(), list[Any]()
        sizes = sizes_for(
            model.layout, memory, blocks, max_model_len=2048, lag=lag, prefix_caching=prefix
        )
        engine = Engine(make(), memory, cost, sizes, events.append)
        if driver == "simulator":
            simulate(engine, workload.requests, Oracle(workload.output_tokens, 2048))
        else:
            rig = Rig(engine, model, ahead=bool(lag))
            answers = answers_of(workload, model.vocab, 2048, 0)
            rig.run(workload.requests, answers)
        logs.append([f"{event[1:]}" for event in events if event[1] not in ("evict", "decode")])
    return rig, (logs, answers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "trace", "limit", "blocks", "lag", "prefix"),
    [
        ("vllm", "mixed.jsonl", 16, 160, 0, True),
        ("rotating", "rotation.jsonl", 13, 54, 0, False),
        ("rotating-shrinking", "rotation.jsonl", 13, 54, 1, False),
        ("rotating-shrinking", "mixed.jsonl", 16, 160, 1, True),
    ],
)
def test_a_sample_runs_to_its_end(arm, trace, limit, blocks, lag, prefix):
    workload = sample(trace, limit)
    rig, (logs, answers) = ran(arm, workload, blocks, lag, prefix)
    assert logs[0] == logs[1]
    table = rig.engine.recorder.build(rig.engine).table
    assert table.state == ["finished"] * limit
    assert [len(answers[r].tokens) for r in workload.requests] == workload.output_tokens
    orders = Counter(type(order) for order in rig.manager.orders)
    if arm.startswith("rotating") and trace == "rotation.jsonl":
        assert rig.engine.recorder.rotations > 0 and orders[CopyJob] > 1
    if arm == "rotating-shrinking":
        assert orders[RequantiseJob] > 3
    if prefix:
        assert rig.engine.recorder.prefix_hit_tokens > 0
