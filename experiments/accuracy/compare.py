"""A real run of vLLM laid beside its simulation, metric by metric and second by second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.accuracy.bench_run import Array, BenchRun, Stamps, contexts, states_at
from sim.run import SimResult, run_simulation
from superinfer.costs.shapes import canonical_name
from superinfer.lab.config import Config, load_config
from superinfer.records.run import RunRecord

STATISTICS = {"mean": None, "P50": 50, "P90": 90, "P95": 95, "P99": 99}
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """One statistic of one metric, ms; errors as shares of the real value."""

    metric: str
    statistic: str
    real_ms: float
    simulated_ms: float
    bar: float | None
    interval_ms: tuple[float, float]
    """95 % of the real value under resampling of the requests."""

    @property
    def error(self) -> float:
        """Simulated against real."""
        return self.simulated_ms / self.real_ms - 1.0

    @property
    def inside(self) -> bool:
        """Whether the simulated value lies in the real one's interval."""
        return self.interval_ms[0] <= self.simulated_ms <= self.interval_ms[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A real run and its simulation."""

    run: BenchRun
    stamps: Stamps
    lines: list[Line]
    per_request: dict[str, float]
    """Mean absolute difference of single requests by metric, ms."""
    states: dict[str, tuple[Array, Array]]
    """Real and simulated `running`, `waiting` and `kv_share`, at the times of the series."""
    trust: dict[str, Any]
    hit_share: float
    preemptions: int
    total_blocks: int


def run_config(run: BenchRun, device: str, costs: str = "auto") -> Config:
    """The settings that the run was started with, and those that vLLM takes where none is given.

    Its number of KV blocks where `meta.json` says it, else by the memory; asynchronous scheduling
    and prefix caching are what the release does by default.
    """
    given, cache = run.meta["engine_kwargs"], run.meta.get("kv_cache") or {}
    caching = cache.get("enable_prefix_caching")
    return load_config(
        None,
        [
            f"scheduler.max_num_seqs={given['max_num_seqs']}",
            f"scheduler.max_num_batched_tokens={given['max_num_batched_tokens']}",
        ],
        trace=run.name,
        scheduler="vllm_v1",
        memory="vllm_v1",
        model=canonical_name(run.meta["model"]),
        device=device,
        tp=int(given["tensor_parallel_size"]),
        costs=costs,
        lag=1,
        prefix_caching=True if caching is None else bool(caching),
        kv_blocks=int(cache.get("num_gpu_blocks") or 0),
        max_model_len=int(given.get("max_model_len") or 0),
        gpu_memory_utilization=float(cache.get("gpu_memory_utilization") or 0.9),
    )


def compare(run: BenchRun, config: Config) -> Comparison:
    """Simulate the run and lay the two beside each other."""
    result = run_simulation(config, run.workload)
    record, stamps = result.record, simulated_stamps(run, result.record)
    real, ours = _metrics(run, run.stamps), _metrics(run, stamps)
    return Comparison(
        run=run,
        stamps=stamps,
        lines=[line for name in real for line in _lines(name, real[name], ours[name], run.bar)],
        per_request={name: float(np.mean(np.abs(ours[name] - real[name]))) for name in real},
        states=_states(run, stamps, result),
        trust=result.trust,
        hit_share=record.prefix_hit_tokens / max(1, record.prefix_query_tokens),
        preemptions=int(record.table.preemptions.sum()),
        total_blocks=record.total_blocks,
    )


def simulated_stamps(run: BenchRun, record: RunRecord) -> Stamps:
    """The same stamps of the simulation; a request is taken in where a step ends."""
    table = record.table
    first_s, last_s = table.first_token_s, table.finish_s
    ends_s = np.unique(np.concatenate((record.tokens.decode_end_s, first_s, last_s)))
    following = np.minimum(np.searchsorted(ends_s, run.arrival_s), len(ends_s) - 1)
    busy = np.array([np.any((run.arrival_s < at_s) & (last_s > at_s)) for at_s in run.arrival_s])
    queued_s = np.where(busy, ends_s[following], run.arrival_s)
    queued_s = np.minimum(queued_s, table.first_scheduled_s)
    return Stamps(queued_s, table.first_scheduled_s, first_s, last_s)


def _metrics(run: BenchRun, stamps: Stamps) -> dict[str, Array]:
    """ms of every request."""
    gaps = np.maximum(run.output_tokens - 1, 1)
    return {
        "TTFT": 1e3 * (stamps.first_s - stamps.queued_s),
        "TPOT": 1e3 * (stamps.last_s - stamps.first_s) / gaps,
        "E2E": 1e3 * (stamps.last_s - stamps.queued_s),
    }


def _lines(metric: str, real: Array, ours: Array, bar: dict[tuple[str, str], float]) -> list[Line]:
    drawn = np.random.default_rng(0).integers(0, len(real), (RESAMPLES, len(real)))
    found = []
    for name, quantile in STATISTICS.items():
        low, high = np.percentile(_statistic(real[drawn], quantile), [2.5, 97.5])
        known, simulated = (float(_statistic(data, quantile)) for data in (real, ours))
        interval = (float(low), float(high))
        found.append(Line(metric, name, known, simulated, bar.get((metric, name)), interval))
    return found


def _statistic(values: Array, quantile: int | None) -> Any:
    if quantile is None:
        return np.mean(values, axis=-1)
    return np.percentile(values, quantile, axis=-1)


def _states(run: BenchRun, stamps: Stamps, result: SimResult) -> dict[str, tuple[Array, Array]]:
    """Running and waiting as the series has them; KV from the stamps on both sides."""
    if not run.states:
        return {}
    at_s, record = run.states["t_s"], result.record
    ours = states_at(stamps, at_s)
    found = {name: (run.states[name], ours[name]) for name in ("running", "waiting")}
    blocks = [_blocks(run, side, at_s, record.block_tokens) for side in (run.stamps, stamps)]
    shares = [used / record.total_blocks for used in blocks]
    return found | {"kv_share": (shares[0], shares[1])}


def _blocks(run: BenchRun, stamps: Stamps, at_s: Array, block_tokens: int) -> Array:
    """Blocks of running requests: prompt and the answer so far, in a line between its tokens."""
    tokens, running = contexts(run, stamps, at_s)
    return np.asarray(np.where(running, np.ceil(tokens / block_tokens), 0.0).sum(axis=0))


def recorded(found: Comparison) -> dict[str, Any]:
    """What is kept of a comparison, as JSON."""
    return {
        "model": found.run.meta["model"],
        "vllm": found.run.meta.get("vllm_version", ""),
        "requests": len(found.run.workload.requests),
        "lines": [
            {
                "metric": line.metric,
                "statistic": line.statistic,
                "real_ms": line.real_ms,
                "simulated_ms": line.simulated_ms,
                "error": line.error,
                "bar": line.bar,
                "interval_ms": list(line.interval_ms),
            }
            for line in found.lines
        ],
        "per_request_ms": found.per_request,
        "at_s": [round(float(at_s), 3) for at_s in found.run.states.get("t_s", ())],
        "states": {
            name: {"real": _rounded(real), "simulated": _rounded(ours)}
            for name, (real, ours) in found.states.items()
        },
        "hit_share": found.hit_share,
        "preemptions": found.preemptions,
        "total_blocks": found.total_blocks,
        "trust": found.trust,
    }


def _rounded(values: Array) -> list[float]:
    return [round(float(value), 5) for value in values]
