"""Whole models on Triton's kernels, in its interpreter and on a GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from modelkit.folders import LLAMA, config_file, drawn_folder
from modelkit.harness import CPU, Harness

from executor.inputs import DecodeRow, build_inputs
from executor.kernels.reference import TorchOps
from executor.models import load_model
from executor.models.seq2seq import generate
from executor.models.t5 import T5

SMALL = {"num_hidden_layers": 1, "hidden_size": 128, "num_attention_heads": 2}
GPT2 = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 128, "n_layer": 1, "n_head": 2}
FLAN = {
    "model_type": "t5",
    "vocab_size": 300,
    "d_model": 96,
    "d_kv": 64,
    "d_ff": 128,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}
EXPERTS = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
GROUPED = SMALL | {"num_key_value_heads": 1}
CASES = {
    "llama": (LLAMA | GROUPED, False),
    "llama-int8": (LLAMA | GROUPED, True),
    "qwen3": (LLAMA | GROUPED | {"model_type": "qwen3", "head_dim": 64}, False),
    "mixtral": (LLAMA | GROUPED | EXPERTS, False),
    "gpt2": (GPT2 | {"n_positions": 128}, False),
    "t5": (FLAN, False),
}
PROMPTS = ([5, 9, 60, 7, 7, 31, 2, 80] * 3, [3] * 17 + [11, 12])


def outcome(model):
    """Logits of a chunk, of a mixed step and of decodes that are padded."""
    harness = Harness(model)
    first, second = (harness.sequence(prompt, 32) for prompt in PROMPTS)
    harness.step([], [(first, 20)])
    harness.step([], [(first, 4)])
    first.tokens.append(17)
    harness.step([first], [(second, 19)])
    for sequence in (first, second):
        sequence.tokens.append(4)
    harness.step([second, first], pad_rows=4, pad_items=6)
    rows = [row for s in (first, second) for _, row in sorted(s.logits.items())]
    return torch.stack(rows).cpu()


def outcome_of_t5(model):
    """Logits of the last of some steps, with the encoder's blocks."""
    kept = []
    forward = model.forward
    model.forward = lambda *inputs: kept.append(forward(*inputs)) or kept[-1]
    generate(model, PROMPTS, 2)
    return torch.cat(kept).cpu()


def both(folder, wanted, given, **changes):
    """What two devices or sets of operations give for the same weights."""
    found = []
    for settings in (wanted, given):
        model = load_model(folder, block_tokens=16, **(settings | changes))
        found.append((outcome_of_t5 if isinstance(model, T5) else outcome)(model))
    return found


@pytest.mark.parametrize(
    "name", [n if n == "llama" else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled where a GPU is")
def test_kernels_in_the_interpreter(tmp_path, name):
    from executor.kernels.triton_ops import TritonOps

    config, int8 = CASES[name]
    folder = drawn_folder(tmp_path, config)
    place = {"device": CPU, "dtype": torch.float32, "int8": int8}
    wanted, given = both(folder, place | {"ops": TorchOps()}, place | {"ops": TritonOps()})
    assert (given - wanted).abs().max() <= 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu(tmp_path, name):
    """Bfloat16 there against the same weights in float32 here."""
    config, int8 = CASES[name]
    folder = drawn_folder(tmp_path, config)
    here = {"device": CPU, "dtype": torch.float32}
    there = {"device": "cuda", "dtype": torch.bfloat16}
    wanted, given = both(folder, here, there, int8=int8)
    assert (given - wanted).norm() / wanted.norm() < 0.03


@pytest.mark.gpu
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


@pytest.mark.gpu
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
