"""Speed of the simulator, as whole processes: `python -m experiments.bench`.

Each case runs `superinfer-sim run --no-plots` in a process of its own, from start to result folder,
with Python's bytecode cache filled as after a first run. Machines are noisy and shared, so every
case stands beside the number of bare SimPy timeouts that the machine gets through per CPU second at
that moment; the scaled figure is requests per CPU second if there were 800,000 of them.

The standard workload: Poisson arrivals at 8 requests/s, 512 prompt and 192 output tokens,
Llama-3.1-8B on one A100-80G. With content every prompt has its ids, in blocks of 16 tokens, and its
first half is the same for all: prefix caching under `slo_aware` keeps and finds it. Many tenants
ask for 2.6 times what the GPU does, in four classes; many replicas get the same mix, each a load
that it can bear. `--million` adds the marginal cost of a request in a run of a million, and
`--only` measures some of the cases alone.
`make bench` compiles the core first; with SUPERINFER_INTERPRETED=1 its sources are measured.
How long a scheduler takes to decide is measured inside one process (`experiments.decisions`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import superinfer
from experiments.decisions import decision_times
from experiments.studykit.reading import data_folder
from superinfer.lab.versions import processor
from superinfer.schedulers import SCHEDULERS as REGISTERED

REFERENCE_TIMEOUTS_PER_S = 800_000
TIMEOUTS = 400_000
"""Of SimPy alone, by which the speed of the machine is known."""
SCHEDULERS = ("vllm", "fcfs", "priority", "rotating")
RIVALS = tuple(name for name in REGISTERED if name not in SCHEDULERS)
MILLION = 1_000_000
RATE_PER_S, PROMPT_TOKENS, OUTPUT_TOKENS = 8.0, 512, 192
BLOCK_TOKENS = 16
TENANTS, TENANTS_RATE_PER_S = 5000, 40.0
REPLICAS, REPLICA_RATE_PER_S = 128, 12.0
CLASSES = ("chat", "code", "agent", "batch")
PROMPTS_TOKENS, ANSWERS_TOKENS = (100, 900), (20, 300)
WITH_CONTENT = ("vllm", "rotating")
"""Schedulers that run with content ids, too."""


@dataclass(slots=True)
class Measurement:
    """One whole process."""

    case: str
    requests: int
    wall_s: float
    cpu_s: float
    """User and system time, all threads."""
    requests_per_s: float
    """By the wall clock."""
    scaled_requests_per_s: float
    peak_rss_mib: float
    simpy_timeouts_per_s: float


def write_standard_workload(path: Path, requests: int, *, content: bool = False) -> None:
    """The standard workload as a native trace, with `content` also with content ids."""
    gaps_s = np.random.default_rng(0).exponential(1 / RATE_PER_S, requests)
    lengths = f'"input_length":{PROMPT_TOKENS},"output_length":{OUTPUT_TOKENS}'
    with path.open("w") as file:
        for number, arrival_s in enumerate(np.cumsum(gaps_s).tolist()):
            ids = _content(number) if content else ""
            file.write(f'{{"timestamp":{1e3 * arrival_s!r},{lengths}{ids}}}\n')


def write_tenants_workload(path: Path, requests: int, rate_per_s: float) -> None:
    """Poisson arrivals of tenants and classes at random, with prompts and answers of all lengths
    between two, as a native trace.
    """
    rng = np.random.default_rng(0)
    arrivals_s = np.cumsum(rng.exponential(1 / rate_per_s, requests)).tolist()
    prompts, answers = (
        rng.integers(*bounds, requests, endpoint=True).tolist()
        for bounds in (PROMPTS_TOKENS, ANSWERS_TOKENS)
    )
    tenants = rng.integers(TENANTS, size=requests).tolist()
    classes = rng.choice(CLASSES, requests).tolist()
    with path.open("w") as file:
        for arrival_s, prompt, answer, tenant, name in zip(
            arrivals_s, prompts, answers, tenants, classes, strict=True
        ):
            lengths = f'"input_length":{prompt},"output_length":{answer}'
            who = f'"tenant":"t{tenant}","class":"{name}"'
            file.write(f'{{"timestamp":{1e3 * arrival_s!r},{lengths},{who}}}\n')


def _content(number: int) -> str:
    """The fields of a prompt whose first half everybody has and whose second half nobody else."""
    half = PROMPT_TOKENS // BLOCK_TOKENS // 2
    own = range(half * (number + 1), half * (number + 2))
    return f',"hash_block_size":{BLOCK_TOKENS},"hash_ids":{[*range(half), *own]}'


def bare_simpy_timeouts_per_s() -> float:
    """How many timeouts one SimPy process gets through in a CPU second, doing nothing else."""
    import simpy

    def ticks() -> Generator[simpy.Event, None, None]:
        for _ in range(TIMEOUTS):
            yield env.timeout(1)

    env = simpy.Environment()
    env.process(ticks())
    started = time.process_time()
    env.run()
    return TIMEOUTS / (time.process_time() - started)


def environment() -> dict[str, str]:
    """The environment of this process, with Python's bytecode cache on, as it is by default."""
    return {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure(case: str, trace: Path, requests: int, options: list[str]) -> Measurement:
    """Run the simulator on a trace; the best SimPy figure of before and after is the yardstick."""
    before = bare_simpy_timeouts_per_s()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sim", "run", str(trace), "--no-plots", "--json"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, *options, "--out", f"{folder}/run"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
    if status:
        raise SystemExit(f"{case}: the simulator exited with status {status}")
    yardstick = max(before, bare_simpy_timeouts_per_s())
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measurement(
        case=case,
        requests=requests,
        wall_s=wall_s,
        cpu_s=cpu_s,
        requests_per_s=requests / wall_s,
        scaled_requests_per_s=requests / cpu_s * REFERENCE_TIMEOUTS_PER_S / yardstick,
        peak_rss_mib=usage.ru_maxrss / 1024,
        simpy_timeouts_per_s=yardstick,
    )


def cases(requests: int, folder: Path) -> Iterator[tuple[str, Path, int, list[str]]]:
    """Name, trace, number of requests and options of every case."""
    standard, tenth, small = (folder / f"{name}.jsonl" for name in ("whole", "tenth", "thousand"))
    write_standard_workload(standard, requests)
    write_standard_workload(tenth, requests // 10)
    write_standard_workload(small, 1000)
    yield "standard, 1,000 requests, vllm", small, 1000, ["--scheduler", "vllm"]
    for scheduler in SCHEDULERS:
        yield f"standard, {scheduler}", standard, requests, ["--scheduler", scheduler]
    for scheduler in RIVALS:
        yield f"standard, {scheduler}", tenth, requests // 10, ["--scheduler", scheduler]
    prefill_first = ["--scheduler", "vllm", "--set", "scheduler.chunked=false"]
    yield "standard, vllm prefill-first", standard, requests, prefill_first
    shared = folder / "shared.jsonl"
    write_standard_workload(shared, requests, content=True)
    caching = ["--memory", "slo_aware", "--prefix-caching"]
    for scheduler in WITH_CONTENT:
        options = ["--scheduler", scheduler, *caching]
        yield f"shared halves, slo_aware, {scheduler}", shared, requests, options
    yield from _many(requests, folder)
    mooncake = data_folder() / "traces" / "mooncake" / "conversation_trace.jsonl.gz"
    if mooncake.exists():
        for scheduler in SCHEDULERS:
            yield f"mooncake, {scheduler}", mooncake, 12_031, ["--scheduler", scheduler]


def _many(requests: int, folder: Path) -> Iterator[tuple[str, Path, int, list[str]]]:
    """Many tenants on one replica, and many replicas."""
    tenants, replicas = folder / "tenants.jsonl", folder / "replicas.jsonl"
    asked, spread = 15 * requests // 100, 30 * requests // 100
    write_tenants_workload(tenants, asked, TENANTS_RATE_PER_S)
    write_tenants_workload(replicas, spread, REPLICAS * REPLICA_RATE_PER_S)
    for scheduler in ("rotating", "vtc"):
        yield f"many tenants, {scheduler}", tenants, asked, ["--scheduler", scheduler]
    for router in ("least_loaded", "slo_aware"):
        options = ["--replicas", f"{REPLICAS}", "--router", router]
        yield f"many replicas, {router}", replicas, spread, options


def median_of(repeats: int, case: tuple[str, Path, int, list[str]]) -> Measurement:
    """The run with the median of the scaled figure."""
    runs = [measure(*case) for _ in range(repeats)]
    runs.sort(key=lambda run: run.scaled_requests_per_s)
    return runs[len(runs) // 2]


def marginal_costs(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Scaled microseconds that one more request costs in a run of 100,000 and of a million."""
    found = []
    for scheduler in ("vllm", "rotating"):
        spent_s = {}
        for requests in (1000, MILLION // 10, MILLION):
            path = folder / f"{requests}.jsonl"
            write_standard_workload(path, requests)
            case = (f"{requests:,} requests, {scheduler}", path, requests)
            run = median_of(
                1 if requests == MILLION else repeats, (*case, ["--scheduler", scheduler])
            )
            spent_s[requests] = requests / run.scaled_requests_per_s
            print(_line(run), flush=True)
        small, middle, large = spent_s
        found.append(
            {
                "scheduler": scheduler,
                "us_at_100_000": 1e6 * (spent_s[middle] - spent_s[small]) / (middle - small),
                "us_at_1_000_000": 1e6 * (spent_s[large] - spent_s[middle]) / (large - middle),
            }
        )
        print(found[-1], flush=True)
    return found


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "simpy": version("simpy"),
        "numpy": version("numpy"),
        "core": "compiled" if superinfer.COMPILED else "interpreted",
    }


def main() -> None:
    """Measure every case and print a table (or JSON)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3, help="report the median of so many")
    parser.add_argument("--million", action="store_true", help="also the marginal cost (slow)")
    parser.add_argument(
        "--only", default="", help="cases with this in their name, and nothing else"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "cases": []}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(options.requests, Path(folder)):
            if options.only not in case[0]:
                continue
            if not figures["cases"]:
                measure(*case)  # fills the bytecode cache
            result = median_of(options.repeats, case)
            figures["cases"].append(asdict(result))
            print(_line(result), flush=True)
        figures["decisions"] = []
        for decision in () if options.only else decision_times(bare_simpy_timeouts_per_s):
            figures["decisions"].append(asdict(decision))
            print(decision.line(), flush=True)
        if options.million:
            figures["marginal"] = marginal_costs(Path(folder), options.repeats)
    if not figures["cases"]:
        parser.error(f"--only {options.only}: no case has this in its name")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _line(m: Measurement) -> str:
    return (
        f"{m.case:34} {m.requests:>8,} requests {m.wall_s:7.2f} s ({m.cpu_s:.2f} CPU) "
        f"{m.requests_per_s:>9,.0f}/s "
        f"(scaled {m.scaled_requests_per_s:>9,.0f}/s) {m.peak_rss_mib:6.0f} MiB, "
        f"SimPy {m.simpy_timeouts_per_s:>9,.0f} timeouts/s"
    )


if __name__ == "__main__":
    main()
