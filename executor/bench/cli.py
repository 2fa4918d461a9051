"""`superinfer-exec bench`: what the executor reaches, against floors and against others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from executor.options import Dtype, Int8, JsonAlone, OwnDevice
from superinfer.errors import ConfigError
from superinfer.lab.cli.terminal import say
from traces.printing import print_out

if TYPE_CHECKING:
    from executor.bench.session import Points


USERS_OF_CONTEXTS = frozenset({"decode", "attention", "peers"})
USERS_OF_PROMPTS = frozenset({"prefill", "attention", "peers"})
"""Parts that take these sizes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    model: Annotated[str, typer.Option(help="Preset, folder or config.json; random weights.")] = (
        "llama-3.1-8b"
    ),
    device: OwnDevice = None,
    dtype: Dtype = "",
    int8: Int8 = False,
    only: Annotated[
        str, typer.Option(help="Some of decode,prefill,attention,peers,swap,engines.")
    ] = "decode,prefill,attention,peers,swap,engines",
    batches: Annotated[str, typer.Option(help="Sequences of decode steps.")] = "1,32,128",
    contexts: Annotated[str, typer.Option(help="Context of each, in tokens.")] = "1024,8192",
    bits: Annotated[str, typer.Option(help="Bits of the KV cache.")] = "16,8,4",
    prompts: Annotated[str, typer.Option(help="Tokens of prefills.")] = "2048,8192",
    minutes: Annotated[float, typer.Option(min=0.1, help="Begin nothing after that.")] = 8.0,
    as_json: JsonAlone = False,
) -> None:
    """Measure steps and kernels against what the device allows, and against peers."""
    from executor.bench.report import HANDICAPS, Row, bench_lines
    from executor.bench.session import PARTS, Session
    from executor.calibration.timing import Deadline
    from executor.device import default_device, find_device
    from executor.session import ModelOptions, out_of_memory, source_of

    where = find_device(device or default_device(), "--device").torch
    wanted = _parts(only)
    points = _points(batches, contexts, bits, prompts)
    source = str(source_of(model))
    _check_lengths(wanted, points, model, source)
    opened = Session.open(source, where, ModelOptions(dtype).torch_dtype(where), int8)
    deadline = Deadline(60 * minutes)
    found: dict[str, list[Row]] = {name: [] for name in wanted}
    try:
        for name in wanted:
            with out_of_memory(f"measuring {name}", "--batches, --contexts or --prompts"):
                for row in PARTS[name](opened, points, deadline):
                    found[name].append(row)
                    say(f"{name}: {row.get('point', row.get('block', ''))}")
    finally:  # rows that are there are shown whatever happens
        if as_json:
            print_out(json.dumps({**opened.header(), **found, "handicaps": HANDICAPS}, indent=2))
        else:
            print_out("\n".join(bench_lines(opened.header(), found)))


def _parts(only: str) -> list[str]:
    """The names of what is to be measured."""
    from executor.bench.session import PARTS

    wanted = _words(only)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown or not wanted:
        got = unknown[0] if unknown else only
        raise ConfigError(f"--only: expected some of {', '.join(PARTS)}, got {got!r}")
    return wanted


def _points(batches: str, contexts: str, bits: str, prompts: str) -> Points:
    """The sizes to measure at."""
    from executor.bench.session import Points
    from executor.bench.steps import decode_points
    from executor.kv.layout import PRECISIONS

    precisions = _numbers("bits", bits)
    unknown = [number for number in precisions if number not in PRECISIONS]
    if unknown:
        raise ConfigError(f"--bits: expected some of 16,8,4, got {unknown[0]}")
    found = _numbers("contexts", contexts), _numbers("batches", batches)
    decodes = decode_points(*found, precisions)
    return Points(decodes, tuple(_numbers("prompts", prompts)))


def _check_lengths(parts: list[str], points: Points, model: str, source: str) -> None:
    """Nothing that is measured is longer than the context of the model."""
    from executor.models.config import read_config

    longest = read_config(source)[0].shape.max_model_len
    contexts = [point.context for point in points.decodes]
    for name, lengths, users in (
        ("contexts", contexts, USERS_OF_CONTEXTS),
        ("prompts", points.prefills, USERS_OF_PROMPTS),
    ):
        if users.intersection(parts) and max(lengths) > longest:
            raise ConfigError(f"--{name}: {model} has a context of {longest} tokens")


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(name: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in _words(text)]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--{name}: expected whole numbers above 0 with commas, got {text!r}")
    return found
