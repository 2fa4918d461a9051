"""Layers whose products norm, add and activate, against the same layers kernel by kernel."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from executor_runs import DryGraphs, prefilled, tiny_model
from modelkit.folders import LLAMA, config_file, drawn_folder
from modelkit.harness import CPU, Harness

from executor.kernels import linear, linear_fused
from executor.kernels.ops import ops_for
from executor.kernels.reference import TorchOps
from executor.models import load_model
from executor.models.fused import FusedLayers
from executor.steps.inputs import DecodeRow
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch, Runner

SIZES = {"num_hidden_layers": 2, "hidden_size": 192, "intermediate_size": 168}
BLOCKS, LENGTHS = 12, (3, 16, 37)
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


class FusedOps(TorchOps):
    """torch's operations, and the fused products as given; notes how many rows those had."""

    def __init__(self, kernels):
        self.kernels, self.rows = kernels, []

    def fuses(self, x):
        return len(x) <= 32

    def linear_add(self, x, *given):
        self.rows.append(len(x))
        return self.kernels.linear_add(x, *given)

    def linear_normed(self, *given):
        return self.kernels.linear_normed(*given)

    def linear_gated(self, *given):
        return self.kernels.linear_gated(*given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_folder(tmp_path_factory.mktemp("fused"), LLAMA, **SIZES)


def outcome(folder, ops, rows, dtype=torch.float32):
    """Logits of a chunk of so many rows, and of as many decodes."""
    model = load_model(folder, device=CPU, dtype=dtype, block_tokens=16, ops=ops)
    harness = Harness(model)
    chunk = harness.sequence([7 + 3 * place for place in range(rows)], 48)
    harness.step([], [(chunk, rows)])
    others = [harness.sequence([row, 5, 9 + row], 16) for row in range(rows)]
    harness.step([], [(sequence, 3) for sequence in others])
    for row, sequence in enumerate(others):
        sequence.tokens.append(40 + row)
    harness.step(others)
    return torch.stack([chunk.logits[rows - 1], *(sequence.logits[3] for sequence in others)])


def apart(found, wanted):
    """Norm of the difference over the norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slices", [1, 4])
@pytest.mark.parametrize("rows", [1, 5, 16, 32])
def test_steps_of_few_rows(folder, rows, slices, dtype, monkeypatch):
    """The interpreter cuts bfloat16 off where a device rounds, so both are held to float32."""
    monkeypatch.setattr(linear, "slices_of", lambda *_: slices)
    ops = FusedOps(linear_fused)
    found = outcome(folder, ops, rows, dtype)
    # Two products of each of two layers in each of two steps; three times the rows are too many.
    few = [rows, *([3 * rows] if 3 * rows <= 32 else []), rows]
    assert ops.rows == [count for count in few for _ in range(4)]
    wanted = outcome(folder, TorchOps(), rows)
    assert apart(found, wanted) <= CLOSE[dtype]
    if dtype == torch.bfloat16:
        plain = outcome(folder, TorchOps(), rows, dtype)
        assert apart(found, wanted) <= 3 * apart(plain, wanted)


def test_the_reference_does_the_same(folder):
    found = outcome(folder, FusedOps(TorchOps()), 5)
    assert apart(found, outcome(folder, TorchOps(), 5)) <= 1e-5


def test_whole_steps_on_the_kernels_of_a_device(folder, monkeypatch):
    """With the constant on; two runs give the same bits."""
    from executor.kernels.triton_ops import TritonOps

    monkeypatch.setattr(linear_fused, "TYPES", (torch.float32,))
    plain = outcome(folder, TritonOps(), 2)
    monkeypatch.setitem(linear_fused.FUSED, 90, True)
    launched = []
    kernel = linear_fused._launch
    monkeypatch.setattr(
        linear_fused, "_launch", lambda *given, **more: launched.append(1) or kernel(*given, **more)
    )
    found, again = (outcome(folder, TritonOps(), 2) for _ in range(2))
    assert launched
    assert torch.equal(found, again)
    assert apart(found, plain) <= 1e-5


def test_padded_steps_from_graphs(tmp_path):
    """Three decodes in a graph for four: rows of padding are computed, and nobody sees them."""
    found = []
    for ops in (TorchOps(), FusedOps(linear_fused)):
        model = tiny_model(tmp_path, ops=ops)
        arena = torch.zeros(BLOCKS * model.layout.block_bytes[16], dtype=torch.uint8)
        runner = Runner(model, arena, ItemBudget(4, 1))
        tables, first = prefilled(runner, LENGTHS, BLOCKS)
        rows = [
            DecodeRow(table, length + 1, token)
            for table, length, token in zip(tables, LENGTHS, first, strict=True)
        ]
        logits = DryGraphs(runner, 4, BLOCKS).replay(Batch.of(rows, []))()
        assert len(logits) == 4
        assert torch.isfinite(logits).all()
        found.append(logits[:3])
    assert 4 in ops.rows
    assert apart(found[1], found[0]) <= 1e-5


def test_which_layers_are_fused(tmp_path):
    """Plain products alone: codes, biases and experts go kernel by kernel."""

    def fused(changes, **options):
        path = config_file(tmp_path, num_hidden_layers=1, **changes)
        settings = {"device": CPU, "dtype": torch.float32, "random_weights": True}
        return load_model(path, **settings, **options, ops=ops_for(CPU))._fused

    experts = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    assert isinstance(fused({}), FusedLayers)
    assert isinstance(fused({"model_type": "qwen3", "head_dim": 16}), FusedLayers)
    assert fused({}, int8=True) is None
    assert fused({"model_type": "qwen2"}) is None
    assert fused(experts) is None
