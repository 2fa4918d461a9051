"""A profile of Llama-3.1-70B with int8 weights: needs 80 GB for the weights alone."""

from __future__ import annotations

from functools import partial

from experiments.gpu_check.calibrate import LARGE, calibrate
from experiments.gpu_check.checks import Check

CHECKS: dict[str, Check] = {"calibrate": partial(calibrate, model=LARGE, int8=True)}
