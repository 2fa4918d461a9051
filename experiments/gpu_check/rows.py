"""Rows of speed: what was measured, beside the bandwidth of a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from executor.calibration.ceilings import copy_bandwidth
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.setting import device_of

Row = dict[str, Any]


def ceiling(context: Context) -> float:
    """Bytes/s of a copy, measured once per process."""
    if "copy" not in context.cache:
        context.cache["copy"] = copy_bandwidth(device_of(context), 0.3)
    return float(context.cache["copy"])


def outcome(rows: list[Row], **more: Any) -> Result:
    """Rows, and the same as lines of text; a row with an error does not fail the others."""
    lines = ["   " + "  ".join(f"{k}={_cell(v)}" for k, v in row.items()) for row in rows]
    fails = [row for row in rows if "error" in row]
    return {"ok": len(fails) < len(rows) or not rows, "rows": rows, "table": lines, **more}


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def guarded(row: Row, measure: Callable[[], Row]) -> Row:
    """`row` with what was measured, or with the error; a broken device ends the check."""
    try:
        return {**row, **measure()}
    except Exception as error:
        if "CUDA error" in str(error) or "illegal memory" in str(error):
            raise
        return {**row, "error": f"{type(error).__name__}: {error}"[:300]}


def streamed(context: Context, nbytes: float, seconds: float) -> Row:
    rate = nbytes / seconds
    return {"us": seconds * 1e6, "GB/s": rate / 1e9, "share": rate / ceiling(context)}
