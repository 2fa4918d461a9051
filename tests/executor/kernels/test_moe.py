"""Mixture of experts in Triton's interpreter and in torch, against a loop in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelkit.dense import Experts, close, mixture, mixture_by_hand, poisoned
from torch import Tensor

from executor.kernels import moe as triton_moe
from executor.kernels.reference import dense as reference

implementations = pytest.mark.parametrize("moe", [triton_moe.moe, reference.moe])
Moe = Callable[..., Tensor]

CASES = {
    "one row": mixture(1, 2, 8, 64, 48),
    "odd sizes": mixture(7, 2, 4, 70, 50),
    "one of one": mixture(5, 1, 1, 32, 32),
    "all of three": mixture(6, 3, 3, 32, 40),
    "one takes all": mixture(40, 1, 4, 32, 32, among=[2]),
    "the last takes all": mixture(3, 1, 5, 32, 32, among=[4]),
    "most are empty": mixture(20, 2, 16, 32, 32, among=[3, 9, 15]),
    "tiles of 32 rows": mixture(40, 2, 3, 40, 36),
    "tiles of 128 rows": mixture(150, 1, 2, 32, 24),
    "half precision": mixture(9, 2, 4, 96, 64, torch.float16),
    "half precision, tiles of 64 rows": mixture(100, 1, 2, 64, 32, torch.float16),
    "int8, one row": mixture(1, 2, 8, 64, 48, int8=True),
    "int8, odd sizes": mixture(7, 2, 4, 200, 50, int8=True),
    "int8, tiles of 32 rows": mixture(40, 2, 3, 40, 36, torch.float16, int8=True),
    "int8, tiles of 64 rows": mixture(100, 1, 2, 64, 72, torch.float16, int8=True),
    "int8, tiles of 128 rows": mixture(150, 1, 2, 32, 24, torch.float16, int8=True),
    "int8, most are empty": mixture(20, 2, 16, 32, 32, among=[3, 9, 15], int8=True),
}


@implementations
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_mixture(moe: Moe, case: Experts) -> None:
    with poisoned():
        found = moe(*case)
    close(found, mixture_by_hand(case))


@implementations
@pytest.mark.parametrize("int8", [False, True])
def test_no_rows(moe: Moe, int8: bool) -> None:
    assert moe(*mixture(0, 2, 4, 32, 32, int8=int8)).shape == (0, 32)


@implementations
@pytest.mark.parametrize("int8", [False, True])
def test_a_row_does_not_depend_on_the_others(moe: Moe, int8: bool) -> None:
    case = mixture(12, 2, 4, 32, 32, int8=int8)
    torch.testing.assert_close(moe(*case.row(3)), moe(*case)[3:4])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    experts=st.integers(1, 9),
    seed=st.integers(0, 99),
    int8=st.booleans(),
    data=st.data(),
)
def test_mixture_of_any_size(
    rows: int, experts: int, seed: int, int8: bool, data: st.DataObject
) -> None:
    per_row = data.draw(st.integers(1, experts))
    case = mixture(rows, per_row, experts, 33, 17, seed=seed, int8=int8)
    with poisoned():
        close(triton_moe.moe(*case), mixture_by_hand(case))


def test_both_products_cut_rows_alike() -> None:
    """One list of tiles serves both."""
    assert triton_moe.UP_TILES.keys() == triton_moe.DOWN_TILES.keys()
    pairs = [(tiles, triton_moe.DOWN_TILES[chip]) for chip, tiles in triton_moe.UP_TILES.items()]
    for up, down in [*pairs, (triton_moe.UP_INT8, triton_moe.DOWN_INT8)]:
        assert [tile.rows for tile in up] == [tile.rows for tile in down]
