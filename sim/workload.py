"""The workload of a configuration: a trace that is read, or a specification that is drawn from."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from superinfer.lab.config import Config, bundled_configs
from traces.loading import is_spec, load, source_files
from traces.workload import Workload


def load_workload(config: Config) -> Workload:
    """The requests of a run, with the classes of the configuration; `[workload]` is laid over a
    specification.
    """
    run = config.run
    workload = load(run, config.service_classes(), config.workload)
    if run.trace in bundled_configs() and is_spec(run.trace) and not (run.backlog or run.in_flight):
        workload.warnings.append(
            f"{run.trace}: without a backlog all batch requests arrive at time 0; "
            f"--config {run.trace} has the backlog, the hardware and the window of this scenario"
        )
    return workload


def workload_files(config: Config) -> list[Path]:
    """What the requests of a run are read from, or drawn from."""
    run = config.run
    return source_files(run.trace, config.service_classes(), config.workload)


def load_in_worker(config: Config, stdin: Path | None) -> Workload:
    """The requests of a run, without standard input; `stdin` is a file of what that gave."""
    if stdin is not None:
        feed_stdin(stdin.read_bytes())
    return load_workload(config)


def kept_stdin(config: Config) -> bytes | None:
    """All of standard input where the trace is `-`; it can be read once more."""
    if config.run.trace != "-" or sys.stdin is None:
        return None
    data = sys.stdin.buffer.read()
    feed_stdin(data)
    return data


def feed_stdin(data: bytes) -> None:
    """Let standard input give these bytes."""
    sys.stdin = io.TextIOWrapper(io.BytesIO(data))
