"""Rows of speed: what was measured, beside the bandwidth of a copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from executor.calibration.ceilings import copy_bandwidth
from executor.calibration.timing import Call, time_calls
from experiments.gpu_check.checks import Context, Result, short
from experiments.gpu_check.setting import device_of, tolerance

Row = dict[str, Any]


def ceiling(context: Context) -> float:
    """Bytes/s of a copy, measured once per process; 1 in a rehearsal: of sixteen processes at once
    each would need 8 GiB for it, and kernels whose checks find no memory are not compiled.
    """
    if context.rehearsal:
        return 1.0
    if "copy" not in context.cache:
        context.cache["copy"] = copy_bandwidth(device_of(context), 0.3)
    return float(context.cache["copy"])


def outcome(rows: list[Row], **more: Any) -> Result:
    """Rows, and the same as lines of text; a row with an error does not fail the others."""
    lines = ["   " + "  ".join(f"{k}={short(v)}" for k, v in row.items()) for row in rows]
    fails = [row for row in rows if "error" in row]
    return {"ok": len(fails) < len(rows) or not rows, "rows": rows, "table": lines, **more}


def wrong(context: Context, worst: float) -> Result:
    """The result of what has too large an error; empty for one that is within its limit."""
    if worst <= tolerance(context):
        return {}
    return {"ok": False, "error": f"wrong by {worst:.3g}", "worst": worst}


def told(context: Context, what: str, rows: list[Row], worst: float) -> Result:
    """The rows, kept for the ranking, unless the variant is wrong."""
    if found := wrong(context, worst):
        return found
    context.cache.setdefault(what, []).extend(rows)
    return outcome(rows, worst=worst)


def guarded(row: Row, measure: Callable[[], Row]) -> Row:
    """`row` with what was measured, or with the error; a broken device ends the check."""
    try:
        return {**row, **measure()}
    except Exception as error:
        if "CUDA error" in str(error) or "illegal memory" in str(error):
            raise
        return {**row, "error": f"{type(error).__name__}: {error}"[:300]}


def timed(context: Context, multiply: Callable[[Tensor], Tensor], weights: list[Tensor]) -> Row:
    """Time of a product with matrices that take turns, and bytes of them per second."""
    calls: list[Call] = [partial(multiply, weight) for weight in weights]
    seconds = time_calls(calls, device_of(context), 0.02).seconds
    return streamed(context, weights[0].numel() * weights[0].itemsize, seconds)


def streamed(context: Context, nbytes: float, seconds: float) -> Row:
    """A figure of what reads or writes so many bytes, and its share of what the device can."""
    rate = nbytes / seconds
    return {"us": seconds * 1e6, "GB/s": rate / 1e9, "share": rate / ceiling(context)}
