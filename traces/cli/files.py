"""The files of `superinfer-sim traces`: what is read and written, and what is said of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from superinfer.errors import ConfigError, InputError
from superinfer.outputs import check_writable
from traces.printing import print_out, quiet_pipe

if TYPE_CHECKING:
    from traces.workload import Workload


def read(path: str, classes: Path | None, **options: Any) -> Workload:
    """A trace with the options of `read_trace`; says what is odd about it."""
    from superinfer.slo_classes import load_classes
    from traces.readers import read_trace

    if path == "-" and sys.stdin is None:
        raise InputError("expected a trace, got a closed standard input", file="<stdin>")
    known = None if classes is None else load_classes(classes)
    workload = read_trace(path, classes=known, **options)
    warn(workload, path)
    return workload


def warn(workload: Workload, path: str) -> None:
    """Say what is odd about a workload, and how much of it was left out."""
    for warning in workload.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if workload.skipped:
        typer.echo(f"warning: {path}: {workload.skipped_note}", err=True)


def check_output(output: str, *inputs: str | Path | None, as_json: bool) -> None:
    """Find out before the work whether its outcome can be written, and takes no input's place."""
    if output == "-":
        if as_json:
            raise ConfigError("--json: expected a file as --output, got - for standard output")
        return
    from traces.readers import files_of

    read_from = (file for each in inputs if each is not None for file in files_of(each))
    check_writable(Path(output), file=True, inputs=read_from)


def write(workload: Workload, output: str, as_json: bool) -> None:
    """Write a workload as a native trace, and say what is in it."""
    from traces.convert import native_bytes

    counts = {
        "requests": len(workload.requests),
        "skipped_lines": workload.skipped,
        "raised_max_tokens": workload.raised_max_tokens,
    }
    write_records(native_bytes(workload), output, counts, as_json)


def write_records(data: bytes, output: str, counts: dict[str, int], as_json: bool) -> None:
    """Write a trace, and say where it is and what is in it."""
    from traces.convert import write_lines

    with quiet_pipe():
        write_lines(data, output)
    requests = counts["requests"]
    typer.echo(f"wrote {requests} request{'s' * (requests != 1)} to {output}", err=True)
    if as_json:
        print_out(json.dumps({"path": output, **counts}, indent=2))
