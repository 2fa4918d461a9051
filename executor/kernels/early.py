"""Kernels of a decode step that are launched before the one before has ended.

On sm_90 a kernel can say that the next one may be launched, and the next one can wait for all that
the kernels before it wrote (programmatic dependent launch, CUDA C++ programming guide). What a
launch costs is then spent while the kernel before still runs. It concerns kernels of our own that
follow each other: rotation of queries and keys, work items of decode attention, their merge.

Every program of a kernel that is launched early waits before it reads or writes anything, also one
with nothing to do: what comes after waits for that kernel alone. The next kernel is let go as soon
as all programs of this one have begun, so that none of them finds its place taken.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from executor.kernels.tiles import INTERPRET

EARLY: dict[int, bool] = {80: False, 90: False}
"""Per architecture; 80 cannot. Off, since no device has said yet what it brings."""


@triton.jit
def let_next_begin(EARLY: tl.constexpr):
    """The next kernel may be launched once all programs have come here."""
    if EARLY and not INTERPRET:
        gdc_launch_dependents()


@triton.jit
def wait_for_last(EARLY: tl.constexpr):
    """After this, what the kernels before have written is there."""
    if EARLY and not INTERPRET:
        gdc_wait()


def options(chip: int) -> dict[str, bool]:
    """How a kernel that waits is launched."""
    return {"launch_pdl": True} if EARLY[chip] else {}
