"""By what a study knows a run again: settings, files and code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from study_runner import Recorder

from superinfer.lab.config import load_config
from superinfer.lab.studies.content import Keys, code_hash, named_files, source_files

PLUGIN = """
from dataclasses import dataclass
from study_plugin_helper import PATIENCE
from superinfer.schedulers.fcfs import FcfsScheduler

@dataclass(slots=True)
class Mine(FcfsScheduler):
    patience: int = PATIENCE
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one file of every kind that a configuration can name."""
    (tmp_path / "t.jsonl").write_text("1")
    (tmp_path / "model.json").write_text("1")
    (tmp_path / "profile.json").write_text("1")
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "one.json").write_text("1")
    (tmp_path / "spec.toml").write_text(
        '[clients.a]\nservegen = "days"\n[clients.b.lengths]\nsharegpt = "talk.json"\n'
    )
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "a.csv").write_text("1")
    (tmp_path / "talk.json").write_text("1")
    (tmp_path / "study_plugin.py").write_text(PLUGIN)
    (tmp_path / "study_plugin_helper.py").write_text("PATIENCE = 1\n")
    for name in ("study_plugin", "study_plugin_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def key(**run: Any) -> str:
    settings = run.pop("settings", ())
    return Keys("sim.studies.compare:Simulate").key(load_config(None, settings, **run))


def test_equal_runs_have_equal_keys(folder: Path) -> None:
    assert key(trace="t.jsonl") == key(trace="t.jsonl")
    assert key(trace="t.jsonl") == key(trace="t.jsonl", settings=["scheduler.max_num_seqs=256"])
    assert len(key()) == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"scheduler": "fcfs"},
        {"lag": 1},
        {"trace": "spec.toml"},
        {"settings": ["scheduler.max_num_seqs=128"]},
        {"settings": ["classes.chat.ttft_ms=5"]},
        {"settings": ["workload.clients.a.rate_per_s=2"]},
    ],
)
def test_settings_are_in_the_key(folder: Path, changes: dict[str, Any]) -> None:
    assert key(**{"trace": "t.jsonl", **changes}) != key(trace="t.jsonl")


@pytest.mark.parametrize(
    ("run", "file"),
    [
        ({"trace": "t.jsonl"}, "t.jsonl"),
        ({"trace": "sessions"}, "sessions/one.json"),
        ({"trace": "t.jsonl", "model": "model.json"}, "model.json"),
        ({"trace": "t.jsonl", "costs": "profile.json"}, "profile.json"),
        ({"trace": "spec.toml"}, "spec.toml"),
        ({"trace": "spec.toml"}, "days/a.csv"),
        ({"trace": "spec.toml"}, "talk.json"),
        ({"trace": "t.jsonl", "scheduler": "study_plugin:Mine"}, "study_plugin.py"),
        ({"trace": "t.jsonl", "scheduler": "study_plugin:Mine"}, "study_plugin_helper.py"),
    ],
)
def test_the_content_of_named_files_is_in_the_key(
    folder: Path, run: dict[str, Any], file: str
) -> None:
    before = key(**run)
    text = (folder / file).read_text()
    (folder / file).write_text(text + "\n# changed\n")
    assert key(**run) != before
    (folder / file).write_text(text)
    assert key(**run) == before


def test_files_that_come_and_go_beside_are_not_in_the_key(folder: Path) -> None:
    before = key(trace="t.jsonl")
    (folder / "vllm").mkdir()
    (folder / "vllm" / "x.py").write_text("1")
    (folder / "runs").mkdir()
    (folder / "other.jsonl").write_text("1")
    assert key(trace="t.jsonl") == before


def test_inputs_and_runner_are_in_the_key(folder: Path) -> None:
    config = load_config(None, (), trace="t.jsonl")
    keys = {
        Keys(runner, inputs).key(config)
        for runner in (
            "sim.studies.compare:Simulate",
            "sim.run:run_simulation",
            Recorder(Path("log")),
        )
        for inputs in ((), (Path("model.json"),))
    }
    assert len(keys) == 6


def test_a_workload_section_can_name_files(folder: Path) -> None:
    (folder / "other-days").mkdir()
    config = load_config(None, ['workload.clients.a.servegen="other-days"'], trace="spec.toml")
    assert Path("other-days") in named_files(config.resolved())


def test_all_of_our_source_is_hashed_and_no_library() -> None:
    names = {name for name, _ in source_files(["sim", "superinfer"])}
    wanted = {"superinfer/engine/engine.py", "sim/driver.py", "traces/readers.py"}
    wanted |= {
        "superinfer/costs/profiles/a100-80g_llama-3.1-8b_tp1.json",
        "superinfer/memory/weights/reuse.npz",
        "traces/specs/mixed.toml",
        "traces/samples/mixed.jsonl",
    }
    assert wanted <= names
    assert {name.partition("/")[0] for name in names} == {"superinfer", "sim", "traces"}


def test_code_that_a_plugin_imports_is_hashed(folder: Path) -> None:
    (folder / "outer").mkdir()
    (folder / "outer" / "__init__.py").write_text("import inner_one, inner_two as two\n")
    (folder / "inner_one.py").write_text("import json\n")
    (folder / "inner_two.py").write_text("import numpy\n")
    before = code_hash(["outer"])
    (folder / "inner_two.py").write_text("import numpy as np\n")
    assert code_hash(["outer"]) != before
    names = {name for name, _ in source_files(["outer"])}
    assert names == {"outer/__init__.py", "inner_one.py", "inner_two.py"}


def test_libraries_of_an_environment_that_is_extended_are_not_hashed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "outer.py").write_text("import library_below\n")
    library = folder / "below" / "site-packages" / "library_below"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(library.parent)
    assert {name for name, _ in source_files(["outer"])} == {"outer.py"}
