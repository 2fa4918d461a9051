"""The device of a run: what it is called, what it is like, and how much of it is free."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from superinfer.costs import DEVICES, DeviceSpec, load_device
from superinfer.costs.devices import Link
from superinfer.errors import ConfigError
from superinfer.lab.versions import processor, versions

HOST = "cpu"
VERSIONED = ("superinfer", "torch", "triton", "numpy")
_GPUS = {
    "GH200": "gh200",
    "H200": "h200",
    "H100": "h100",
    "A100": "a100-80g",
    "L40S": "l40s",
    "T4": "t4-16g",
}
"""By a part of the name that the driver gives, the preset of nominal figures."""
_ASKED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGTP]?i?B)", re.IGNORECASE)
_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "size calculation overflowed",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_MEMORY = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
_PROBE_BYTES = 32 << 20
_PROBE_ROWS = 512


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run takes place."""

    torch: torch.device
    name: str
    """As the machine calls it."""
    spec: DeviceSpec
    """Figures for the cost model with which schedulers predict."""


def find_device(name: str, place: str = "run.device") -> Device:
    """The device `cpu`, `cuda`, or `cuda` with the figures of a named preset; `cuda:1` becomes the
    current one (`use`).

    Raises ConfigError where there is none, which begins with the `place` that the name is from.
    """
    if name == HOST:
        return Device(torch.device(HOST), processor(), _host_spec())
    if name != "cuda" and not name.startswith("cuda:") and name.lower() not in DEVICES:
        known = ", ".join(DEVICES)
        raise ConfigError(f"{place}: expected cpu, cuda or one of {known}, got {name!r}")
    if not torch.cuda.is_available():
        raise ConfigError(f"{place} {name}: torch finds no CUDA device; use --device cpu")
    device = _gpu(name if name.startswith("cuda") else "cuda", place)
    use(device)
    found = torch.cuda.get_device_name(device)
    spec = load_device(name) if name.lower() in DEVICES else _gpu_spec(found, device)
    return Device(device, found, spec)


def use(device: torch.device) -> None:
    """Let this thread work on a GPU that has a number. Triton, events and graphs go by the thread's
    current GPU, not by that of a tensor, and for each thread that is the first one to begin with.
    """
    if device.index is not None:
        torch.cuda.set_device(device)


def default_device() -> str:
    """`cuda` where there is a GPU."""
    return "cuda" if torch.cuda.is_available() else HOST


def free_host_bytes() -> int | None:
    """Main memory that a process may still take, by the machine and by its container's limit; None
    where the system does not say (Linux alone does).
    """
    try:
        known = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMORY.read_text(), re.MULTILINE)
    except OSError:
        known = None
    if known is None:
        return None
    free = int(known[1]) << 10
    try:
        limit, used = ((_CONTAINER / name).read_text() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit.strip() == "max" else min(free, int(limit) - int(used))


def free_bytes(device: torch.device, share: float = 1.0) -> int:
    """Of a GPU's memory, what is left of `share` of it."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(free - (1.0 - share) * total)


def memory_bytes(device: torch.device) -> int:
    """All memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for what is raised where there is too little memory, on a GPU or on the host: by torch,
    and by what takes a GPU's memory beside it (pinning, cuBLAS, a kernel that Triton loads).
    """
    told = any(words in str(error) for words in _NO_MEMORY)
    return told or isinstance(error, torch.OutOfMemoryError)


def asked_bytes(error: RuntimeError) -> str:
    """How much torch says that it tried to allocate, with the unit; empty if it does not say."""
    found = _ASKED.search(str(error))
    if found is None:
        return ""
    count, unit = found.groups()
    return f"{int(count) / 2**30:.2f} GiB" if unit == "bytes" else f"{count} {unit}"


def executor_versions(*more: str) -> dict[str, str]:
    """Of Python and of what the executor stands on, and of `more` packages."""
    found = versions(*VERSIONED, *more)
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


# -- inside ---------------------------------------------------------------------------------------


def _gpu(name: str, place: str) -> torch.device:
    """The GPU `cuda` or `cuda:NUMBER`; ConfigError where there is no such one."""
    count = torch.cuda.device_count()
    known = ["cuda", *(f"cuda:{number}" for number in range(count))]
    if name not in known:
        raise ConfigError(f"{place}: expected one of {', '.join(known)}, got {name!r}")
    return torch.device(name)


def _gpu_spec(found: str, device: torch.device) -> DeviceSpec:
    """The preset of a GPU's name; of one that has none, the A100's figures under its own name."""
    small = torch.cuda.get_device_properties(device).total_memory < 50e9
    preset = _preset(found, small)
    if preset is not None:
        return load_device(preset)
    likened = load_device("a100-40g" if small else "a100-80g")
    return replace(likened, name=_slug(found))


def _preset(found: str, small: bool) -> str | None:
    preset = next((key for part, key in _GPUS.items() if part in found), None)
    return "a100-40g" if preset == "a100-80g" and small else preset


def _slug(found: str) -> str:
    """`NVIDIA RTX A6000` as `rtx-a6000`; an underline parts the names in that of a profile."""
    return found.lower().removeprefix("nvidia ").replace(" ", "-").replace("_", "-")


@cache
def _host_spec() -> DeviceSpec:
    """A CPU by a short measurement: a copy, and a product of matrices; once in a process, so that
    runs in it predict the same.
    """
    source, target = (torch.ones(_PROBE_BYTES, dtype=torch.uint8) for _ in range(2))
    copied = 2 * _PROBE_BYTES / _seconds(lambda: target.copy_(source))
    left, right = (torch.ones(_PROBE_ROWS, _PROBE_ROWS) for _ in range(2))
    flops = 2 * _PROBE_ROWS**3 / _seconds(lambda: left @ right)
    link = Link(copied / 2)
    return DeviceSpec(
        HOST, memory_bytes(torch.device(HOST)), copied, flops, link, link, copied / 2, 0.0
    )


def _seconds(run: Callable[[], object]) -> float:
    """The shortest of three times, after one that is not counted."""
    run()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return max(min(times), 1e-9)
