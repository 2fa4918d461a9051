"""What the machine is and how fast its memory and its matrix units are."""

from __future__ import annotations

import os
import subprocess
from statistics import median

import torch

from executor.calibration.ceilings import ceilings, hardware
from executor.calibration.timing import Call, between_events, captured
from executor.device import executor_versions
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.rows import Row, outcome
from experiments.gpu_check.setting import device_of
from superinfer import COMPILED

KERNELS, REPEATS = (1, 64, 512), 21
"""Of a graph, and how often it is replayed."""


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


def replays(context: Context) -> Result:
    """What a replay's beginning and end add to the kernels of a graph, on a device that is idle and
    on one that is still at something when the replay is queued, as with steps queued ahead. All
    times of graphs here are of an idle device.
    """
    device, rows = device_of(context), list[Row]()
    if context.tiny:
        return {"skipped": "CUDA graphs need a GPU"}
    number, square = torch.zeros(1, device=device), torch.randn(2048, 2048, device=device)
    before: dict[str, Call] = {"idle us": lambda: None, "busy us": lambda: square @ square}
    for kernels in KERNELS:
        run = captured([lambda: number.add_(1.0)] * kernels)
        us = {kind: _replay_us(run, queue) for kind, queue in before.items()}
        rows.append({"kernels": kernels, **us})
    return outcome(rows)


def _replay_us(run: Call, before: Call) -> float:
    samples = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        before()
        samples.append(between_events(run))
    return median(samples) * 1e6


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


CHECKS: dict[str, Check] = {
    "machine": machine,
    "rates": rates,
    "links": links,
    "replays": replays,
}
