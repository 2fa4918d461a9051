"""`cache-study` and `train-reuse`: eviction policies alone, and the model behind one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import names_in
from superinfer.errors import ConfigError, InputError
from superinfer.outputs import check_writable
from traces.cli.options import AsJson, Classes
from traces.printing import print_out, print_table

if TYPE_CHECKING:
    from superinfer.request import Request

DEFAULT_POLICIES = (
    "lru,lfu,fifo,two_level,gdsf,s3fifo,tail_lru,category_exponential,slo_aware,belady"
)

HashedTrace = Annotated[
    str, typer.Argument(metavar="TRACE", help="Trace with hash_ids; - for stdin.")
]
Capacity = Annotated[str, typer.Option(metavar="N,N,...", help="Blocks of the trace's own size.")]
Policies = Annotated[str, typer.Option(help="By name or as package.module:Class, comma separated.")]
First = Annotated[
    float,
    typer.Option("--from", min=0.0, max=0.999, help="Count after this share of the requests."),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Reuse model of slo_aware.", show_default="shipped"),
]
OfSeconds = Annotated[str, typer.Option(help="For the seconds saved.")]
Degree = Annotated[int, typer.Option(min=1, help="Tensor-parallel GPUs.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N requests.")]


def cache_study(
    trace: HashedTrace,
    capacity: Capacity = "1000,3000,10000",
    policies: Policies = DEFAULT_POLICIES,
    first: First = 0.0,
    weights: Weights = None,
    model: OfSeconds = "llama-3.1-8b",
    device: OfSeconds = "a100-80g",
    tp: Degree = 1,
    limit: Limit = None,
    classes: Classes = None,
    as_json: AsJson = False,
) -> None:
    """Replay the prompts of a trace through eviction policies, without timing."""
    from superinfer.costs import build_cost
    from superinfer.lab.studies import cache_study as lab

    names = names_in(policies)
    lab.check_policies(names)
    if weights is not None and not any(name == "slo_aware" or ":" in name for name in names):
        raise ConfigError("--weights: expected slo_aware, whose model it is, among --policies")
    sizes = _capacities(capacity)
    name, requests = _requests(trace, classes, limit)
    file = None if weights is None else str(weights)
    study = lab.cache_study(requests, first, build_cost(model, device, tp), file)
    outcomes = study.outcomes(names, sizes)
    if as_json:
        print_out(json.dumps(lab.study_json(study, name, outcomes), indent=2))
    else:
        print_table(lab.study_table(outcomes))
    for outcome in outcomes:
        for note in outcome.notes:
            typer.echo(f"{outcome.policy} at {outcome.capacity_blocks}: {note}", err=True)


def train_reuse(
    traces: Annotated[list[str], typer.Argument(metavar="TRACE...", help="Traces with hash_ids.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Weights to write.")
    ],
    until: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Train on this first share of each trace's requests."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights and the order.")] = 0,
    classes: Classes = None,
    as_json: AsJson = False,
) -> None:
    """Train the reuse model of slo_aware on traces (needs torch)."""
    from superinfer.lab.reuse_training import train, write_weights
    from traces.readers import files_of

    read_from = (file for trace in traces for file in files_of(trace))
    check_writable(output, file=True, inputs=[*read_from, classes])
    named = [_requests(trace, classes) for trace in traces]
    parts = [found[: max(1, int(len(found) * until))] for _, found in named]
    sources = [name for name, _ in named]
    names = ", ".join(sources)
    share = "" if until == 1.0 else f", the first {until:g} of the requests"
    arrays = train(parts, f"{names}{share}; seed {seed}", seed)
    write_weights(output, arrays)
    requests = sum(map(len, parts))
    counted = f"{requests} request{'s' * (requests != 1)}"
    typer.echo(f"trained on {counted}; weights in {output}", err=True)
    if as_json:
        found = {"path": str(output), "traces": sources, "requests": requests, "seed": seed}
        print_out(json.dumps(found, indent=2))


def _requests(
    trace: str, classes: Path | None, limit: int | None = None
) -> tuple[str, list[Request]]:
    """The name of a trace, and its requests with hash_ids."""
    from traces.cli.files import read

    workload = read(trace, classes, spread=True, limit=limit)
    found = [request for request in workload.requests if request.hash_ids]
    without = len(workload.requests) - len(found)
    if not found:
        raise InputError("expected requests with hash_ids, got none", file=trace)
    if without:
        word = f"request{'s' * (without != 1)}"
        typer.echo(f"note: {trace}: {without:,} {word} without hash_ids left out", err=True)
    return workload.name, found


def _capacities(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"--capacity: expected block counts above 0, got {text!r}")
    return sizes
