"""A real run of vLLM, simulated, and how far apart the two are.

    python -m experiments.accuracy serving [--run DIR --workload FILE] [--costs FILE] [--out DIR]
    python -m experiments.accuracy serving --without attention_uneven
    python -m experiments.accuracy serving --fit

Without `--run` it is the run under `validation/llmservingsim_bench` of the data folder. The
settings come from the run's `meta.json`, the arrivals from its stamps. TTFT and E2E count from when
the engine takes a request in, as the run's own summary has it. `--without` leaves kernels that a
profile need not have, or `chunked_s`, out of the shipped one. `--fit` measures the one constant
that is fitted to a run, `host.chunked_s`. Results: docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.accuracy.bench_run import Array, BenchRun, Stamps, read_run, states_at
from experiments.accuracy.serving_page import draw, page
from experiments.fit_profiles import data_folder
from sim.run import SimResult, run_simulation
from superinfer.costs import (
    DEFAULT_HOST,
    Chunk,
    StepCost,
    build_cost,
    list_profiles,
    load_profile,
    write_profile,
)
from superinfer.costs.shapes import canonical_name
from superinfer.errors import ConfigError
from superinfer.lab.config import Config, load_config
from superinfer.record import RunRecord

BENCH = Path("validation", "llmservingsim_bench")
RUN = BENCH / "RTXPRO6000" / "Llama-3.1-8B"
WORKLOAD = BENCH / "workload_sharegpt-llama-3.1-8b-300-sps10.nocontent.jsonl.gz"
DEVICES = {"RTXPRO6000": "rtxpro6000"}
STATISTICS = {"mean": None, "P50": 50, "P90": 90, "P95": 95, "P99": 99}
RESAMPLES = 2000
FULL_SHARE = 0.93
"""Steady: at least this share of the places is taken."""
FIRST_STEADY_S = 2.0


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


def contexts(run: BenchRun, stamps: Stamps, at_s: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Tokens of every request (rows) at given times (columns), and whether it is running then."""
    begin, end = stamps.first_s[:, None], stamps.last_s[:, None]
    share = np.clip((at_s - begin) / np.maximum(end - begin, 1e-9), 0.0, 1.0)
    answered = np.where(at_s >= begin, 1.0 + share * (run.output_tokens[:, None] - 1), 0.0)
    running = (stamps.scheduled_s[:, None] <= at_s) & (at_s < end)
    return run.prompt_tokens[:, None] + answered, running


# -- the constant ---------------------------------------------------------------------------------


def chunked_samples(run: BenchRun, cost: StepCost) -> Array:
    """What single steps with one prompt took beyond their kernels, in seconds, one per step.

    From being scheduled to its first token a request that comes in alone waits for the decode step
    that is under way and for its own. Only requests count that find nothing in the prefix cache,
    whose prompt fits one step, and that come while nearly all places are taken: the steady state.
    """
    places = int(run.meta["engine_kwargs"]["max_num_seqs"])
    budget = int(run.meta["engine_kwargs"]["max_num_batched_tokens"])
    stamps = run.stamps
    samples: list[float] = []
    seen: set[int] = set()
    own_s = cost.host.chunked_s
    for row, request in enumerate(run.workload.requests):
        known = bool(request.hash_ids) and request.hash_ids[0] in seen
        seen.update(request.hash_ids or ())
        at_s = stamps.scheduled_s[row]
        if known or at_s < FIRST_STEADY_S or not _alone(stamps, row):
            continue
        tokens, running = contexts(run, stamps, np.array([at_s]))
        decoding = running[:, 0] & (stamps.first_s < at_s)
        held = tokens[decoding, 0]
        decodes, context = len(held), int(held.sum())
        if decodes < FULL_SHARE * places or request.prompt_tokens > budget - places:
            continue
        before_s = cost.step_s((), decodes, context)
        before_s += cost.uneven_s(decodes, context, int(held.max()))
        chunk = Chunk(request.prompt_tokens, 0)
        step_s = cost.step_s((chunk,), decodes, context + decodes) - own_s
        samples.append(float(stamps.first_s[row] - at_s - before_s - step_s))
    return np.array(samples)


def _alone(stamps: Stamps, row: int) -> bool:
    """Nobody else's prompt is in its step or in the one under way."""
    at_s = stamps.scheduled_s[row]
    others = np.arange(len(stamps.first_s)) != row
    prefilling = (stamps.scheduled_s < at_s + 2e-3) & (stamps.first_s > at_s + 1e-3)
    return not np.any(others & prefilling)


def _fit(run: BenchRun, device: str, costs: str) -> int:
    config = run_config(run, device, costs)
    cost = build_cost(config.run.model, device, config.run.tp, costs)
    samples = 1e3 * chunked_samples(run, cost)
    if len(samples) < 2:
        raise ConfigError("--fit: expected steps in which one prompt came in alone, found too few")
    print(
        f"{len(samples)} steps took {np.median(samples):.2f} ms beyond their kernels (median, "
        f"standard error {median_error(samples):.2f}; mean {samples.mean():.2f}); the profile has "
        f"{1e3 * cost.host.chunked_s:g} ms"
    )
    return 0


def median_error(samples: Array) -> float:
    """Standard error of the median of samples that are about normally distributed."""
    return float(np.sqrt(np.pi / 2) * samples.std(ddof=1) / np.sqrt(len(samples)))


# -- command --------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Print the tables, or with `--out` write them, the figures as JSON and the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.accuracy serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--run", type=Path)
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--device", help="default: by the name of the folder above the run's")
    parser.add_argument("--costs", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--without", nargs="+", default=(), metavar="KERNEL")
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args(arguments)
    folder = options.run or options.data / RUN
    run = read_run(folder, options.workload or options.data / WORKLOAD)
    device = options.device or DEVICES.get(folder.resolve().parent.name, "rtxpro6000")
    if options.fit:
        return _fit(run, device, options.costs)
    with TemporaryDirectory() as scratch:
        costs = options.costs
        if options.without:
            costs = _without(run, device, options.without, Path(scratch) / "profile.json")
        found = compare(run, run_config(run, device, costs))
    text = page(found)
    sys.stdout.write(text)
    if options.out:
        _write(found, text, options.out)
    return 0


def _without(run: BenchRun, device: str, names: list[str], path: Path) -> str:
    """The shipped profile without some of its parts, written to `path`."""
    wanted = (device, canonical_name(run.meta["model"]))
    shipped = next((each.path for each in list_profiles() if each[:2] == wanted), None)
    if shipped is None:
        raise ConfigError(f"--without: expected a shipped profile of {' and '.join(wanted)}")
    profile = load_profile(shipped)
    kernels = {name: kernel for name, kernel in profile.kernels.items() if name not in names}
    lost = "chunked_s" in names
    host = profile.host
    if lost:
        host = replace(host, chunked_s=0.0, origin=DEFAULT_HOST.origin)
    if len(kernels) + len(names) != len(profile.kernels) + lost:
        raise ConfigError(f"--without: expected chunked_s or some of {', '.join(profile.kernels)}")
    write_profile(replace(profile, kernels=kernels, host=host), path)
    return str(path)


def _write(found: Comparison, text: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "serving.md").write_text(text, encoding="utf-8")
    figures = [
        {"metric": line.metric, "statistic": line.statistic, "real_ms": line.real_ms}
        | {"simulated_ms": line.simulated_ms, "error": line.error, "bar": line.bar}
        for line in found.lines
    ]
    (out / "serving.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if found.states:
        draw(found, out / "serving.png")
