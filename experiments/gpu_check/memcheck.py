"""Every kernel on small shapes under NVIDIA's `compute-sanitizer`, where there is one.

Each tool runs this module (`python -m experiments.gpu_check.memcheck CHECK...`) with the checks of
part `kernels` on the sizes of a test. torch gives each tensor an allocation of its own there, so
that what is read or written beside one is seen.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.gpu_check.checks import Check, Context, Result

TOOLS = {"memcheck": "ERROR SUMMARY", "racecheck": "RACECHECK SUMMARY"}
"""And the line that ends what each says."""
GROUPS = {
    "decode": ("decode-llama-8b", "decode-odd-group-80"),
    "prefill": ("prefill-llama-8b", "prefill-odd-group-80"),
    "blocks": ("requantise-llama-8b", "rope_write", "copy_blocks"),
    "dense": ("linear_int8", "moe", "rms_norm", "activations"),
}
"""Checks of one process."""
UNUSABLE = ("Device not supported", "Failed to initialize", "not supported on this")
"""What the tool says where it cannot look into the device (some virtual machines)."""
SHOWN_CHARACTERS = 4000
ENDING_S = 6.0
"""Before the end of the part, so that nothing is left on the device."""


@dataclass(slots=True)
class Small(Context):
    """A GPU, and the sizes of a test."""

    @property
    def tiny(self) -> bool:
        """True: nobody waits for large shapes under a sanitizer."""
        return True


def under(context: Context, tool: str, group: str) -> Result:
    """One tool on one group of kernels; `skipped` where the tool is not there or sees nothing."""
    found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if context.device == "cpu" or not Path(found).is_file():
        return {"skipped": "needs a GPU and compute-sanitizer on the PATH"}
    work = context.work / f"{tool}-{group}"
    command = [found, "--tool", tool, sys.executable, "-m", __spec__.name, str(work)]
    said, code = run_alone([*command, *GROUPS[group]], context.seconds - ENDING_S)
    return judged(tool, said, code)


def run_alone(command: list[str], seconds: float) -> tuple[str, int]:
    """All that a command says, and its exit code; when the time is over, it ends with all that it
    has started, and the code is that of a kill.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    try:
        said, _ = process.communicate(timeout=max(5.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    return said, process.returncode


def judged(tool: str, said: str, code: int) -> Result:
    """What a tool's words come to: no error, and all checks came to their end."""
    if any(words in said for words in UNUSABLE):
        return {"skipped": next(line for line in said.splitlines() if _unusable(line))[:200]}
    summary = re.search(rf"{TOOLS[tool]}: (.*)", said)
    clean = summary is not None and re.match(r"0 (errors|hazards)", summary[1]) is not None
    result: Result = {"ok": clean and code == 0, "summary": summary[1] if summary else "none"}
    if not result["ok"]:
        result["error"] = f"{result['summary']}, exit {code}"
        result["said"] = said[:SHOWN_CHARACTERS] + said[-SHOWN_CHARACTERS:]
    return result


def _unusable(line: str) -> bool:
    return any(words in line for words in UNUSABLE)


def main(work: str, *names: str) -> int:
    """Run checks of part `kernels` on small shapes; 1 if one is wrong."""
    from experiments.gpu_check.checks import run_check
    from experiments.gpu_check.kernels import CHECKS as KERNELS

    context = Small("cuda", 60.0, {}, Path(work))
    results = {name: run_check(KERNELS[name], context) for name in names}
    for name, result in results.items():
        print(name, "ok" if result["ok"] else result.get("error"), flush=True)
    return int(not all(result["ok"] for result in results.values()))


CHECKS: dict[str, Check] = {
    f"{tool}-{group}": partial(under, tool=tool, group=group) for tool in TOOLS for group in GROUPS
}

if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
