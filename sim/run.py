"""From a configuration and a workload to a record: one simulated run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from sim.cluster import simulate_cluster
from sim.costs import believed_of, cost_of
from sim.driver import simulate
from sim.load import ClosedLoad, LoadModel
from sim.measured_memory import measured_blocks, measured_notes
from sim.oracle import Oracle
from sim.stopwatch import Stopwatch
from sim.untouched import Untouched
from superinfer.collection import no_collection
from superinfer.costs import (
    Coverage,
    FlexGenCost,
    ModelShape,
    StepCost,
    find_device,
    kv_capacity_blocks,
    load_shape,
)
from superinfer.engine import Engine, EngineConfig
from superinfer.errors import ConfigError
from superinfer.events import Sink
from superinfer.lab.config import Config, RunConfig
from superinfer.lab.config.policy_faults import faults_named
from superinfer.lab.notices.beliefs import beliefs_notes, beliefs_of
from superinfer.lab.precision import FULL_BITS
from superinfer.memory.blocks.slabs import NO_SMALL, slabs_of
from superinfer.records.cluster import cluster_record
from superinfer.records.run import RunRecord
from superinfer.request import Request
from superinfer.schedulers.base import Scheduler, largest_step_of, tell_true_lengths
from traces.workload import Workload

_T = TypeVar("_T")


@dataclass(slots=True)
class SimResult:
    """What a simulated run gave, and how long the machine took for it."""

    record: RunRecord
    wall_s: float
    scheduler_s: float
    """Of `wall_s`, what the scheduler's `plan` took."""
    trust: dict[str, Any]
    """Where the step times come from, and how far the run left what was measured."""
    engine: EngineConfig
    load: dict[str, Any]
    """How the workload was sent, and what was left of it."""
    profile_sha256: str | None
    """Of the profile that the step times come from; None where they come from none."""


def run_simulation(
    config: Config, workload: Workload, sink: Sink | None = None, sinks: Sequence[Sink] = ()
) -> SimResult:
    """Simulate the workload to its end, on one replica or on several.

    Events go to `sink`, or with `sinks` those of each replica to its own. Raises ConfigError for
    settings that cannot run together and StuckError when requests are left that nothing will ever
    serve. What a policy from outside raises is a PolicyError.
    """
    run = config.run
    with faults_named(run.policies | {"router": run.router}):
        if run.replicas > 1:
            return run_cluster(config, workload, sinks or [sink] * run.replicas)
        return _run_one(config, workload, sinks[0] if sinks else sink)


def _run_one(config: Config, workload: Workload, sink: Sink | None) -> SimResult:
    """Simulate the workload on one replica."""
    answers, before = workload.output_tokens, _as_it_is(config, workload)
    engine, cost = build_engine(config, sink, lambda request: answers[request.index])
    stopwatch = Stopwatch()
    engine.ask = stopwatch.around(engine.scheduler.plan)
    oracle = Oracle(workload.output_tokens, engine.config.max_model_len)
    load, stop_s = load_model(config.run), config.run.duration_s or math.inf
    started = time.perf_counter()
    with no_collection():
        slowdown = config.run.slowdowns.get(0, 1.0)
        coverage, closed = simulate(engine, workload.requests, oracle, load, stop_s, slowdown)
    times_s = time.perf_counter() - started, stopwatch.seconds
    if before:
        before.check([engine])
    return _result(config.run, [engine], cost, _record(engine), coverage, closed, times_s)


def run_cluster(config: Config, workload: Workload, sinks: Sequence[Sink | None]) -> SimResult:
    """Simulate the workload on replicas behind a router, one for each of `sinks`.

    A cluster of one gives the events and times of a single engine, which runs without these events.
    """
    answers, before = workload.output_tokens, _as_it_is(config, workload)
    stopwatch, engines = Stopwatch(), list[Engine]()
    cost: StepCost | None = None
    for sink in sinks:
        engine, cost = build_engine(config, sink, lambda request: answers[request.index], cost)
        engine.ask = stopwatch.around(engine.scheduler.plan)
        engines.append(engine)
    assert cost is not None
    load, stop_s = load_model(config.run), config.run.duration_s or math.inf
    router = config.build_router()
    started = time.perf_counter()
    with no_collection():
        slow = config.run.slowdowns
        done = simulate_cluster(engines, workload.requests, answers, router, load, stop_s, slow)
    times_s = time.perf_counter() - started, stopwatch.seconds
    if before:
        before.check(engines)
    record = cluster_record(
        [_record(engine) for engine in engines],
        np.array(done.sent_to, np.int64),
        [coverage.total_s for coverage in done.coverages],
    )
    return _result(config.run, engines, cost, record, done.coverage, done.closed, times_s)


def _as_it_is(config: Config, workload: Workload) -> Untouched | None:
    """What policies from outside have to leave alone; None where there are none."""
    run = config.run
    outside = any(":" in name for name in (run.scheduler, run.memory, run.router))
    return Untouched(workload.requests, workload.output_tokens) if outside else None


def _slow_notes(run: RunConfig) -> list[str]:
    """That replicas are no longer alike."""
    return [
        f"run.slow_replicas: steps of replica {number} take {slowdown:g} times as long"
        for number, slowdown in run.slowdowns.items()
    ]


def _record(engine: Engine) -> RunRecord:
    """What an engine wrote down. It gives up its sequences, for the tables need the memory."""
    record = engine.recorder.build(engine)
    engine.recorder.sequences = []
    return record


def _result(
    run: RunConfig,
    engines: Sequence[Engine],
    cost: StepCost,
    record: RunRecord,
    coverage: Coverage,
    closed: ClosedLoad | None,
    times_s: tuple[float, float],
) -> SimResult:
    """What is told of a run beside its record; `times_s`: of the whole, and of the scheduler."""
    sizes = engines[0].config
    trust: dict[str, Any] = cost.trust(coverage)
    record.notes += measured_notes(run, cost, engines[0].scheduler, sizes)
    record.notes += _slow_notes(run)
    record.quality = cost.quality
    if any(engine.believed is not engine.cost for engine in engines):
        trust["beliefs"] = beliefs_of([engine.believed for engine in engines])
        record.notes += beliefs_notes(trust["beliefs"])
    sent = _load_summary(run, closed.left if closed else {})
    return SimResult(record, *times_s, trust, sizes, sent, cost.profile_sha256)


def build_engine(
    config: Config,
    sink: Sink | None = None,
    true_length: Callable[[Request], int] | None = None,
    cost: StepCost | None = None,
) -> tuple[Engine, StepCost]:
    """The engine of a configuration with its cost model; ConfigError if the parts do not fit, and
    PolicyError for what a policy from outside raises meanwhile.

    Replicas share the `cost` of the first: it has no state but what it remembers of its answers.
    `true_length` answers a scheduler whose settings ask for an oracle, and nobody else; without it
    the engine is only good for a look at its sizes.
    """
    with faults_named(config.run.policies):
        return _engine_of(config, sink, true_length, cost)


def _engine_of(
    config: Config,
    sink: Sink | None,
    true_length: Callable[[Request], int] | None,
    cost: StepCost | None,
) -> tuple[Engine, StepCost]:
    run = config.run
    shape = _routed(_named("run.model", run.model, load_shape), run)
    device = _named("run.device", run.device, lambda name: find_device(name, run.costs))
    scheduler = config.build_scheduler()
    tell_true_lengths(scheduler, true_length)
    # FlexGen's policy says where its tensors are, and so what its steps cost.
    offloading = getattr(scheduler, "offloading", None)
    placement = offloading() if offloading else None
    cost = cost or cost_of(run, shape, device, placement)
    believed = believed_of(run, cost, shape, device, placement)
    sizes = engine_config(config.run, cost.shape, cost, scheduler)
    _check_demands(config, sizes.kv_bits)
    return Engine(scheduler, config.build_memory(), cost, sizes, sink, believed), cost


def _routed(shape: ModelShape, run: RunConfig) -> ModelShape:
    """The model with the routing of its run; ConfigError where there is nothing to route."""
    if run.routing_skew and not shape.experts:
        raise ConfigError(f"run.routing_skew: {shape.name} has no experts")
    return replace(shape, routing_skew=run.routing_skew)


def engine_config(
    run: RunConfig, shape: ModelShape, cost: StepCost, scheduler: Scheduler
) -> EngineConfig:
    """Sizes of the replica: block size, device blocks and host blocks."""
    block_tokens = run.block_tokens or scheduler.block_tokens
    block_bytes = block_tokens * cost.kv_bytes_per_token
    eight = shape.kv_block_bytes(run.tp, block_tokens, 8)
    four = shape.kv_block_bytes(run.tp, block_tokens, 4)
    # FlexGen keeps all of its cache at one precision, and a cache of 8 bits loses no more.
    small = NO_SMALL if isinstance(cost, FlexGenCost) or shape.kv_dtype else (eight, four)
    return EngineConfig(
        total_blocks=_device_blocks(run, shape, cost, scheduler, block_tokens),
        block_tokens=block_tokens,
        block_bytes=block_bytes,
        small_block_bytes=small,
        kv_bits=cost.kv_bits,
        slabs=slabs_of(block_bytes, eight, four),
        host_blocks=int(run.host_memory_gib * 2**30 // block_bytes),
        max_model_len=run.max_model_len or shape.max_model_len,
        layers=shape.layers,
        prefix_caching=run.prefix_caching,
        lag=run.lag,
    )


def _device_blocks(
    run: RunConfig, shape: ModelShape, cost: StepCost, scheduler: Scheduler, block_tokens: int
) -> int:
    """Blocks of KV cache that the device holds: as measured, or what weights and the activations of
    the scheduler's largest step leave.

    The KV cache of a scheduler with a `free_gpu_memory_fraction` takes that share of the memory
    that is free beside the weights, in place of `run.gpu_memory_utilization` less the weights.
    """
    if run.kv_blocks:
        return run.kv_blocks
    free_share = getattr(scheduler, "free_gpu_memory_fraction", None)
    utilization = run.gpu_memory_utilization if free_share is None else 1.0
    if isinstance(cost, FlexGenCost):
        return cost.capacity_blocks(block_tokens, utilization)
    if measured := measured_blocks(run, cost, scheduler, block_tokens):
        return measured
    device = find_device(run.device, run.costs)
    longest = run.max_model_len or shape.max_model_len
    step = largest_step_of(scheduler, longest, run.prefix_caching)
    return kv_capacity_blocks(
        shape, device, run.tp, block_tokens, utilization, free_share or 1.0, step
    )


def _check_demands(config: Config, kv_bits: int) -> None:
    """Refuse a class that was told to have more bits than the whole cache has."""
    if kv_bits == FULL_BITS:
        return
    held_by = f"the kv_dtype of the profile {config.run.costs}"
    reason = held_by if kv_bits == 8 else "scheduler.compress_cache"
    classes = config.service_classes()
    for name, table in config.classes.items():
        asked = classes[name].min_kv_bits
        if "min_kv_bits" in table and asked > kv_bits:
            raise ConfigError(
                f"classes.{name}.min_kv_bits: expected at most {kv_bits}, what the cache has by "
                f"{reason}, got {asked}"
            )


def copy_seconds(config: Config) -> Callable[[int, str], float]:
    """Seconds that copying so many blocks in a direction (`h2d`, `d2h`) takes in this run."""
    engine, cost = build_engine(config)
    return lambda blocks, direction: cost.transfer_s(*engine.copy_size(blocks), direction)


def load_model(run: RunConfig) -> LoadModel:
    """How the configuration wants the workload to be sent."""
    return LoadModel(run.concurrency, run.sessions == "closed", run.backlog, run.in_flight)


def _load_summary(run: RunConfig, left: dict[str, int]) -> dict[str, Any]:
    """The `load` block of `summary.json`."""
    return {
        "model": "closed loop" if run.concurrency else "open loop",
        "concurrency": run.concurrency,
        "sessions": run.sessions,
        "backlog": dict(run.backlog),
        "in_flight": dict(run.in_flight),
        "backlog_left": left,
        "duration_s": run.duration_s or None,
        "window_s": list(run.window_s) or None,
    }


def _named(place: str, name: str, load: Callable[[str], _T]) -> _T:
    """What `load` finds; its ConfigError gains the setting."""
    try:
        return load(name)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
