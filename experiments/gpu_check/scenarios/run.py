"""`superinfer-exec run` under memory pressure: several policies on the same device.

A run is the command itself, in a fork: all is imported once, and no run finds the device's memory
taken by the one before.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

import executor.replay  # noqa: F401 - what the command needs, once for all of them
from executor import cli
from experiments.gpu_check.calibrate import opened
from experiments.gpu_check.checks import Check, Context, Result, end, end_with
from experiments.gpu_check.scenarios.scenes import PRESSURE, SCENES, arguments, run_name
from superinfer.lab.numbers import number

SHOWN = (
    "completed",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "mean_e2el_ms",
    "slo_attainment",
    "preemptions",
    "rotations",
    "kv_bits_mean",
    "output_throughput",
    "steps",
    "wall_s",
    "scheduler_s",
)
RUN_S, FAST_RUN_S = 240.0, 60.0
"""For one run at the most, so that one that hangs leaves time for the others."""
WRITING_S = 6.0
"""Of that, for a run that is stopped to write down what it has done."""


def run(context: Context, scene: str, arm: str) -> Result:
    """One policy; the summary of its folder."""
    folder = context.work / "runs" / run_name(scene, arm)
    shutil.rmtree(folder, ignore_errors=True)
    command = ["run", *arguments(context, scene, arm), "--out", str(folder), "--no-plots", "--json"]
    limit_s = min(context.left_s, FAST_RUN_S if context.options["fast"] else RUN_S)
    summary, said = call(command, context.work / "said" / folder.name, limit_s)
    shown = {key: value for key in SHOWN if (value := number(summary, key)) is not None}
    block = summary.get("run", {})
    graphs = {
        key: block.get(key)
        for key in ("steps_on_device", "steps_from_graphs", "kv_blocks", "compiled_core")
    }
    return {
        **shown,
        **graphs,
        **opened(block.get("opening_s", {})),
        "summary": summary,
        "stderr": said[-2000:],
    }


def call(command: list[str], said: Path, seconds: float) -> tuple[dict[str, Any], str]:
    """`superinfer-exec` with these arguments, which print JSON, in a fork of this process; its two
    outputs go to `said`. Raises with its last words if it fails; one that is not over in time is
    stopped as by Ctrl-C, and leaves the steps that it took in its folder.
    """
    said.mkdir(parents=True, exist_ok=True)
    out, err = said / "stdout", said / "stderr"
    child = multiprocessing.get_context("fork").Process(
        target=_command, args=(command, out, err, os.getpid())
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads at a fork, as in `checks`
        child.start()
    child.join(max(1.0, seconds - WRITING_S))
    if child.is_alive():
        os.kill(child.pid or 0, signal.SIGINT)
        child.join(WRITING_S)
        end(child)
        raise TimeoutError(f"{' '.join(command[:6])}: not over after {seconds:.0f} s")
    words = err.read_text(encoding="utf-8", errors="replace")
    if child.exitcode:
        raise RuntimeError(f"{' '.join(command[:6])}: exit {child.exitcode}: {words[-1500:]}")
    return json.loads(out.read_text(encoding="utf-8")), words


def _command(command: list[str], out: Path, err: Path, parent: int) -> None:
    """In the fork: be the command."""
    end_with(parent)
    # Threads that the parent's OpenMP had are not here, and work given to them would never end.
    torch.set_num_threads(1)
    for path, descriptor in ((out, 1), (err, 2)):
        written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    sys.argv = ["superinfer-exec", *command]
    cli.main()


def checks_of(*scenes: str) -> dict[str, Check]:
    """A check for each policy of each scene, the policies of one after the other."""
    return {
        run_name(scene, arm): partial(run, scene=scene, arm=arm)
        for scene in scenes
        for arm in SCENES[scene].arms
    }


CHECKS: dict[str, Check] = checks_of(PRESSURE)
SCENARIOS: dict[str, Check] = checks_of("m", "real", "c")
"""M and C, scaled to the card, and a slice of a real trace."""
