"""The requests that a run asks for: a trace that is read, or a specification that is drawn from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from superinfer.errors import ConfigError, InputError
from superinfer.request import SLO, SLOClass
from superinfer.settings import did_you_mean
from traces.dialect import Dialect
from traces.formats.native import MOONCAKE_BLOCK_TOKENS
from traces.gaps import scale_gaps
from traces.targets import scale_targets
from traces.workload import Workload

_OF_FILES = {"spread": False, "skip_bad": False, "hash_block_size": 0, "time_unit": "ms"}
"""What is for traces that are read alone, and what it is where nobody asks for it."""


class Wish(Protocol):
    """What the section `[run]` of a configuration says of its requests."""

    @property
    def trace(self) -> str:
        """A trace file, `-`, a specification (`*.toml`), or the name of a bundled one."""

    @property
    def seed(self) -> int:
        """Of what a specification draws."""

    @property
    def limit(self) -> int:
        """So many requests from the beginning; 0: all."""

    @property
    def skip_bad(self) -> bool:
        """Whether faulty records of a trace are left out."""

    @property
    def spread(self) -> bool:
        """Whether requests of one time stamp are spread over the time to the next."""

    @property
    def hash_block_size(self) -> int:
        """Tokens per hash id of records that do not say it; 0: as Mooncake's."""

    @property
    def time_unit(self) -> str:
        """Of the stamps of a trace."""

    @property
    def without_slo(self) -> bool:
        """Whether all targets are left out."""

    @property
    def rate_scale(self) -> float:
        """Requests per second over those of the trace."""

    @property
    def burstiness(self) -> float:
        """The spread of gaps over that of the trace."""

    @property
    def slo_scale(self) -> float:
        """Targets over those of the trace and its classes."""


def load(run: Wish, classes: Mapping[str, SLOClass], overlay: Mapping[str, Any]) -> Workload:
    """Read or generate the requests of a run, with its classes; `overlay` is laid over a
    specification. ConfigError or InputError where that cannot be.
    """
    if not run.trace:
        raise ConfigError("TRACE: expected a trace file here or as run.trace in a --config file")
    make = _generated if is_spec(run.trace) else _read
    workload = make(run, classes, overlay)
    scale_gaps(workload.requests, run.burstiness)
    scale_targets(workload.requests, run.slo_scale)
    return workload


def source_files(
    trace: str, classes: Mapping[str, SLOClass], overlay: Mapping[str, Any]
) -> list[Path]:
    """Files that the requests of a trace, or of a specification, are made from."""
    if not is_spec(trace):
        return [Path(trace)]
    from traces.generate import load_spec

    return load_spec(trace, overlay, classes=classes).files


def is_spec(trace: str) -> bool:
    """True if a trace is drawn from a specification, so that the seed matters."""
    if trace.endswith(".toml"):
        return True
    if os.path.exists(trace):  # the generator takes a while to import
        return False
    from traces.generate import bundled_specs

    return trace in bundled_specs()


def _generated(run: Wish, classes: Mapping[str, SLOClass], overlay: Mapping[str, Any]) -> Workload:
    from traces.generate import generate, load_spec

    for name, usual in _OF_FILES.items():
        if getattr(run, name) != usual:
            raise ConfigError(
                f"run.{name}: expected a trace file, got the specification {run.trace}"
            )
    if run.without_slo:
        classes = {name: replace(known, slo=SLO()) for name, known in classes.items()}
    spec = load_spec(run.trace, overlay, classes=classes)
    workload = generate(replace(spec, rate_scale=spec.rate_scale * run.rate_scale), run.seed)
    if run.limit:
        del workload.requests[run.limit :], workload.output_tokens[run.limit :]
    return workload


def _read(run: Wish, classes: Mapping[str, SLOClass], overlay: Mapping[str, Any]) -> Workload:
    from traces.readers import read_trace

    if not os.path.exists(run.trace):
        _check_spelling(run.trace)
    if overlay:
        raise ConfigError(f"[workload]: expected a specification as trace, got {run.trace}")
    if run.trace == "-" and sys.stdin is None:
        raise InputError("expected a trace, got a closed standard input", file="<stdin>")
    workload = read_trace(
        run.trace,
        classes=classes,
        skip_bad=run.skip_bad,
        spread=run.spread,
        limit=run.limit or None,
        without_slo=run.without_slo,
        dialect=Dialect(run.hash_block_size or MOONCAKE_BLOCK_TOKENS, run.time_unit),
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
