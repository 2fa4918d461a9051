"""Llama-3.1-70B with int8 weights on one GPU: needs 80 GB for the weights alone."""

from __future__ import annotations

from executor.bench.session import LARGE_POINTS, TINY_POINTS
from executor.calibration.timing import Deadline
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.floors import rows_of, session

MODEL = "llama-3.1-70b"


def open_model(context: Context) -> Result:
    """Weights on the device."""
    found = session(context, MODEL, int8=True)
    return {"copy_bytes_per_s": found.ceilings.bytes_per_s, "gemm_flops": found.ceilings.flops}


def decode(context: Context) -> Result:
    """Decode steps from a graph."""
    points = TINY_POINTS if context.tiny else LARGE_POINTS
    found = session(context, MODEL, int8=True).decodes(points, Deadline(context.seconds))
    return rows_of(list(found))


def prefill(context: Context) -> Result:
    """A prompt in one step."""
    sizes = (64,) if context.tiny else (2048,)
    found = session(context, MODEL, int8=True).prefills(sizes, Deadline(context.seconds))
    return rows_of(list(found))


CHECKS: dict[str, Check] = {"open": open_model, "decode": decode, "prefill": prefill}
