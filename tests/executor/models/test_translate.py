"""`superinfer-exec generate` with an encoder-decoder."""

from __future__ import annotations

import json

import pytest
import torch
from modelkit.folders import drawn_folder
from modelkit.harness import CPU

from executor.generate import Wish, generate_command
from executor.models import load_model
from executor.models.seq2seq import generate
from executor.session import ModelOptions, open_session
from executor.steps.sampler import Sampling
from executor.translate import translate
from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import load_config

T5 = {
    "model_type": "t5",
    "vocab_size": 256,
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 80,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "eos_token_id": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_folder(tmp_path_factory.mktemp("t5"), T5)


def wish(folder, **changes):
    settings = {"prompt": "in the beginning", "max_tokens": 12, "sampling": Sampling()} | changes
    return Wish(**settings, model=str(folder), device="cpu")


def test_text_of_an_encoder_decoder(folder, capsys):
    model = load_model(folder, device=CPU, dtype=torch.float32)
    tokens = generate(model, [list(b"in the beginning")], 12, {0})[0]
    assert generate_command(wish(folder), ModelOptions(), 0) == 0
    wanted = bytes(token for token in tokens if token).decode(errors="replace")
    assert capsys.readouterr().out == wanted + "\n"
    assert generate_command(wish(folder), ModelOptions(), 0, as_json=True) == 0
    counts = {"prompt_tokens": 16, "output_tokens": len(tokens), "interrupted": False}
    assert json.loads(capsys.readouterr().out) == {"text": wanted, **counts}


def test_sampling_is_repeatable_and_penalties_count(folder):
    model = load_model(folder, device=CPU, dtype=torch.float32)

    def answer(**settings):
        told = []
        sampling = Sampling(**settings)
        translate(model, [5, 9, 60], 12, (), sampling, lambda token: told.append(token) is not None)
        return told

    assert answer(temperature=5.0, seed=1) == answer(temperature=5.0, seed=1)
    assert answer(temperature=5.0, seed=1) != answer(temperature=5.0, seed=2)
    assert len(set(answer(presence_penalty=100.0))) == 12


def test_what_it_is_told_ends_it(folder):
    model, told = load_model(folder, device=CPU, dtype=torch.float32), []
    translate(model, [5, 9], 12, (), Sampling(), lambda token: told.append(token) or len(told) == 3)
    assert len(told) == 3


def test_prompts_that_do_not_fit_and_traces(folder):
    with pytest.raises(InputError, match="at least one token"):
        generate_command(wish(folder, prompt=""), ModelOptions(), 0)
    with pytest.raises(InputError, match="600 prompt tokens"):
        generate_command(wish(folder, prompt="a" * 600), ModelOptions(), 0)
    config = load_config(None, (), None, scheduler="fcfs", model=str(folder), device="cpu")
    with pytest.raises(ConfigError, match="an encoder-decoder; a trace is replayed with decoders"):
        open_session(config, ModelOptions())
