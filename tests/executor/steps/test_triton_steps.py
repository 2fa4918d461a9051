"""Whole steps through the kernels of a GPU, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from executor_runs import CPU, DryGraphs, prefilled, tiny_model

from executor.kernels.ops import ops_for
from executor.steps.inputs import ChunkRows, DecodeRow
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch, Runner

BLOCKS = 12


def runners(tmp_path):
    """A runner with torch's operations and one with Triton's, over the same weights."""
    from executor.kernels.triton_ops import TritonOps

    made = []
    for ops in (ops_for(CPU), TritonOps()):
        model = tiny_model(tmp_path, ops=ops, num_hidden_layers=1)
        arena = torch.zeros(BLOCKS * model.layout.block_bytes[16], dtype=torch.uint8)
        made.append(Runner(model, arena, ItemBudget(4, 1)))
    return made


@pytest.mark.slow
def test_kernels_give_the_tokens_of_the_reference(tmp_path):
    lengths, tokens, arenas = (3, 16, 37), [], []
    for runner in runners(tmp_path):
        tables, first = prefilled(runner, lengths, BLOCKS)
        rows = [
            DecodeRow(table, length + 1, token)
            for table, length, token in zip(tables, lengths, first, strict=True)
        ]
        # Precisions mixed in one step, a chunk beside the decodes.
        arena, layout = runner.arena, runner.model.layout
        source = torch.tensor([int(tables[2].offsets[1])])
        target = torch.tensor([(BLOCKS - 1) * layout.block_bytes[16]])
        ops_for(CPU).requantise(arena, layout, source, target, 16, 8)
        tables[2].put(np.array([1]), target.numpy(), 8)
        spare = ChunkRows(tables[0], 3, np.array([5, 6, 7]), True)
        mixed = runner.launch(Batch.of(rows[1:], [spare])).wait()
        graphs = DryGraphs(runner, 4, BLOCKS)
        logits = graphs.replay(Batch.of(rows, []))()
        assert torch.isfinite(logits).all()  # those of the padding, too
        tokens.append((first, mixed, runner.outputs[:3].tolist()))
        logits = graphs.replay(Batch.of(rows[1:], [spare]))()
        assert torch.isfinite(logits).all()
        assert runner.outputs[:3].tolist() == mixed
        arenas.append(arena.view(torch.float32).nan_to_num())
    assert tokens[0] == tokens[1]
    used = slice(0, (BLOCKS - 1) * layout.block_bytes[16] // 4)
    assert torch.allclose(arenas[0][used], arenas[1][used], atol=1e-4)
