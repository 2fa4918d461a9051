"""Training of the shipped model: corpus, batches, and a few steps to the end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from executor.models import load_model
from executor.quality.evaluation import EXACT, Walk
from executor.shipped import END, documents
from experiments.tiny.kjv import chapters
from experiments.tiny.llama import Pass, Shape, initial_weights
from experiments.tiny.train import (
    Recipe,
    _repeat_a_passage,
    batch,
    bits_per_token,
    read_corpus,
    recipe_for,
    train,
)

CPU = torch.device("cpu")
SMALL = Shape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=64, intermediate=32, context=128)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join((f"Line of text {i}.\n" * 20).strip() for i in range(60)))
    return path


# -- the corpus -----------------------------------------------------------------------------------


def test_references_go_and_chapters_part() -> None:
    lines = [
        "Ge1:1 In the beginning",
        "Ge1:2 And: 3:4",
        "Ge2:1 Thus",
        "",
        "1Jn1:1 That  ",
        "Jude1:1 J",
    ]
    assert chapters(lines) == "In the beginning\nAnd: 3:4\n\nThus\n\nThat\n\nJ\n"


def test_a_line_without_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="found: 'No verse'"):
        chapters(["No verse"])


def test_the_end_of_the_text_is_held_out(corpus: Path) -> None:
    found = read_corpus(corpus, CPU)
    parts = [found.train, found.excerpt, found.judged]
    text = corpus.read_text()
    assert torch.cat(parts).tolist() == [t for part in documents(text) for t in part]
    assert 0.9 < len(found.train) / sum(map(len, parts)) < 0.96
    assert all(part[-1] == END and len(part) > 300 for part in parts)
    assert [t for part in documents(found.excerpt_text) for t in part] == found.excerpt.tolist()


# -- batches --------------------------------------------------------------------------------------


def test_windows_are_of_the_corpus() -> None:
    found = batch(torch.arange(5000, dtype=torch.int16), 8, 100, 0.0)
    assert found.shape == (8, 101) and found.dtype == torch.int64
    assert bool((found.diff() == 1).all()) and len(set(found[:, 0].tolist())) > 1


def test_passages_come_from_further_in_front() -> None:
    torch.manual_seed(1)
    columns = torch.arange(400).expand(300, -1)
    found = _repeat_a_passage(columns, 1.0)
    back = columns - found
    for row in back:
        lag = row[row != 0]
        assert len(lag.unique()) == 1 and 16 <= len(lag) <= 100 and lag[0] >= len(lag)
        places = row.nonzero().flatten()
        assert bool((places.diff() == 1).all())
    assert (_repeat_a_passage(columns, 0.0) == columns).all()
    shares = (_repeat_a_passage(columns, 0.25) != columns).any(1).float().mean()
    assert 0.1 < float(shares) < 0.4


def test_rate_and_rows_follow_the_clock() -> None:
    recipe = recipe_for(torch.device("cuda"), 1.0, 0, 4096)
    assert recipe.rate(0, 0) == 0 and recipe.rate(1, 999) == pytest.approx(6e-5)
    assert recipe.rate(0.03, 999) == pytest.approx(3e-3, rel=0.01)
    assert recipe.rate(0.03, 5) == pytest.approx(3e-4, rel=0.01)  # The sixth step of 60.
    assert [recipe.row(share) for share in (0, 0.74, 0.75, 1)] == [1024, 1024, 4096, 4096]


# -- the model ------------------------------------------------------------------------------------


def test_bits_are_those_of_each_window() -> None:
    weights = initial_weights(SMALL, 0, CPU)
    model, tokens = Pass(SMALL, weights, torch.float32), torch.arange(90) % 7
    with torch.no_grad():
        nats = [
            -model.logits(tokens[None, start:stop - 1]).log_softmax(-1)[0]
            .gather(-1, tokens[start + 1 : stop, None])
            for start, stop in ((0, 41), (40, 81), (80, 90))
        ]  # fmt: skip
    expected = float(torch.cat(nats).mean()) / math.log(2)
    assert bits_per_token(model, tokens, 40) == pytest.approx(expected, rel=1e-5)


def test_the_executor_computes_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from experiments.tiny.folder import write_folder

    weights = {name: w.detach() for name, w in initial_weights(SMALL, 0, CPU).items()}
    write_folder(tmp_path, SMALL, "text\n")
    save_file(weights, tmp_path / "model.safetensors")
    tokens = torch.arange(64)[None] * 3 % 251
    model = load_model(tmp_path, device="cpu", dtype=torch.float32)
    found = torch.cat([part for _, part in Walk(model, EXACT, tokens).logits()], dim=1)
    expected = Pass(SMALL, weights, torch.float32).logits(tokens)
    assert float((found - expected).abs().max()) < 1e-5


# -- a run ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_short_run_learns_and_leaves_a_folder(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    recipe = replace(recipe_for(CPU, 0.1, 0, 128), batch_tokens=512, short=64, long=128)
    train(corpus, out, replace(recipe, judged_length=64), SMALL, CPU)
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    assert record["steps"] > 20 and record["bits_per_byte"] < 4  # 8 at first.
    assert f"{record['tokens']:,} bytes" in (out / "README.md").read_text()
    assert load_model(out, device="cpu", dtype=torch.float32).vocab == SMALL.vocab


def test_recipes_are_of_the_device() -> None:
    short: Recipe = recipe_for(CPU, 2.0, 7, 4096)
    assert short.minutes == 2 and short.seed == 7 and short.long < 4096
