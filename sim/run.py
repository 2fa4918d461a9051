"""From a configuration and a workload to a record: one simulated run."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.costs import (
    HostCost,
    ModelShape,
    StepCost,
    build_cost,
    kv_capacity_blocks,
    load_device,
    load_shape,
)
from superinfer.engine import Engine, EngineConfig
from superinfer.events import Sink
from superinfer.lab.config import Config, RunConfig
from superinfer.record import RunRecord
from traces.workload import Workload


@dataclass(slots=True)
class SimResult:
    """What a simulated run gave, and how long the machine took for it."""

    record: RunRecord
    wall_s: float
    scheduler_s: float | None
    trust: dict[str, Any]
    engine: EngineConfig


def run_simulation(config: Config, workload: Workload, sink: Sink | None = None) -> SimResult:
    """Simulate the workload to its end.

    Raises ConfigError for settings that cannot run together and StuckError when requests are left
    that nothing will ever serve.
    """
    shape = load_shape(config.run.model)
    scheduler = config.build_scheduler()
    cost = _cost(config.run, shape)
    sizes = engine_config(config.run, shape, cost, scheduler.block_tokens)
    engine = Engine(scheduler, config.build_memory(), cost, sizes, sink)
    oracle = Oracle(workload.output_tokens, sizes.max_model_len)
    started = time.perf_counter()
    with _no_collection():
        simulate(engine, workload.requests, oracle)
    wall_s = time.perf_counter() - started
    record = engine.recorder.build(engine)
    return SimResult(record, wall_s, None, cost.trust, sizes)


def engine_config(
    run: RunConfig, shape: ModelShape, cost: StepCost, block_tokens: int
) -> EngineConfig:
    """Sizes of the replica: block size, device blocks and host blocks."""
    block_tokens = run.block_tokens or block_tokens
    block_bytes = block_tokens * cost.kv_bytes_per_token
    blocks = run.kv_blocks or kv_capacity_blocks(
        shape, load_device(run.device), run.tp, block_tokens, run.gpu_memory_utilization
    )
    return EngineConfig(
        total_blocks=blocks,
        block_tokens=block_tokens,
        block_bytes=block_bytes,
        host_blocks=int(run.host_memory_gib * 2**30 // block_bytes),
        max_model_len=run.max_model_len or shape.max_model_len,
        layers=shape.layers,
        prefix_caching=run.prefix_caching,
        lag=run.lag,
    )


def _cost(run: RunConfig, shape: ModelShape) -> StepCost:
    """The cost model, with the host overhead of `[run]` where it is given."""
    cost = build_cost(shape, run.device, run.tp, run.costs)
    if run.host_step_ms is None and run.host_per_sequence_us is None:
        return cost
    host = cost.host
    step_s = host.step_s if run.host_step_ms is None else run.host_step_ms / 1e3
    per_sequence_s = host.per_sequence_s
    if run.host_per_sequence_us is not None:
        per_sequence_s = run.host_per_sequence_us / 1e6
    override = HostCost(step_s, per_sequence_s, "configured")
    return build_cost(shape, run.device, run.tp, run.costs, override)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold the cyclic garbage collector back: a run makes millions of objects and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
