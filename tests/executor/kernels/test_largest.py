"""Where the largest number of a row is, in Triton's interpreter and in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernelkit.dense import normal
from torch import Tensor

from executor.kernels import largest as kernels
from executor.kernels.reference import dense as reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SPAN = kernels.SPAN
ways = pytest.mark.parametrize("largest", [kernels.largest, reference.largest])

Largest = Callable[[Tensor, Tensor], Tensor]


def places(largest: Largest, x: Tensor) -> list[int]:
    """What is found, in memory that had other numbers."""
    out = torch.full((len(x) + 1,), -7)
    found = largest(x, out[:-1])
    assert out[:-1].tolist() == found.tolist() and out[-1] == -7
    return found.tolist()


@ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 257, SPAN, SPAN + 1, 3 * SPAN - 5])
def test_largest(largest: Largest, dtype: torch.dtype, n: int) -> None:
    x = normal(3, n, dtype=dtype)
    assert places(largest, x) == x.float().argmax(-1).tolist()


@ways
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_numbers_the_first_counts(largest: Largest, dtype: torch.dtype) -> None:
    """Within a span, over spans, of rows that are equal all through, and of rows of -inf."""
    x = torch.zeros(4, 2 * SPAN + 9, dtype=dtype)
    for row, equal in enumerate([(5, 77), (SPAN - 1, SPAN), (SPAN + 3, SPAN + 4, 2 * SPAN + 8)]):
        x[row, list(equal)] = 3.0
    assert places(largest, x) == [5, SPAN - 1, SPAN + 3, 0]
    x.fill_(-torch.inf)
    assert places(largest, x) == [0] * 4


@ways
def test_rows_may_lie_apart_and_be_none(largest: Largest) -> None:
    wide = normal(2, 3 * SPAN, dtype=torch.float32)
    wide[:, SPAN + 1 :] = 1e9
    x = wide[:, : SPAN + 1]
    assert places(largest, x) == x.clone().argmax(-1).tolist()
    assert places(largest, x[:0]) == []


@ways
def test_what_is_no_number_gives_a_place_all_the_same(largest: Largest) -> None:
    x = torch.full((2, SPAN + 3), torch.nan)
    x[1, 1:] = -torch.inf
    assert all(0 <= place < SPAN + 3 for place in places(largest, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_of_logits_changes_no_token(dtype: torch.dtype) -> None:
    """Every number of 16 bits is one of float32, so order and ties are the same."""
    x = (torch.rand(40, 9999, generator=torch.Generator().manual_seed(0)) + 64).to(dtype)
    assert (x.sort(-1).values[:, -1] == x.sort(-1).values[:, -2]).any(), "no ties were tried"
    assert places(kernels.largest, x) == places(reference.largest, x.float())
