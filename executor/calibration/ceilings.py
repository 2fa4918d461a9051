"""What a device is and the two ceilings that its kernels are held against."""

from __future__ import annotations

from functools import partial

import torch

from executor.calibration.timing import Call, time_calls
from superinfer.lab.versions import processor

COPY_BYTES = {"cuda": 4 << 30, "cpu": 128 << 20}
GEMM_SIZE = {"cuda": 8192, "cpu": 512}


def hardware(device: torch.device) -> dict[str, object]:
    """The device in its own words."""
    if device.type != "cuda":
        return {"name": processor(), "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "l2_bytes": found.L2_cache_size,
        "capability": f"{found.major}.{found.minor}",
    }


def ceilings(device: torch.device, budget_s: float = 1.0) -> dict[str, float]:
    """Bytes/s of a large copy inside the device, read and written bytes both counted, bytes/s of a
    pure read, and FLOP/s of a large square GEMM; each by its fastest repeat, as it is a ceiling.
    """
    return {
        "copy_bytes_per_s": copy_bandwidth(device, budget_s / 3),
        "read_bytes_per_s": read_bandwidth(device, budget_s / 3),
        "gemm_flops": gemm_rate(device, budget_s / 3),
    }


def copy_bandwidth(device: torch.device, budget_s: float) -> float:
    """Bytes/s of a copy inside the device's memory, reads plus writes."""
    nbytes = COPY_BYTES[device.type]
    source = torch.randint(0, 127, (nbytes // 8,), dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    timing = time_calls([lambda: target.copy_(source)], device, budget_s, graph=False)
    return 2 * nbytes / timing.best


def read_bandwidth(device: torch.device, budget_s: float) -> float:
    """Bytes/s of a sum over a large tensor, which writes nothing."""
    nbytes = COPY_BYTES[device.type]
    source = torch.randn(nbytes // 4, device=device)
    timing = time_calls([source.sum], device, budget_s, graph=False)
    return nbytes / timing.best


def gemm_rate(device: torch.device, budget_s: float) -> float:
    """FLOP/s of a square product of random numbers: bf16 on a GPU, float32 on a CPU."""
    size = GEMM_SIZE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pairs = [
        (
            torch.randn(size, size, dtype=dtype, device=device),
            torch.randn(size, size, dtype=dtype, device=device),
        )
        for _ in range(2)
    ]
    calls: list[Call] = [partial(torch.mm, a, b) for a, b in pairs]
    return 2 * size**3 / time_calls(calls, device, budget_s, graph=False).best
