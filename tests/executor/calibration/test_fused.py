"""Calibration of a model whose steps of few rows go by products that norm, add and activate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from executor.calibration.bench import Bench, curve
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.filling import fill_curve, row_work
from executor.calibration.grids import Grids
from executor.calibration.kernels import measure_activation, measure_norm
from executor.calibration.products import gemm_sizes, measure_gemm
from executor.calibration.subject import Subject, Wish
from executor.calibration.tables import Family
from executor.calibration.timing import Deadline, Timing
from executor.kernels.reference import TorchOps
from executor.models import load_model
from executor.session import ModelOptions
from executor.steps.items import ItemBudget
from superinfer.costs.profile import Kernel

CPU = torch.device("cpu")
FEW = 4
GRIDS = Grids((1, 2, 8, 16), (1, 8), (1, 8), (16, 64), (1, 16), (0, 16), (1, 2), 512)
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 160,
    "max_position_embeddings": 256,
}
Launch = tuple[str, bool, tuple[int, ...]]
"""What kind of product, whether of few rows, and the shape of its weights."""


class Told(TorchOps):
    """Fuses few rows, and notes which product has which weights."""

    found: set[Launch]

    def __init__(self) -> None:
        self.found = set()

    def _tell(self, kind: str, x: Tensor, weight: Tensor) -> None:
        self.found.add((kind, len(x) <= FEW, tuple(weight.shape)))

    fuses = staticmethod(lambda x: 0 < len(x) <= FEW)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        self._tell("plain", x, weight)
        return TorchOps.linear(x, weight)

    def linear_add(self, x: Tensor, weight: Tensor, *more: Tensor) -> Any:
        self._tell("add", x, weight)
        return TorchOps.linear_add(x, weight, *more)

    def linear_normed(self, x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
        self._tell("normed", x, weight)
        return TorchOps.linear_normed(x, squares, eps, weight)

    def linear_gated(self, x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
        self._tell("gated", x, weight)
        return TorchOps.linear_gated(x, squares, eps, weight)


def bench_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ops: TorchOps, **wish: Any
) -> tuple[Bench, str]:
    """Of a small model, and where that is."""
    monkeypatch.setattr("executor.calibration.subject.ops_for", lambda device: ops)
    path = folder / "config.json"
    path.write_text(json.dumps(SMALL | wish.pop("config", {})))
    loading = ModelOptions(random_weights=True, **wish)
    return Subject.of(Wish(str(path), "cpu", loading, 0.1, 16, grids=GRIDS)).bench(), str(path)


def test_products_are_timed_as_layers_of_few_rows_launch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of more rows as ever."""
    ops = Told()
    bench, path = bench_of(tmp_path, monkeypatch, ops)
    model = load_model(
        path, device=CPU, dtype=torch.float32, random_weights=True, block_tokens=16, ops=ops
    )
    source = RandomArena(model.layout, {16: 32}, CPU)
    for rows in (FEW, FEW + 1):
        model.forward(decode_step(source, [20] * rows, 160, ItemBudget(4, 1)), source.arena)
    launched = ops.found
    ops.found = set()
    for part, size in gemm_sizes(bench.shape).items():
        family = measure_gemm(bench, part, size, Deadline(0.0))
        axis = {"tokens": (1.0, 8.0) if part == "lm_head" else (1.0, 4.0, 5.0, 16.0)}
        assert family.kernel.axes == axis
    first = ("plain", True, gemm_sizes(bench.shape)["qkv"])  # of the first layer alone
    assert {kind for kind, few, _ in launched if few} == {"plain", "add", "normed", "gated"}
    assert ops.found == launched - {first} and first in launched


def test_norms_and_activation_are_counted_where_they_are_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of few rows has two norms in all, and no activation by itself."""
    bench, _ = bench_of(tmp_path, monkeypatch, Told())
    monkeypatch.setattr(Bench, "time", lambda self, calls: Timing(3e-6, 0.0, 3))
    few, many = (2.0, 3.0), (5.0, 16.0)
    norm = measure_norm(bench, Deadline(10.0))
    assert seconds_at(norm, *few) == pytest.approx([2 * 3e-6 / 3] * 2)
    assert seconds_at(norm, *many) == pytest.approx([2 * 3e-6] * 2)
    activation = measure_activation(bench, Deadline(10.0))
    assert seconds_at(activation, *few) == [0.0, 0.0]
    assert seconds_at(activation, *many) == pytest.approx([3e-6] * 2)
    assert all(error == 0.0 for error in norm.errors + activation.errors)


def seconds_at(family: Family, *rows: float) -> list[float]:
    ((_, axis),) = family.kernel.axes.items()
    return np.interp(rows, axis, np.array(family.kernel.seconds)).tolist()


@pytest.mark.parametrize(
    "wish",
    [
        {"int8": True},
        {"config": {"model_type": "qwen2"}},
        {
            "config": {
                "model_type": "mixtral",
                "architectures": ["MixtralForCausalLM"],
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
            }
        },
    ],
)
def test_layers_that_are_not_fused_have_no_such_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    """As models decide it: codes, biases or experts."""
    bench, path = bench_of(tmp_path, monkeypatch, Told(), **wish)
    int8 = wish.get("int8", False)
    kind: dict[str, Any] = {"device": CPU, "dtype": torch.float32, "int8": int8}
    model: Any = load_model(path, random_weights=True, block_tokens=16, ops=Told(), **kind)
    assert model._fused is None and bench.fused_rows == 0
    assert replace(bench, ops=TorchOps()).fused_rows == 0


def test_what_launches_nothing_is_filled_in_with_nothing() -> None:
    kernel = Kernel({"tokens": (1.0, 8.0)}, (0.0, 0.0))
    filled = fill_curve(kernel, (1, 2, 4, 8), row_work)
    assert filled.seconds == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("few", [1, 8, 32])
def test_filling_leaves_the_seam_of_two_launches(few: int) -> None:
    """Points are filled in on both sides, each out of its own; nothing measured is raised."""
    low = {1.0: 4e-5, float(few): 5e-5}
    known = low | {few + 1.0: 3e-5, 1024.0: 9e-5}
    kernel = Kernel({"tokens": tuple(known)}, tuple(known.values()))
    wanted = (1, 2, 4, 8, 16, 32, 64, 256, 1024)
    found = fill_curve(kernel, wanted, row_work)
    table = dict(zip(found.axes["tokens"], found.seconds or (), strict=True))
    assert set(table) == {*known, *wanted}
    assert {x: table[x] for x in known} == known
    assert all(4e-5 <= table[x] <= 5e-5 for x in table if x <= few)
    assert all(3e-5 <= table[x] <= 9e-5 for x in table if x > few)
    assert table[64.0] < 4e-5, "the other side's times were taken for this one's"


def test_what_rounding_let_fall_is_no_seam() -> None:
    kernel = Kernel({"tokens": (1.0, 4.0, 64.0)}, (4e-5, 4e-5 * (1 - 1e-12), 9e-5))
    found = fill_curve(kernel, (1, 2, 4, 64), row_work).seconds
    assert found is not None and found[1] == pytest.approx(4e-5)


def test_a_table_may_fall_where_steps_launch_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stretch keeps what was measured of it."""
    bench, _ = bench_of(tmp_path, monkeypatch, Told())

    def at(rows: int) -> Timing:
        return Timing(2e-4 if rows <= FEW else 1.8e-4, 0.0, 3)

    table = curve(bench, (1, 2, 8, 16), "tokens", at, Deadline(10.0), fused=True).kernel
    assert table.axes == {"tokens": (1.0, 2.0, 4.0, 5.0, 8.0, 16.0)}
    assert table.seconds == (2e-4,) * 3 + (1.8e-4,) * 3
