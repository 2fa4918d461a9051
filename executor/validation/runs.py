"""Runs of both sides as commands of their own, so that neither disturbs the other.

The simulator gets the configuration that the device's run left behind, with the profile for its
costs and the number of blocks that the device had.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superinfer.costs.profile_file import load_profile
from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab.results import CONFIG, load_run

Summary = dict[str, Any]


def run_device(trace: str, options: Sequence[str], profile: Path, out: Path) -> Path:
    """`superinfer-exec run` with that profile for predictions; the result folder."""
    command = [sys.executable, "-m", "executor", "run", trace, *options]
    command += ["--set", f"run.costs={json.dumps(str(profile))}"]
    if load_profile(profile).yardstick:
        command += ["--clock", "steady"]
    return _run(command, out)


def simulate(device: Path, profile: Path, out: Path, timeout_s: float | None = None) -> Path:
    """`superinfer-sim run` of what ran on the device; the result folder."""
    done = load_run(device).summary.get("run", {})
    if done.get("simulated", True):
        raise InputError("expected a run of superinfer-exec", file=str(device))
    run = done["run"]
    settings = {
        "run.costs": str(profile),
        "run.device": load_profile(profile).device,
        "run.model": model_of(run["model"]),
        "run.kv_blocks": done["kv_blocks"],
        "run.block_tokens": done["block_tokens"],
        "run.max_model_len": run["max_model_len"],
    }
    command = [sys.executable, "-m", "sim", "run", "--config", str(device / CONFIG)]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    return _run(command, out, timeout_s)


def summary(folder: Path) -> Summary:
    """`summary.json` of a folder."""
    return load_run(folder).summary


def model_of(name: str) -> str:
    """A name or folder as the simulator takes it."""
    from executor.session import source_of

    return str(source_of(name))


def _run(command: list[str], out: Path, timeout_s: float | None = None) -> Path:
    """Run a command that writes a result folder; its error becomes ours, in one line. Ctrl-C, which
    both hear, leaves nothing of this run: it cannot be compared.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        raise InputError("there is a result already", file=str(out))
    try:
        done = subprocess.run(
            [*command, "--out", str(out), "--no-plots"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except KeyboardInterrupt:
        for part in (out, *out.parent.glob(f".{out.name}.*.tmp")):
            shutil.rmtree(part, ignore_errors=True)
        raise
    if done.returncode or not out.is_dir():
        words = [line for line in done.stderr.splitlines() if line.strip()]
        said = words[-1] if words else f"exit code {done.returncode}"
        mistake = done.returncode == ConfigError.exit_code
        kind = ConfigError if mistake else SuperInferError
        raise kind(f"{' '.join(command[2:5])}: {said.removeprefix('error: ')}")
    return out
