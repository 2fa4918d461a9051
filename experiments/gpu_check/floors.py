"""Whole steps of Llama-3.1-8B in bf16 against the floors, and what swapping costs them."""

from __future__ import annotations

from itertools import chain
from typing import Any

from executor.bench.session import POINTS, PREFILLS, TINY_POINTS, Session
from executor.calibration.timing import Deadline
from experiments.gpu_check.checks import Check, Context, Result, short
from experiments.gpu_check.setting import device_of, dtype_of
from experiments.gpu_check.small import tiny_config

Row = dict[str, Any]


def session(context: Context, source: str, int8: bool = False) -> Session:
    """The model, once per process; a tiny one on a CPU."""
    key = f"{source} {int8}"
    if key not in context.cache:
        if context.tiny:
            source = tiny_config(context)
        context.cache[key] = Session.open(source, device_of(context), dtype_of(context), int8)
    found: Session = context.cache[key]
    return found


def rows_of(found: list[Row], **more: Any) -> Result:
    """Rows with a line of text for each."""
    return {"rows": found, "table": [shown(row) for row in found], "points": len(found), **more}


def shown(row: Row) -> str:
    """A row in one line."""
    return "   " + "  ".join(f"{key}={_cell(key, value)}" for key, value in row.items())


def _cell(key: str, value: Any) -> str:
    seconds = key == "seconds" or (key.endswith("_s") and not key.endswith("per_s"))
    return f"{value * 1000:.3f}ms" if seconds and isinstance(value, float) else short(value)


def open_model(context: Context) -> Result:
    """Weights on the device, and the ceilings that the floors go by."""
    found = session(context, "llama-3.1-8b")
    rates = found.ceilings
    return {"copy_bytes_per_s": rates.bytes_per_s, "gemm_flops": rates.flops}


def decode(context: Context) -> Result:
    """Decode steps from a graph."""
    points = TINY_POINTS if context.tiny else POINTS
    found = session(context, "llama-3.1-8b").decodes(points, Deadline(context.left_s))
    return rows_of(context.kept(found))


def prefill(context: Context) -> Result:
    """Prompts in one step."""
    sizes = (64,) if context.tiny else PREFILLS
    found = session(context, "llama-3.1-8b").prefills(sizes, Deadline(context.left_s))
    return rows_of(context.kept(found))


def attention(context: Context) -> Result:
    """Attention alone, of decodes and of prompts."""
    points, sizes = (TINY_POINTS, (64,)) if context.tiny else (POINTS, PREFILLS)
    end, found = Deadline(context.left_s), session(context, "llama-3.1-8b")
    return rows_of(context.kept(chain(found.attention(points, end), found.prompts(sizes, end))))


def swap(context: Context) -> Result:
    """Copies of blocks, alone and beside a decode step."""
    return rows_of(context.kept(session(context, "llama-3.1-8b").swaps()))


CHECKS: dict[str, Check] = {
    "open": open_model,
    "decode": decode,
    "prefill": prefill,
    "attention": attention,
    "swap": swap,
}
