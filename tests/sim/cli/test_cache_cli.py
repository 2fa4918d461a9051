"""`cache-study` and `train-reuse` as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sim.cli.app import app
from superinfer.errors import ConfigError, PolicyError


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two conversations of growing prompts between prompts that come once."""
    lines = []
    for turn in range(30):
        talk = [10_000 * (turn // 6 + 1) + block for block in range(turn % 6 + 2)]
        for who, ids in enumerate((talk, list(range(5 * turn, 5 * turn + 5)))):
            lines.append(
                {
                    "timestamp": 20_000 * turn + 7000 * who,
                    "input_length": 512 * len(ids) - 30,
                    "output_length": 5,
                    "hash_ids": ids,
                }
            )
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_json_alone(trace: Path) -> None:
    result = run("cache-study", trace, "--capacity", "8,16", "--policies", "lru,belady", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["trace"], found["requests"], found["block_tokens"]) == ("talk", 60, 512)
    rows = {(row["policy"], row["capacity_blocks"]): row for row in found["results"]}
    assert set(rows) == {("lru", 8), ("lru", 16), ("belady", 8), ("belady", 16)}
    assert rows["lru", 8]["gap_closed"] == 0.0 and rows["belady", 8]["gap_closed"] == 1.0
    assert 0.0 < rows["lru", 8]["hit_rate"] < rows["belady", 8]["hit_rate"]
    assert rows["belady", 8]["prefill_seconds_saved"] > 0.0


def test_table_with_all_policies(trace: Path) -> None:
    lines = run("cache-study", trace, "--capacity", "8", "--from", "0.5").stdout.splitlines()
    rows = [line.split() for line in lines]
    assert sum(row[:1] == ["8"] and len(row) == 6 for row in rows) == 10


@pytest.mark.parametrize("sizes", ["0", "a", "", "5,-1"])
def test_bad_capacities(trace: Path, sizes: str) -> None:
    result = run("cache-study", trace, "--capacity", sizes)
    assert isinstance(result.exception, ConfigError)
    assert "--capacity: expected block counts above 0" in str(result.exception)


def test_bad_policies(trace: Path) -> None:
    result = run("cache-study", trace, "--policies", "lru,mru")
    assert "got 'mru' (did you mean 'lru'?)" in str(result.exception)


@pytest.mark.parametrize("notes", ["'as one'", "None", "5"])
def test_an_order_whose_notes_are_no_texts(
    trace: Path, monkeypatch: pytest.MonkeyPatch, notes: str
) -> None:
    module = trace.with_name("own_order.py")
    lru = "from superinfer.memory.orders.lru import LruOrder\n"
    module.write_text(f"{lru}class Own(LruOrder):\n    notes = {notes}\n")
    monkeypatch.syspath_prepend(str(trace.parent))
    monkeypatch.delitem(sys.modules, "own_order", raising=False)
    result = run("cache-study", trace, "--policies", "own_order:Own")
    assert isinstance(result.exception, PolicyError)
    expected = f"own_order.py): Own.notes: expected a list of texts, got {notes}"
    assert str(result.exception).endswith(expected)


@pytest.mark.parametrize("command", [["cache-study"], ["train-reuse", "-o", "model.npz"]])
def test_a_trace_without_hash_ids_is_named(command: list[str], trace: Path) -> None:
    bare = trace.with_name("bare.jsonl")
    bare.write_text('{"timestamp": 0, "input_length": 9, "output_length": 1}\n')
    found = run(*command, trace, bare) if command[0] == "train-reuse" else run(*command, bare)
    assert str(found.exception) == f"{bare}: expected requests with hash_ids, got none"


def test_what_is_odd_about_a_trace_is_told(trace: Path) -> None:
    record = {"timestamp": 0, "input_length": 9, "output_length": 1, "class": "mine", "extra": 1}
    trace.write_text(json.dumps(record) + "\n" + trace.read_text())
    given = ("cache-study", trace, "--capacity", "8", "--policies", "lru")
    assert "class: expected one of agent, " in str(run(*given).exception)
    classes = trace.with_name("classes.toml")
    classes.write_text("[classes.mine]\nttft_ms = 5\n")
    result = run(*given, "--classes", classes)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"warning: {trace}: ignored unknown fields: extra",
        f"note: {trace}: 1 request without hash_ids left out",
    ]


def test_weights_that_nobody_takes(trace: Path) -> None:
    result = run("cache-study", trace, "--policies", "lru,belady", "--weights", "none.npz")
    assert "--weights: expected slo_aware, whose model it is, among" in str(result.exception)


def test_the_weights_do_not_replace_a_trace(trace: Path) -> None:
    classes = trace.with_name("classes.toml")
    classes.write_text("[classes.mine]\nttft_ms = 900\n")
    for out in (trace, classes):
        before = out.read_bytes()
        result = run("train-reuse", trace, "--classes", classes, "-o", out)
        assert "expected another file than the one that is read" in str(result.exception)
        assert out.read_bytes() == before


def test_the_weights_do_not_replace_a_session(tmp_path: Path) -> None:
    session = tmp_path / "a.json"
    session.write_text("{}")
    result = run("train-reuse", tmp_path, "-o", session)
    assert str(result.exception) == f"{session}: expected another file than the one that is read"


def test_training_counts_the_requests_that_it_takes(trace: Path, tmp_path: Path) -> None:
    """The first share is of those with hash_ids, wherever the others stand."""
    pytest.importorskip("torch", reason="needs torch (the train extra)")
    bare = '{"timestamp": 0, "input_length": 8, "output_length": 2}\n'
    odd = tmp_path / "odd.jsonl"
    odd.write_text(5 * bare + trace.read_text())
    counts = [
        json.loads(
            run("train-reuse", each, "-o", tmp_path / "w.npz", "--until", "0.1", "--json").stdout
        )
        for each in (trace, odd)
    ]
    assert counts[0]["requests"] == counts[1]["requests"] > 0


def test_train_and_use(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch (the train extra)")
    model = tmp_path / "model.npz"
    assert run("train-reuse", trace, "-o", model, "--until", "0.5").exit_code == 0
    result = run(
        "cache-study",
        trace,
        "--weights",
        model,
        "--policies",
        "slo_aware",
        "--capacity",
        "8",
        "--json",
    )
    assert json.loads(result.stdout)["results"][0]["hit_rate"] > 0.0
