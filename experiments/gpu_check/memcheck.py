"""Every kernel on small shapes under NVIDIA's `compute-sanitizer`, where there is one.

Each tool runs this module (`python -m experiments.gpu_check.memcheck FOLDER CHECK...`) with the
checks of part `kernels` on the sizes of a test. torch gives each tensor an allocation of its own
there, so that what is read or written beside one is seen. What results are held against
is computed on the host: its thousands of small launches and allocations would be looked into, too.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from experiments.gpu_check.checks import KILLED_S, Check, Context, Result, end_with

TOOLS = {"memcheck": "ERROR SUMMARY", "racecheck": "RACECHECK SUMMARY"}
"""And the line that ends what each says."""
GROUPS = {
    "decode": ("decode-llama-8b", "decode-odd-group-80"),
    "prefill": ("prefill-llama-8b", "prefill-odd-group-80"),
    "blocks": ("requantise-llama-8b", "rope_write", "copy_blocks"),
    "dense": ("linear", "linear_int8", "moe", "rms_norm", "largest", "activations"),
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
    said, code = run_alone([*command, *GROUPS[group]], context.left_s - ENDING_S)
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
        errors="replace",
        process_group=0,
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    try:
        said, _ = process.communicate(timeout=max(5.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            said, _ = process.communicate(timeout=KILLED_S)
        except subprocess.TimeoutExpired as error:  # what it has said comes as bytes then
            said = (error.stdout or b"").decode(errors="replace")
    return said, -signal.SIGKILL if process.returncode is None else process.returncode


def judged(tool: str, said: str, code: int) -> Result:
    """What a tool's words come to: no error, and all checks came to their end."""
    if any(words in said for words in UNUSABLE):
        return {"skipped": next(line for line in said.splitlines() if _unusable(line))[:200]}
    summary = re.search(rf"{TOOLS[tool]}: (.*)", said)
    clean = summary is not None and re.match(r"0 (errors|hazards)", summary[1]) is not None
    result: Result = {"ok": clean and code == 0, "summary": summary[1] if summary else "none"}
    if not result["ok"]:
        late = " (its time was over: nothing is known)" if code == -signal.SIGKILL else ""
        result["error"] = f"{result['summary']}, exit {code}{late}"
        result["said"] = said[:SHOWN_CHARACTERS] + said[-SHOWN_CHARACTERS:]
    return result


def _unusable(line: str) -> bool:
    return any(words in line for words in UNUSABLE)


@contextmanager
def references_on_the_host() -> Iterator[None]:
    """What checks of `kernels` ask of `reference` gets its tensors on the host meanwhile."""
    from experiments.gpu_check.kernels import attention, blocks, dense, reference

    functions = {
        name: _of_host_tensors(made)
        for name, made in vars(reference).items()
        if getattr(made, "__module__", "") == reference.__name__
    }
    with ExitStack() as patches:
        for module in (attention, blocks, dense):
            patches.enter_context(patch.object(module, "reference", SimpleNamespace(**functions)))
        yield


def _of_host_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*given: Any) -> Any:
        return function(*(_on_the_host(value) for value in given))

    return run


def _on_the_host(value: Any) -> Any:
    """A tensor, or tensors that an object or a list holds, on the host."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, list | tuple):
        return type(value)(_on_the_host(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [found.name for found in fields(value) if found.init]
        return replace(value, **{name: _on_the_host(getattr(value, name)) for name in names})
    return value


def main(work: str, *names: str) -> int:
    """Run checks of part `kernels` on small shapes; 1 if one is wrong."""
    from experiments.gpu_check.checks import run_check
    from experiments.gpu_check.kernels.part import CHECKS as KERNELS

    end_with(os.getppid())
    context = Small("cuda", 60.0, {}, Path(work))
    with references_on_the_host():
        results = {name: run_check(KERNELS[name], context) for name in names}
    for name, result in results.items():
        print(name, "ok" if result["ok"] else result.get("error"), flush=True)
    return int(not all(result["ok"] for result in results.values()))


CHECKS: dict[str, Check] = {
    f"{tool}-{group}": partial(under, tool=tool, group=group) for tool in TOOLS for group in GROUPS
}

if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
