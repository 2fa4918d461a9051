"""Copies of whole blocks inside the arena."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.registry import Entry

TILE_WORDS = 4096
"""Words of 8 bytes that a program copies: 32 KiB."""


@triton.jit
def copy_kernel(arena, sources, targets, words, TILE: tl.constexpr):
    """Copy one tile of one block; the arena is seen as words of 8 bytes, two per wide load."""
    block = tl.program_id(0)
    source = tl.multiple_of(tl.load(sources + block) // 8, 2)
    target = tl.multiple_of(tl.load(targets + block) // 8, 2)
    word = tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = word < words
    values = tl.load(arena + source + word, mask=there, other=0)
    tl.store(arena + target + word, values, mask=there)


def copy_blocks(arena: Tensor, sources: Tensor, targets: Tensor, nbytes: int) -> None:
    """See `Ops.copy_blocks`. `nbytes` and all offsets are multiples of 16.

    Raises ValueError if `nbytes` is not.
    """
    if nbytes % 16:
        raise ValueError(f"blocks have to be multiples of 16 bytes, not {nbytes}")
    if sources.numel() == 0 or nbytes == 0:
        return
    flat = arena.view(-1)
    words = flat[: flat.numel() // 8 * 8].view(torch.int64)
    grid = (sources.numel(), triton.cdiv(nbytes // 8, TILE_WORDS))
    copy_kernel[grid](words, sources, targets, nbytes // 8, TILE=TILE_WORDS, num_warps=8)


def entries() -> list[Entry]:
    """The one form."""
    return [
        Entry(
            name="copy_blocks",
            kernel=copy_kernel,
            capability=capability,
            types={"arena": "*i64", "sources": "*i64", "targets": "*i64", "words": "i32"},
            constants={"TILE": TILE_WORDS},
            aligned=("arena", "sources", "targets", "words"),
            options={"num_warps": 8},
            max_registers=48,
        )
        for capability in (80, 90)
    ]
