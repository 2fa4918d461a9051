"""A run of vLLM as LLMServingSim's bench records it: stamps of every request, state by second.

`RUN/vllm/{meta.json,requests.jsonl,timeseries.csv}` and the workload that was replayed. All stamps
but `arrival_time` are of the engine's clock; `arrival_time` is of the wall clock of the process
that sends. The two are laid over each other so that nobody is queued before having arrived.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superinfer.errors import InputError
from traces.readers import read_trace
from traces.workload import Workload

Array = NDArray[np.float64]
_STAMPS = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
_STATES = ("running", "waiting")


@dataclass(frozen=True, slots=True)
class Stamps:
    """Seconds since the first arrival, one per request in the order of the workload."""

    queued_s: Array
    """The engine takes the request in: at the end of the step during which it came."""
    scheduled_s: Array
    first_s: Array
    last_s: Array


@dataclass(frozen=True, slots=True)
class BenchRun:
    """What was sent, and what the real system did with it."""

    name: str
    meta: dict[str, Any]
    workload: Workload
    arrival_s: Array
    stamps: Stamps
    states: dict[str, Array]
    """`t_s` (seconds since the first arrival), `running` and `waiting` at the ends of seconds."""
    bar: dict[tuple[str, str], float]
    """What another simulator missed by, as a share, by metric and statistic; often empty."""

    @property
    def prompt_tokens(self) -> Array:
        """Prompt lengths."""
        return np.array([request.prompt_tokens for request in self.workload.requests], float)

    @property
    def output_tokens(self) -> Array:
        """Answer lengths."""
        return np.array(self.workload.output_tokens, float)


def read_run(folder: Path, workload: Path) -> BenchRun:
    """Read a run's folder and its workload; InputError names what cannot be used."""
    meta = _object(folder / "vllm" / "meta.json")
    sent = read_trace(workload)
    rows = _rows(folder / "vllm" / "requests.jsonl", sent)
    arrival_s, stamps = _clocks(rows)
    for request, at_s in zip(sent.requests, arrival_s, strict=True):
        request.arrival_s = float(at_s)
    states = _states(folder / "vllm" / "timeseries.csv", stamps)
    bar = _bar(folder / "validation" / "summary.txt")
    return BenchRun(folder.name, meta, sent, arrival_s, stamps, states, bar)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except ValueError as error:
        raise InputError(f"expected JSON: {error}", file=str(path)) from None
    if not isinstance(found, dict):
        raise InputError("expected an object", file=str(path))
    return found


def _rows(path: Path, workload: Workload) -> dict[str, Array]:
    """The columns of requests.jsonl, checked against the workload line by line."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = {
            name: np.array([line[name] for line in lines], float)
            for name in ("arrival_time", "input_toks", "output_toks", *_STAMPS)
        }
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"expected stamps of every request: {error}", file=str(path)) from None
    prompts = [float(request.prompt_tokens) for request in workload.requests]
    if columns["input_toks"].tolist() != prompts:
        raise InputError("expected the requests of the workload, in its order", file=str(path))
    return columns


def _clocks(rows: dict[str, Array]) -> tuple[Array, Stamps]:
    """Arrivals and stamps on one clock that begins with the first arrival."""
    start_s = rows["arrival_time"][0]
    ahead_s = float(np.max(rows["arrival_time"] - rows["queued_ts"]))
    return rows["arrival_time"] - start_s, Stamps(
        *(rows[name] + ahead_s - start_s for name in _STAMPS)
    )


def _states(path: Path, stamps: Stamps) -> dict[str, Array]:
    """The time series; its clock starts with the logger, and is placed by the stamps."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("t", *_STATES)}
    offsets = np.arange(0.0, 2.0, 0.01)
    misses = [
        np.abs(states_at(stamps, columns["t"] - offset)["running"] - columns["running"]).sum()
        for offset in offsets
    ]
    at_s = columns["t"] - offsets[int(np.argmin(misses))]
    return {"t_s": at_s, **{name: columns[name] for name in _STATES}}


def states_at(stamps: Stamps, at_s: Array) -> dict[str, Array]:
    """Requests that run and that wait at given times."""

    def between(begin_s: Array, end_s: Array) -> Array:
        inside = (begin_s[:, None] <= at_s) & (at_s < end_s[:, None])
        return np.asarray(inside.sum(axis=0), float)

    return {
        "running": between(stamps.scheduled_s, stamps.last_s),
        "waiting": between(stamps.queued_s, stamps.scheduled_s),
    }


def contexts(run: BenchRun, stamps: Stamps, at_s: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Tokens of every request (rows) at given times (columns), and whether it is running then."""
    begin, end = stamps.first_s[:, None], stamps.last_s[:, None]
    share = np.clip((at_s - begin) / np.maximum(end - begin, 1e-9), 0.0, 1.0)
    answered = np.where(at_s >= begin, 1.0 + share * (run.output_tokens[:, None] - 1), 0.0)
    running = (stamps.scheduled_s[:, None] <= at_s) & (at_s < end)
    return run.prompt_tokens[:, None] + answered, running


_METRICS = {"TTFT": "TTFT", "TPOT": "TPOT", "Latency": "E2E"}
_STATISTICS = {"Mean": "mean", "Median": "P50", "P90": "P90", "P95": "P95", "P99": "P99"}


def _bar(path: Path) -> dict[tuple[str, str], float]:
    """The last column of a summary of lines like `TTFT P90  16852.7  16119.1  -4.4%`."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 5 and words[0] in _METRICS and words[1] in _STATISTICS:
            found[_METRICS[words[0]], _STATISTICS[words[1]]] = float(words[4].rstrip("%")) / 100
    return found
