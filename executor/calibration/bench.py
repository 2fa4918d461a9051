"""What kernels are measured with, and tables over one axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from executor.calibration.filling import Work, row_work
from executor.calibration.grids import Grids
from executor.calibration.tables import Family, hold_out, joined, measure_curve
from executor.calibration.timing import Call, Deadline, Timing, time_calls
from executor.kernels.ops import Ops
from executor.kv.layout import KVLayout
from executor.steps.items import ItemBudget
from superinfer.costs.shapes import ModelShape

EPS = 1e-5
HELD_OUT = 4
"""Points beside the grid that are measured of each kernel."""
MOST_FUSED_ROWS = 256
"""No products do more than multiply for steps of more rows than these."""


@dataclass(slots=True)
class Bench:
    """What kernels are measured with."""

    shape: ModelShape
    layout: KVLayout
    ops: Ops
    device: torch.device
    grids: Grids
    budget: ItemBudget
    int8: bool = False
    biased: frozenset[str] = frozenset()
    """Projections that have biases, by the names of `gemm_sizes`."""
    point_s: float = 0.05
    """Measuring time of a point."""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    fused_rows: int = field(init=False)
    """Of the largest step whose layers go by products that norm, add and activate; 0: none. Under
    the conditions of `executor.models.fused`, whatever these are.
    """

    def __post_init__(self) -> None:
        """Ask the operations."""
        shape = self.shape
        plain = shape.gated_mlp and not (shape.experts or self.int8 or self.biased)
        self.fused_rows = _most_fused(self) if plain else 0

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        return self.layout.dtype

    def randn(self, *size: int, scale: float = 1.0) -> Tensor:
        """Normal numbers of the model's type."""
        return (torch.randn(size, device=self.device) * scale).to(self.dtype)

    def time(self, calls: list[Call]) -> Timing:
        """Of one point."""
        return time_calls(calls, self.device, self.point_s)

    def weights(self, outputs: int, inputs: int) -> tuple[Tensor, Tensor | None]:
        """A matrix of the model's type, or codes of 8 bits and the scales of their rows."""
        if not self.int8:
            return self.randn(outputs, inputs, scale=inputs**-0.5), None
        size, device = (outputs, inputs), self.device
        codes = torch.randint(-127, 128, size, dtype=torch.int8, device=device)
        return codes, torch.rand(outputs, device=device) * 1e-3


def _most_fused(bench: Bench) -> int:
    def fuses(rows: int) -> bool:
        return bench.ops.fuses(torch.empty((rows, 1), dtype=bench.dtype, device=bench.device))

    return next((rows for rows in range(MOST_FUSED_ROWS) if not fuses(rows + 1)), MOST_FUSED_ROWS)


def curve(
    bench: Bench,
    axis: tuple[int, ...],
    name: str,
    at: Callable[[int], Timing],
    deadline: Deadline,
    work: Work | None = row_work,
    fused: bool = False,
) -> Family:
    """A table over one axis with its held-out points. What the time left out is filled in on a GPU
    alone: on a CPU few rows already take their time in proportion, and a straight line is nearer.

    With `fused`, steps of up to `Bench.fused_rows` rows launch something else than larger ones, so
    both have a table of their own, and these are joined.
    """
    guide = work if bench.device.type != "cpu" else None
    stretches, parts = _stretches(axis, bench.fused_rows if fused else 0), list[Family]()
    for index, stretch in enumerate(stretches):
        share = len(stretch) / sum(map(len, stretches[index:]))
        parts.append(measure_curve(stretch, name, at, Deadline(share * deadline.left_s), guide))
    family = joined(parts)
    if not deadline.over:
        hold_out(family, [(x,) for x in between(bench, axis)], at)
    return family


def _stretches(axis: tuple[int, ...], few: int) -> list[tuple[int, ...]]:
    """An axis in two parts that meet between `few` and the next whole number; in one where all of
    it is on one side.
    """
    low = sorted({*(x for x in axis if x <= few), few})
    high = sorted({*(x for x in axis if x > few), few + 1})
    return [axis] if not axis[0] <= few < axis[-1] else [tuple(low), tuple(high)]


def between(bench: Bench, axis: tuple[int, ...]) -> list[int]:
    """Points off the grid, even in the logarithm."""
    low, high = np.log(axis[0] + 2), np.log(axis[-1])
    return [int(np.exp(x)) for x in bench.random.uniform(low, high, HELD_OUT)]
