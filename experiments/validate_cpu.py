"""The simulator against the executor on this machine's CPU: `make validate`, and with
`RECORD=experiments/results/cpu` what it finds is recorded (`python -m experiments.validate_cpu
--record experiments/results/cpu` in any environment).

The shipped model is calibrated, then a trace of some hundred requests runs under `vllm` and
`rotating`, on the device three times each and in the simulator once. Memory is short: the KV cache
holds about a dozen requests. They come in bursts, each within a share of the time that serving it
takes, whatever the machine's speed; the simulator with the profile says what that time is. Between
bursts the queue ends, so that a small error of the speed stays a small error of the waiting times.

Others use the same CPU, and its speed changes within minutes by more than the errors that are to be
seen. So calibration and runs go by the steady clock (`executor/clocks/timers.py`): processor time
of the thread that works, at the speed that a yardstick shows, idle times left out. The record says
how the yardstick's samples lay in each run. That clock counts one thread, so everything runs with
`OMP_NUM_THREADS=1`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from executor.calibration.ceilings import hardware
from executor.calibration.report import profile_lines
from executor.device import executor_versions
from executor.shipped import TINY
from executor.validation.validate import Outcome, Wish, gate, validate_all, winners
from experiments.tables import write_pages
from superinfer.costs.profile_file import load_profile
from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab.cli.complaints import INTERRUPTED
from superinfer.lab.cli.terminal import say
from superinfer.lab.studies.content import code_hash

SCHEDULERS = ("vllm", "rotating")
MAX_ERROR = 0.10
BLOCK_TOKENS = 16
KV_BLOCKS = 120
LONGEST = 512
SEED = 0
SEQUENCES = 32
THREADS = "OMP_NUM_THREADS"
LEAST_MINUTES = 0.1
"""That `superinfer-exec calibrate` takes."""
BURSTS = 6
ARRIVAL_SHARE = 0.2
"""The requests of a burst come in this share of the time that serving it takes…"""
PAUSE_SHARE = 1.3
"""…and those of the next one begin after so many times that time."""
RESULTS = Path(__file__).parent / "results" / "cpu"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done."""

    requests: int
    repeats: int
    minutes: float
    """Of calibration."""


def main(arguments: list[str] | None = None) -> int:
    """Calibrate, run, compare; 3 if an error is above the limit or another policy wins, 2 or 1
    with a line if it fails.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    try:
        with threads():
            return validate(options, given)
    except SuperInferError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED


@contextmanager
def threads() -> Iterator[None]:
    """One thread for torch in every command that is run here."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


def validate(options: argparse.Namespace, given: list[str]) -> int:
    """All of it; the exit code."""
    sizes = Sizes(options.requests, options.repeats, options.minutes)
    work: Path = options.work
    for folder in (work, *([options.record] if options.record else [])):
        _made(folder)  # what cannot be written is known before anything runs
    origin = origin_of(given, sizes)
    profile = calibrated(work, sizes)
    trace = write_trace(work / "trace.jsonl", sizes.requests, 1.0)
    span_s = busy_seconds(trace, profile, work)
    write_trace(trace, sizes.requests, span_s)
    say(f"{sizes.requests} requests, {span_s:.0f} s of work, in {BURSTS} bursts")
    wish = Wish(str(trace), profile, SCHEDULERS, tuple(run_options()), sizes.repeats, work / "runs")
    outcomes = validate_all(wish, say)
    lines = list(report(profile, outcomes, sizes, span_s))
    print("\n".join(lines))
    if options.record:
        record(options.record, outcomes, lines, profile, origin)
    return 0 if gate(outcomes, MAX_ERROR) else 3


def origin_of(arguments: list[str], sizes: Sizes) -> dict[str, Any]:
    """What the figures rest on: command, time, machine, how busy it is, versions, sources."""
    import torch

    command = ["python", "-m", "experiments.validate_cpu", *arguments]
    machine = hardware(torch.device("cpu")) | {"threads": 1, "processors": os.cpu_count()}
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "platform": platform.platform(),
        "threads": os.environ.get(THREADS, ""),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": executor_versions(),
        "source": code_hash(("superinfer", "sim", "executor", "traces"))[:12],
        "sizes": asdict(sizes),
        "seed": SEED,
        "run": [option.replace(str(TINY), "tiny") for option in run_options()],
        "bursts": {"count": BURSTS, "arrivals": ARRIVAL_SHARE, "period": PAUSE_SHARE},
    }


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be a folder: {error.strerror}", file=str(folder)) from None


def calibrated(work: Path, sizes: Sizes) -> Path:
    """A profile of the shipped model on this CPU, fresh."""
    path = work / "profile.json"
    command = ["calibrate", "--device", "cpu", "--minutes", str(sizes.minutes), "-o", str(path)]
    command += ["--block-tokens", str(BLOCK_TOKENS), "--max-model-len", str(LONGEST)]
    command += ["--max-sequences", str(SEQUENCES), "--kv-blocks", str(KV_BLOCKS)]
    _call("executor", [*command, "--clock", "steady"])
    return path


def run_options() -> list[str]:
    """Of both policies."""
    settings = {
        "run.kv_blocks": KV_BLOCKS,
        "run.block_tokens": BLOCK_TOKENS,
        "run.max_model_len": LONGEST,
        "run.host_memory_gib": 0.5,
        "scheduler.max_num_seqs": SEQUENCES,
    }
    pairs = [f"{key}={value}" for key, value in settings.items()]
    return ["--device", "cpu", "--model", str(TINY), *(f"--set={pair}" for pair in pairs)]


def write_trace(path: Path, requests: int, span_s: float) -> Path:
    """Chat and batch requests in bursts, all of them `span_s` of work; lengths even in the
    logarithm.
    """
    random = np.random.default_rng(SEED)
    burst_ms = 1000 * span_s / BURSTS
    begins_ms = PAUSE_SHARE * burst_ms * (np.arange(requests) * BURSTS // requests)
    within_ms = random.uniform(0.0, ARRIVAL_SHARE * burst_ms, requests)
    times = np.sort(begins_ms + within_ms).round(3).tolist()
    prompts = np.exp(random.uniform(np.log(16), np.log(256), requests)).astype(int).tolist()
    answers = np.exp(random.uniform(np.log(8), np.log(96), requests)).astype(int).tolist()
    classes = random.choice(["chat", "batch"], requests, p=[0.7, 0.3]).tolist()
    rows = zip(times, prompts, answers, classes, strict=True)
    path.write_text("".join(f"{json.dumps(_row(*row))}\n" for row in rows), encoding="utf-8")
    return path


def _row(timestamp: float, prompt: int, answer: int, name: str) -> dict[str, Any]:
    return {
        "timestamp": timestamp,
        "input_length": prompt,
        "output_length": answer,
        "class": name,
    }


def busy_seconds(trace: Path, profile: Path, work: Path) -> float:
    """How long the simulator takes to serve the trace if all of it comes at once."""
    costs = f"--set=run.costs={json.dumps(str(profile))}"
    command = ["run", str(trace), "--scheduler", "vllm", *run_options(), costs]
    out = work / "at-once"
    shutil.rmtree(out, ignore_errors=True)
    summary = json.loads(_call("sim", [*command, "--no-plots", "--json", "--out", str(out)]))
    return float(summary["duration"])


def report(profile: Path, outcomes: list[Outcome], sizes: Sizes, span_s: float) -> Iterator[str]:
    """Everything in text."""
    yield from profile_lines(load_profile(profile))
    yield (
        f"{sizes.requests} requests, {span_s:.1f} s of work, in {BURSTS} bursts; "
        f"{KV_BLOCKS} blocks of {BLOCK_TOKENS} tokens"
    )
    for outcome in outcomes:
        yield from outcome.lines(MAX_ERROR)
    yield from (verdict.line for verdict in winners(outcomes))


def record(
    folder: Path, outcomes: list[Outcome], lines: list[str], profile: Path, origin: dict[str, Any]
) -> None:
    """Leave the figures, the pictures and the profile in a folder, as `validate*`."""
    for outcome in outcomes:
        outcome.plot(folder).replace(folder / f"validate-{outcome.scheduler}.png")
    begin_s = datetime.fromisoformat(origin["date"]).timestamp()
    data = {
        **origin,
        "seconds": round(time.time() - begin_s, 1),
        "max_error": MAX_ERROR,
        "fit": load_profile(profile).fit,
        "yardstick": load_profile(profile).yardstick,
        "outcomes": [outcome.row(MAX_ERROR) for outcome in outcomes],
        "winners": [verdict.line for verdict in winners(outcomes)],
    }
    (folder / "validate.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    head = [f"{origin['command']}, {origin['date']}, {origin['machine']['name']}"]
    (folder / "validate.txt").write_text("\n".join(head + lines) + "\n", encoding="utf-8")
    shutil.copyfile(profile, folder / "validate-profile.json")
    if folder.resolve() == RESULTS.resolve():
        write_pages()


def _call(module: str, arguments: list[str]) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        kind = ConfigError if done.returncode == ConfigError.exit_code else SuperInferError
        raise kind(f"{module} {arguments[0]}: {words[-1].removeprefix('error: ')}")
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.validate_cpu", description=__doc__)
    parser.add_argument("--requests", type=_above_zero(int), default=300)
    parser.add_argument("--repeats", type=_above_zero(int), default=3)
    parser.add_argument(
        "--minutes",
        type=_above_zero(float, LEAST_MINUTES),
        default=1.5,
        help=f"of calibration, {LEAST_MINUTES} at least",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/validate-cpu"))
    parser.add_argument("--record", type=Path, help="also write here, as experiments/results/cpu")
    return parser


def _above_zero(kind: Callable[[str], float], least: float = 0.0) -> Callable[[str], float]:
    """Reads a number; argparse names the option where it is none."""

    def read(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        if value < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {text}")
        return value

    read.__name__ = "number"
    return read


if __name__ == "__main__":
    raise SystemExit(main())
