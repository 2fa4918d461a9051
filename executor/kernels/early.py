"""Kernels of a decode step that are launched before the one before has ended.

On sm_90 a kernel can say that the next one may be launched, and the next one can wait for all that
the kernels before it wrote (programmatic dependent launch, CUDA C++ programming guide). What a
launch costs is then spent while the kernel before still runs. It concerns kernels of our own that
follow each other: in a decode step of few rows that is all of a layer, or all but the products
where they have int8 weights or biases, or are those of experts.

Every program of a kernel that is launched early waits before it writes anything, and before it
reads what a kernel of the step wrote, also one with nothing to do: what comes after waits for that
kernel alone. What was there before the step's first kernel may be read, and asked for, at once. The
next kernel is let go as soon as all programs of this one have begun, so that none of them finds its
place taken.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from executor.kernels.tiles import INTERPRET

EARLY: dict[int, bool] = {80: False, 90: True}
"""Per architecture; 80 cannot."""
MOST_ROWS = 32
"""Of a step whose kernels are launched early. With more rows programs no longer fit the device all
at once, and each that begins later waits in vain: 128 rows took 8 % longer on an H200."""


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


@triton.jit
def ask_for(lines, EARLY: tl.constexpr):
    """Have lines of memory brought to the L2, of what no kernel writes; nothing waits for them."""
    if EARLY and not INTERPRET:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; // $0",
            "=r,l",
            [lines.to(tl.uint64, bitcast=True)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


def is_early(chip: int, rows: int) -> bool:
    """Whether kernels of a step of so many rows are launched early."""
    return EARLY[chip] and rows <= MOST_ROWS


def options(early: bool) -> dict[str, bool]:
    """How a kernel that waits is launched."""
    return {"launch_pdl": True} if early else {}
