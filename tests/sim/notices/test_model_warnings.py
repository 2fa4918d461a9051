"""What is said of a model beside its shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.notices.model_warnings import model_warnings
from superinfer.lab.config import load_config

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}
FP8 = {"quantization_config": {"quant_method": "fp8"}}
WINDOW = {"sliding_window": 1024}
SIXTEEN = "quantization_config is left out: weights count with 16 bits"
WHOLE = "sliding_window is left out: caches and attention are of the whole context"


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ({}, []),
        ({"quantization_config": None, "sliding_window": None}, []),
        (FP8, [SIXTEEN]),
        ({"model_type": "mistral", **WINDOW}, [WHOLE]),
        ({"model_type": "mistral", "sliding_window": 4096}, []),  # as long as the context
        ({"model_type": "qwen2", **WINDOW}, []),
        ({"model_type": "qwen2", "use_sliding_window": False, **WINDOW}, []),
        ({"model_type": "qwen2", "use_sliding_window": True, **WINDOW, **FP8}, [SIXTEEN, WHOLE]),
    ],
)
def test_what_the_file_says_and_the_shape_does_not(
    tmp_path: Path, more: dict[str, Any], lines: list[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | more))
    for model in (str(tmp_path), str(tmp_path / "config.json")):
        assert model_warnings(load_config(model=model)) == [f"{model}: {line}" for line in lines]


@pytest.mark.parametrize(("tokens", "lines"), [(1024, 0), (1025, 1)])
def test_a_window_that_a_shorter_context_fits_into(tmp_path: Path, tokens: int, lines: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | WINDOW))
    assert len(model_warnings(load_config(model=str(tmp_path), max_model_len=tokens))) == lines


def test_a_profile_says_how_many_bits_weights_have(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | FP8))
    assert model_warnings(load_config(model=str(tmp_path), costs="mine.json")) == []


@pytest.mark.parametrize(("model", "most"), [("gpt2", 1024), ("llama-3-8b", 8192)])
def test_a_context_that_the_model_does_not_have(model: str, most: int) -> None:
    line = f"run.max_model_len: {most + 1:,} is above the {most:,} tokens of {model}"
    assert model_warnings(load_config(model=model, max_model_len=most + 1)) == [line]
    assert model_warnings(load_config(model=model, max_model_len=most)) == []
    assert model_warnings(load_config(model=model)) == []


def test_distances_of_t5_have_no_end() -> None:
    assert model_warnings(load_config(model="t5-base", max_model_len=600)) == []


@pytest.mark.usefixtures("work_folder")
@pytest.mark.parametrize("study", [("run",), ("plan", "--device", "a100-80g", "--tp", "1")])
def test_it_is_said_once(
    command: Callable[..., tuple[int, str, str]], study: tuple[str, ...]
) -> None:
    options = ("--set", "run.max_model_len=9000", "--model", "llama-3-8b", "--no-plots")
    _, _, error = command(study[0], "chat", *study[1:], "--limit", "9", *options, "--out", "r")
    assert error.count("warning: run.max_model_len: 9,000 is above the 8,192 tokens") == 1
