"""`superinfer-exec bench`: what the executor reaches, against floors and against others."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    model: Annotated[str, typer.Option(help="Preset, folder or config.json; random weights.")] = (
        "llama-3.1-8b"
    ),
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cuda if there is one")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="float32, float16, bfloat16.", show_default="bfloat16; float32 on a CPU"),
    ] = "",
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights in 8 bits.")] = False,
    only: Annotated[
        str, typer.Option(help="Some of decode,prefill,attention,peers,swap,engines.")
    ] = "decode,prefill,attention,peers,swap,engines",
    batches: Annotated[str, typer.Option(help="Sequences of decode steps.")] = "1,32,128",
    contexts: Annotated[str, typer.Option(help="Context of each, in tokens.")] = "1024,8192",
    bits: Annotated[str, typer.Option(help="Bits of the KV cache.")] = "16,8,4",
    prompts: Annotated[str, typer.Option(help="Tokens of prefills.")] = "2048,8192",
    minutes: Annotated[float, typer.Option(min=0.1, help="Begin nothing after that.")] = 8.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Measure steps and kernels against what the device allows, and against peers."""
    import torch

    from executor.bench.report import HANDICAPS, Row, bench_lines
    from executor.bench.session import PARTS, Points, Session
    from executor.bench.steps import DecodePoint
    from executor.calibration.subject import dtype_of
    from executor.calibration.timing import Deadline
    from executor.device import default_device, find_device
    from executor.kv.layout import PRECISIONS
    from executor.models.config import read_config
    from executor.session import ModelOptions, out_of_memory, source_of
    from superinfer.errors import ConfigError

    where: torch.device = find_device(device or default_device()).torch
    wanted = _words(only)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown or not wanted:
        got = unknown[0] if unknown else only
        raise ConfigError(f"--only: expected some of {', '.join(PARTS)}, got {got!r}")
    unknown_bits = [number for number in _numbers("bits", bits) if number not in PRECISIONS]
    if unknown_bits:
        raise ConfigError(f"--bits: expected some of 16,8,4, got {unknown_bits[0]}")
    points = Points(
        tuple(
            DecodePoint(batch, context, precision)
            for context in _numbers("contexts", contexts)
            for batch in _numbers("batches", batches)
            for precision in _numbers("bits", bits)
        ),
        tuple(_numbers("prompts", prompts)),
    )
    source = str(source_of(model))
    longest = read_config(source)[0].shape.max_model_len
    for name, lengths in (("contexts", contexts), ("prompts", prompts)):
        if max(_numbers(name, lengths)) > longest:
            raise ConfigError(f"--{name}: {model} has a context of {longest} tokens")
    opened = Session.open(source, where, dtype_of(ModelOptions(dtype), where), int8)
    deadline = Deadline(60 * minutes)
    found: dict[str, list[Row]] = {name: [] for name in wanted}
    try:
        for name in wanted:
            with out_of_memory(f"measuring {name}", "--batches, --contexts or --prompts"):
                for row in PARTS[name](opened, points, deadline):
                    found[name].append(row)
                    print(f"{name}: {row.get('point', row.get('block', ''))}", file=sys.stderr)
    finally:  # rows that are there are shown whatever happens
        if as_json:
            print(json.dumps({**opened.header(), **found, "handicaps": HANDICAPS}, indent=2))
        else:
            print("\n".join(bench_lines(opened.header(), found)))


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(name: str, text: str) -> list[int]:
    from superinfer.errors import ConfigError

    try:
        found = [int(part) for part in _words(text)]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--{name}: expected whole numbers above 0 with commas, got {text!r}")
    return found
