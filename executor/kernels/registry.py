"""Every kernel as it is launched: what tests compile for each chip, and what calibration times.

A kernel's module has a function `entries()` that lists the forms in which the executor launches it
with the tile sizes of each architecture; `FAMILIES` names the modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

FAMILIES: tuple[str, ...] = (
    "rms_norm",
    "largest",
    "activation",
    "linear",
    "linear_fused",
    "widen",
    "moe",
    "copy_blocks",
    "rope_write",
    "decode_attention",
    "prefill_attention",
    "requantise",
)
"""Modules of this package that have `entries()`."""


@dataclass(frozen=True)
class Entry:
    """One form of a kernel on one architecture."""

    name: str
    kernel: Any
    """The `triton.jit` function."""
    capability: int
    """80 (A100) or 90 (H100, H200)."""
    types: Mapping[str, str]
    """Argument name to Triton type: `*bf16`, `*u8`, `i32`, `i64`, `fp32`…"""
    constants: Mapping[str, Any]
    aligned: tuple[str, ...] = ()
    """Arguments that are multiples of 16 (bytes for pointers)."""
    options: Mapping[str, int] = field(default_factory=dict)
    """`num_warps`, `num_stages`."""
    max_registers: int = 255
    """Budget of registers per thread."""
    max_stack_bytes: int = 0
    """What may spill, per thread."""
    max_early_loads: int = 0
    """Loads before it waits for the kernel before (`early`): of what no kernel of a step writes."""
    dot: bool = False
    """True if it has to use tensor cores."""
    grouped: bool = False
    """True if its products must run on while other instructions do (sm_90): the assembler can put a
    wait after each one instead, and says nothing."""
    pipelined: bool = False
    """True if its loop has to copy asynchronously."""


def entries() -> list[Entry]:
    """All of them."""
    found: list[Entry] = []
    for family in FAMILIES:
        found += import_module(f"executor.kernels.{family}").entries()
    return found
