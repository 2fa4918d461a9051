"""What the machine is and how fast its memory and its matrix units are."""

from __future__ import annotations

import os
import subprocess

from executor.calibration.ceilings import ceilings, hardware
from executor.device import executor_versions
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.setting import device_of
from superinfer import COMPILED


def machine(context: Context) -> Result:
    """Names and versions."""
    found = {**hardware(device_of(context)), "processors": os.cpu_count()}
    more = {"smi": _smi(), "compiled_core": COMPILED}
    return {**found, "versions": executor_versions("transformers"), **more}


def rates(context: Context) -> Result:
    """Copy, read and GEMM ceilings."""
    return dict(ceilings(device_of(context), 0.5 if context.tiny else 1.5))


def links(context: Context) -> Result:
    """Copies between device and pinned host memory."""
    from executor.calibration.links import measure_links

    return dict(measure_links(device_of(context), seconds=0.5 if context.tiny else 4.0))


def _smi() -> str:
    try:
        asked = (
            "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,pcie.link.gen.max"
        )
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


CHECKS: dict[str, Check] = {"machine": machine, "rates": rates, "links": links}
