"""Products with int8 weights that are widened first, in Triton's interpreter, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelkit.dense import close, codes, normal, poisoned, product_by_hand
from torch import Tensor

from executor.kernels import linear, widen

few = settings(max_examples=6, deadline=None, derandomize=True)


def drawn(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, codes and scales of a product whose outputs are about 1, scales far apart."""
    scales = (10.0 ** torch.linspace(-1, 1, n)) / (127 * k**0.5)
    return normal(m, k, dtype=dtype), codes(n, k), scales


@few
@given(n=st.integers(1, 40), k=st.integers(1, 2100))
def test_codes_are_widened_as_they_are(n: int, k: int) -> None:
    weight, scales = codes(n, k), torch.rand(n) + 0.01
    with poisoned():
        out = torch.empty(n, k, dtype=torch.float16)
    widen.widen(weight, scales, out)
    assert torch.equal(out, (weight.float() * scales[:, None]).half())


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_product_in_pieces(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a last piece that is shorter, and bytes beside the result that stay."""
    m, n, k = 40, 300, 130
    monkeypatch.setattr(widen, "LEAST_OUTS", 128)
    monkeypatch.setattr(widen, "PIECE_BYTES", 0 if pieces > 1 else 1 << 20)
    asked: list[int] = []
    plain = widen.widen
    monkeypatch.setattr(widen, "widen", lambda *given: asked.append(len(given[0])) or plain(*given))
    x, weight, scales = drawn(m, n, k, torch.float16)
    with poisoned():
        found = widen.widened_product(x, weight, scales)
    assert asked == ([300] if pieces == 1 else [128, 128, 44])
    assert found.is_contiguous()
    close(found, product_by_hand(x, weight, scales))


def test_bfloat16_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter rounds to bfloat16 in its own way; what is left is torch's."""
    monkeypatch.setattr(widen, "PIECE_BYTES", 0)
    monkeypatch.setattr(
        widen, "widen", lambda codes, scales, out: out.copy_(codes.float() * scales[:, None])
    )
    x, weight, scales = drawn(33, 200, 96, torch.bfloat16)
    with poisoned():
        found = widen.widened_product(x, weight, scales)
    assert found.dtype == torch.bfloat16
    close(found, product_by_hand(x, weight, scales))


def test_pieces_are_powers_of_two_within_their_bytes() -> None:
    assert widen.outs_of_piece(8192, 2) == 8192
    assert widen.outs_of_piece(28672, 2) == 2048
    assert widen.outs_of_piece(1 << 30, 2) == widen.LEAST_OUTS


def test_only_many_rows_of_16_bits_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        asked.append(len(x))
        return product_by_hand(x, weight, scales).to(x.dtype)

    monkeypatch.setattr(linear, "widened_product", noted)
    monkeypatch.setitem(widen.WIDEN_FROM, 90, None)
    cases = [drawn(m, 8, 32, dtype) for m in (63, 64) for dtype in (torch.float16, torch.float32)]
    for case in cases:
        close(linear.linear_int8(*case), product_by_hand(*case))
    assert asked == []
    monkeypatch.setitem(widen.WIDEN_FROM, 90, 64)
    for case in cases:
        close(linear.linear_int8(*case), product_by_hand(*case))
    assert asked == [64]
