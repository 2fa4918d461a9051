"""The workload of a configuration: a trace that is read, or a specification that is drawn from."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import replace
from pathlib import Path

from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import Config, bundled_configs
from superinfer.request import SLO
from superinfer.settings import did_you_mean
from traces.gaps import scale_gaps
from traces.targets import scale_targets
from traces.workload import Workload


def load_workload(config: Config) -> Workload:
    """Read or generate the requests of a run, with the classes of the configuration.

    `run.trace` is a trace file, a specification (`*.toml`), or the name of a bundled one; a
    specification is drawn from with `run.seed`, and `[workload]` is laid over it.
    """
    run = config.run
    if not run.trace:
        raise ConfigError("TRACE: expected a trace file here or as run.trace in a --config file")
    workload = _generated(config) if is_spec(run.trace) else _read(config)
    scale_gaps(workload.requests, run.burstiness)
    scale_targets(workload.requests, run.slo_scale)
    return workload


def is_spec(trace: str) -> bool:
    """True if a trace is drawn from a specification, so that the seed matters."""
    if trace.endswith(".toml"):
        return True
    if os.path.exists(trace):  # the generator takes a while to import
        return False
    from traces.generate import bundled_specs

    return trace in bundled_specs()


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


def _generated(config: Config) -> Workload:
    from traces.generate import generate, load_spec

    run = config.run
    for name in ("spread", "skip_bad"):
        if getattr(run, name):
            raise ConfigError(
                f"run.{name}: expected a trace file, got the specification {run.trace}"
            )
    classes = config.service_classes()
    if run.without_slo:
        classes = {name: replace(known, slo=SLO()) for name, known in classes.items()}
    spec = load_spec(run.trace, config.workload, classes=classes)
    workload = generate(replace(spec, rate_scale=spec.rate_scale * run.rate_scale), run.seed)
    if run.trace in bundled_configs() and not (run.backlog or run.in_flight):
        workload.warnings.append(
            f"{run.trace}: without a backlog all batch requests arrive at time 0; "
            f"--config {run.trace} has the backlog, the hardware and the window of this scenario"
        )
    if run.limit:
        del workload.requests[run.limit :], workload.output_tokens[run.limit :]
    return workload


def _read(config: Config) -> Workload:
    from traces.readers import read_trace

    run = config.run
    if not Path(run.trace).exists():
        _check_spelling(run.trace)
    if config.workload:
        raise ConfigError(f"[workload]: expected a specification as trace, got {run.trace}")
    if run.trace == "-" and sys.stdin is None:
        raise InputError("expected a trace, got a closed standard input", file="<stdin>")
    workload = read_trace(
        run.trace,
        classes=config.service_classes(),
        skip_bad=run.skip_bad,
        spread=run.spread,
        limit=run.limit or None,
        without_slo=run.without_slo,
    )
    if run.rate_scale != 1.0:
        for request in workload.requests:
            request.arrival_s /= run.rate_scale
    return workload


def _check_spelling(trace: str) -> None:
    """Raise InputError if a file that is not there has nearly the name of a specification."""
    from traces.generate import bundled_specs

    if hint := did_you_mean(trace, bundled_specs()):
        names = ", ".join(bundled_specs())
        raise InputError(f"expected a trace file or one of {names}{hint}", file=trace)
