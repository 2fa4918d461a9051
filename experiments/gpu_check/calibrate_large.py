"""A profile of Llama-3.1-70B with int8 weights."""

from __future__ import annotations

from experiments.gpu_check.calibrate import LARGE, calibrate
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.large import PROFILE_BYTES, too_small

SHARE = 0.8
"""Of the time: 80 layers are captured in graphs, and a prompt of 4,096 tokens takes a second."""


def calibrate_large(context: Context) -> Result:
    """As that of the 8B."""
    return too_small(context, PROFILE_BYTES) or calibrate(context, LARGE, True, SHARE)


CHECKS: dict[str, Check] = {"calibrate": calibrate_large}
