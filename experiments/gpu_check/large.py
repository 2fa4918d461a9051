"""Llama-3.1-70B with int8 weights on one GPU."""

from __future__ import annotations

from executor.bench.session import LARGE_POINTS, TINY_POINTS, Session
from executor.calibration.timing import Deadline
from executor.device import memory_bytes
from experiments.gpu_check.calibrate import calibrate
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.floors import rows_of, session
from experiments.gpu_check.setting import device_of
from experiments.gpu_check.tune.int8 import widening

MODEL = "llama-3.1-70b"
STEPS_BYTES, PROFILE_BYTES = 78e9, 100e9
"""Of a GPU's memory: for the weights (72 GB) and small steps beside them, and for steps of some
thousand tokens with their keys and values, which a profile is made of."""
PROFILE_SHARE = 0.8
"""Of the time: 80 layers are captured in graphs, and a prompt of 4,096 tokens takes a second."""
WIDENED_ROWS = 512
"""Fewer than a prompt's, and more than the head has."""


def too_small(context: Context, nbytes: float) -> Result:
    """Why a check is skipped on this device; empty if it has that much memory."""
    there = memory_bytes(device_of(context))
    if context.tiny or there >= nbytes:
        return {}
    return {"skipped": f"wants a GPU of {nbytes / 1e9:.0f} GB, this one has {there / 1e9:.0f}"}


def open_model(context: Context) -> Result:
    """Weights on the device."""
    if small := too_small(context, STEPS_BYTES):
        return small
    found = _session(context)
    return {"copy_bytes_per_s": found.ceilings.bytes_per_s, "gemm_flops": found.ceilings.flops}


def decode(context: Context) -> Result:
    """Decode steps from a graph."""
    if small := too_small(context, STEPS_BYTES):
        return small
    points = TINY_POINTS if context.tiny else LARGE_POINTS
    found = _session(context).decodes(points, Deadline(context.left_s))
    return rows_of(context.kept(found))


def prefill(context: Context) -> Result:
    """A prompt in one step."""
    if small := too_small(context, STEPS_BYTES):
        return small
    sizes = (64,) if context.tiny else (2048,)
    found = _session(context).prefills(sizes, Deadline(context.left_s))
    return rows_of(context.kept(found))


def prefill_widened(context: Context) -> Result:
    """The same, the weights of its layers widened before a library multiplies."""
    with widening(WIDENED_ROWS):
        return prefill(context)


def calibrate_large(context: Context) -> Result:
    """A profile, as that of the 8B."""
    return too_small(context, PROFILE_BYTES) or calibrate(context, MODEL, True, PROFILE_SHARE)


def _session(context: Context) -> Session:
    return session(context, MODEL, int8=True)


CHECKS: dict[str, Check] = {
    "open": open_model,
    "decode": decode,
    "prefill": prefill,
    "prefill_widened": prefill_widened,
}
PROFILE: dict[str, Check] = {"calibrate": calibrate_large}
