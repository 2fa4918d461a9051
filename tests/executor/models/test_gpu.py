"""Whole models on a GPU, with compiled kernels:

TRITON_INTERPRET=0 pytest -m gpu tests/executor/models/test_gpu.py
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from modelkit.families import CASES, GROUPED, PROMPTS, both
from modelkit.folders import LLAMA, config_file, drawn_folder
from modelkit.harness import CPU, Harness

from executor.kernels.tiles import INTERPRETED
from executor.models import load_model
from executor.steps.inputs import DecodeRow, build_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(INTERPRETED, reason="needs the compiler: set TRITON_INTERPRET=0"),
]


@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu(tmp_path, name):
    """Bfloat16 there against the same weights in float32 here."""
    config, int8 = CASES[name]
    folder = drawn_folder(tmp_path, config)
    here = {"device": CPU, "dtype": torch.float32}
    there = {"device": "cuda", "dtype": torch.bfloat16}
    wanted, given = both(folder, here, there, int8=int8)
    assert (given - wanted).norm() / wanted.norm() < 0.03


@pytest.mark.parametrize("int8", [False, True])
def test_a_model_is_made_on_the_gpu_alone(tmp_path, int8):
    """Random weights take the memory that they have in the end, and no more beside."""
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8}
    path = config_file(tmp_path, LLAMA | sizes, vocab_size=32000)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = load_model(path, device="cuda", dtype=torch.bfloat16, random_weights=True, int8=int8)
    held = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 1.02 * held
    assert model.device.type == "cuda"


def test_a_captured_step_gives_what_the_eager_one_gives(tmp_path):
    folder = drawn_folder(tmp_path, LLAMA | GROUPED)
    model = load_model(folder, device="cuda", dtype=torch.bfloat16, block_tokens=16)
    harness = Harness(model)
    sequence = harness.sequence(PROMPTS[0], 48)
    harness.step([], [(sequence, 24)])
    steps = [row_of(model, sequence, 25), row_of(model, sequence, 26)]
    static = row_of(model, sequence, 25)
    model.forward(static, harness.arena)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model.forward(static, harness.arena)
    for step in steps:
        wanted = model.forward(step, harness.arena).clone()
        with torch.inference_mode():
            for name in ("token_ids", "positions", "write_offsets", "write_slots"):
                getattr(static, name).copy_(getattr(step, name))
            static.decode.tokens.copy_(step.decode.tokens)
        graph.replay()
        assert torch.equal(logits, wanted)


def row_of(model, sequence, length):
    """A decode of one row, its items of one size."""
    row = DecodeRow(sequence.table, length, 40 + length)
    return build_inputs(
        [row], [], model.layout, model.device, item_blocks=2, pad_rows=1, pad_items=2
    )
