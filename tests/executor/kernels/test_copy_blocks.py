"""Copies of blocks inside the arena."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from executor.kernels import copy_blocks as triton_copy
from executor.kernels.reference import dense as reference

Copy = Callable[[Tensor, Tensor, Tensor, int], None]
implementations = pytest.mark.parametrize("copy", [triton_copy.copy_blocks, reference.copy_blocks])


def arena_of(nbytes: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=random)


@implementations
@pytest.mark.parametrize("nbytes", [16, 48, 32768, 32784, 100000 // 16 * 16])
def test_blocks_arrive_and_nothing_else_changes(copy: Copy, nbytes: int) -> None:
    arena = arena_of(8 * nbytes + 40)
    sources, targets = [16, 2 * nbytes, 5 * nbytes], [4 * nbytes, 7 * nbytes, 3 * nbytes]
    expected = arena.clone()
    for source, target in zip(sources, targets, strict=True):
        expected[target : target + nbytes] = arena[source : source + nbytes]
    copy(arena, torch.tensor(sources), torch.tensor(targets), nbytes)
    assert torch.equal(arena, expected)


@implementations
def test_one_block_to_many(copy: Copy) -> None:
    arena = arena_of(160)
    copy(arena, torch.tensor([0, 0]), torch.tensor([32, 128]), 32)
    assert torch.equal(arena[32:64], arena[:32])
    assert torch.equal(arena[128:], arena[:32])


@implementations
def test_nothing_to_copy(copy: Copy) -> None:
    arena = arena_of(64)
    before, none = arena.clone(), torch.empty(0, dtype=torch.int64)
    copy(arena, none, none, 32)
    assert torch.equal(arena, before)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16 bytes, not 24"):
        triton_copy.copy_blocks(arena_of(64), torch.tensor([0]), torch.tensor([32]), 24)
