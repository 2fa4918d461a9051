"""Cases for the dense kernels, and what they have to give, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}
"""Norm of the difference over the norm of what is expected."""


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors hold NaN, or the largest integer, until something is written to them."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected; infinite if not a number."""
    scale = float(expected.double().norm()) or 1.0
    norm = float((found.double() - expected.double()).norm()) / scale
    return float("inf") if math.isnan(norm) else norm


def close(found: Tensor, expected: Tensor) -> None:
    """Assert that a result is what is expected, as far as its type can say."""
    assert found.shape == expected.shape
    assert difference(found, expected) <= TOLERANCE[found.dtype]


def product_by_hand(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """A product with 8-bit weights that have a scale per row, in float64."""
    return x.double() @ (weight.double() * scales.double()[:, None]).T


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def codes(*shape: int, seed: int = 1) -> Tensor:
    """int8 over the whole range of codes, the ends included."""
    values = torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed))
    values.view(-1)[0], values.view(-1)[-1] = -127, 127
    return values.to(torch.int8)


@dataclass
class Experts:
    """Arguments of `moe`."""

    x: Tensor
    weights: Tensor
    experts: Tensor
    gate_up: Tensor
    down: Tensor
    scales: tuple[Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.weights, self.experts, self.gate_up, self.down, self.scales))

    def on(self, device: str) -> Experts:
        """The same on another device."""
        *parts, scales = self
        moved = None if scales is None else tuple(part.to(device) for part in scales)
        return Experts(*(part.to(device) for part in parts), moved)

    def row(self, row: int) -> Experts:
        """One row alone."""
        mine = slice(row, row + 1)
        return replace(self, x=self.x[mine], weights=self.weights[mine], experts=self.experts[mine])

    def matrices(self, expert: int) -> tuple[Tensor, Tensor]:
        """What an expert's weights stand for, in float64."""
        up, down = self.gate_up[expert].double(), self.down[expert].double()
        if self.scales is None:
            return up, down
        up_scales, down_scales = (scales[expert].double()[:, None] for scales in self.scales)
        return up * up_scales, down * down_scales


def mixture(  # one parameter per size
    rows: int,
    per_row: int,
    experts: int,
    hidden: int,
    inner: int,
    dtype: torch.dtype = torch.float32,
    among: list[int] | None = None,
    seed: int = 0,
    int8: bool = False,
) -> Experts:
    """Random experts; every row chooses `per_row` different ones `among` some, or all."""
    random = torch.Generator().manual_seed(seed)
    eligible = torch.tensor(list(range(experts)) if among is None else among)
    order = torch.rand(rows, len(eligible), generator=random).argsort(dim=1)[:, :per_row]
    case = Experts(
        x=torch.randn(rows, hidden, generator=random).to(dtype),
        weights=torch.rand(rows, per_row, generator=random) + 0.1,
        experts=eligible[order],
        gate_up=(torch.randn(experts, 2 * inner, hidden, generator=random) / hidden**0.5).to(dtype),
        down=(torch.randn(experts, hidden, inner, generator=random) / inner**0.5).to(dtype),
    )
    return _in_codes(case) if int8 else case


def _in_codes(case: Experts) -> Experts:
    """The same sizes with int8 weights, each row of a matrix with a scale far from the others'."""
    found, scales = [], []
    for seed, matrix in enumerate((case.gate_up, case.down)):
        found.append(codes(*matrix.shape, seed=seed))
        spread = torch.rand(matrix.shape[:2], generator=torch.Generator().manual_seed(seed)) + 0.05
        scales.append(spread / (64 * matrix.shape[2] ** 0.5))
    return replace(case, gate_up=found[0], down=found[1], scales=(scales[0], scales[1]))


def mixture_by_hand(case: Experts) -> Tensor:
    """Row by row and choice by choice, without the code under test, in float64."""
    x, weights = case.x.double(), case.weights.double()
    out = torch.zeros_like(x)
    for row, chosen in enumerate(case.experts.tolist()):
        for share, expert in zip(weights[row], chosen, strict=True):
            gate_up, down = case.matrices(expert)
            gate, up = (gate_up @ x[row]).chunk(2)
            out[row] += share * (down @ (gate / (1 + torch.exp(-gate)) * up))
    return out
