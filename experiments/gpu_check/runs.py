"""`superinfer-exec run` on a real trace under memory pressure: two policies on the same device."""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from typing import Any

from experiments.gpu_check.calibrate import profile_path
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.floors import tiny_config

TRACE = "traces/samples/mixed.jsonl"
POLICIES = ("vllm", "rotating")
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
    "output_throughput",
    "steps",
    "wall_s",
    "scheduler_s",
)


def run(context: Context, policy: str) -> Result:
    """One policy; the summary of its folder."""
    folder = context.work / "runs" / policy
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "executor", "run", TRACE, *options(context, policy)]
    command += ["--out", str(folder), "--no-plots", "--json"]
    summary, said = call(command, context.seconds / len(POLICIES))
    shown = {key: summary.get(key) for key in SHOWN if isinstance(summary.get(key), int | float)}
    block = summary.get("run", {})
    graphs = {key: block.get(key) for key in ("steps_on_device", "steps_from_graphs", "kv_blocks")}
    return {**shown, **graphs, "summary": summary, "stderr": said[-2000:]}


def options(context: Context, policy: str) -> list[str]:
    """The same for both policies: few blocks, so that memory is short, and the trace sped up."""
    if context.tiny:
        model, blocks, limit, rate = tiny_config(context), 200, 6, 4.0
    else:
        model = context.options["model"] or "llama-3.1-8b"
        blocks, limit, rate = 1800, 120 if context.options["fast"] else 300, 4.0
    return [
        *("--scheduler", policy, "--model", model, "--device", context.device),
        *("--random-weights", "--kv-blocks", str(blocks), "--block-tokens", "32"),
        *("--limit", str(limit), "--rate-scale", str(rate), "--lag", "1"),
        *("--set", "run.host_memory_gib=8" if not context.tiny else "run.host_memory_gib=0.2"),
        *("--max-model-len", "4096" if context.tiny else "16384"),
        *("--set", "scheduler.max_num_seqs=64"),
        *costs(context),
        "--as-fast-as-possible",
    ]


def costs(context: Context) -> list[str]:
    """The profile of this device for the schedulers' predictions, where it is there."""
    path = profile_path(context)
    return ["--set", f"run.costs={json.dumps(str(path))}"] if path.is_file() else []


def call(command: list[str], seconds: float) -> tuple[dict[str, Any], str]:
    """Run a command that prints JSON; raises with its last words if it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=max(10.0, seconds),
        check=False,
        preexec_fn=_die_with_parent,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[2:8])}: exit {done.returncode}: {done.stderr[-1500:]}"
        )
    return json.loads(done.stdout), done.stderr


def _die_with_parent() -> None:
    """A check that is ended must not leave its run on the device (`PR_SET_PDEATHSIG`)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


CHECKS: dict[str, Check] = {policy: partial(run, policy=policy) for policy in POLICIES}
