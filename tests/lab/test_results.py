"""Result folders: what goes in comes out, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import Job, build, wave

from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab import results
from superinfer.lab.columns import read_columns, write_columns
from superinfer.lab.results import (
    default_folder,
    load_run,
    read_sizes,
    summary_json,
    write_run,
)
from superinfer.metrics import RunMetrics
from superinfer.outputs import replacing
from superinfer.request import SLO

STEPS = [2.0, 3.0, 5.0, 6.0]
JOBS = [
    Job(0, 10, 5, 1, 6, [(0, 4, 1.0)], slo=SLO(ttft_s=1.0), scheduled_s=0.5),
    Job(1, 20, 0, finish_s=1, state="rejected", group="caf\u00e9"),
    Job(2, 30, 3, 2.5, 5, [(1, 3, 2.5)], slo=SLO(ttft_s=0.1), scheduled_s=2.0),
]


@pytest.fixture
def metrics() -> RunMetrics:
    return RunMetrics(build(JOBS, STEPS, timeline=wave(50)))


def store(folder: Path, metrics: RunMetrics) -> Path:
    config = {"seed": 0, "slo": {"chat": {"ttft_ms": 1000.0}}, "kinds": ["a", "b"], "unset": None}
    return write_run(folder, metrics, metrics.summary({"run": {"seed": np.int64(3)}}), config)


def test_what_is_written_comes_back(tmp_path: Path, metrics: RunMetrics) -> None:
    folder = store(tmp_path / "deep" / "run", metrics)
    run = load_run(folder)
    assert run.name == "run"
    assert run.summary == json.loads(summary_json(metrics.summary({"run": {"seed": 3}})))
    assert run.config == {"seed": 0, "slo": {"chat": {"ttft_ms": 1000.0}}, "kinds": ["a", "b"]}
    assert run.requests["slo_met"].tolist()[::2] == [True, False]
    assert run.requests["slo_met"].isna().tolist() == [False, True, False]
    assert run.requests["class"].tolist() == ["chat", "caf\u00e9", "chat"]
    assert run.requests["ttft_ms"].tolist()[::2] == [1000.0, 500.0]
    assert run.timeline["running"].tolist() == metrics.record.timeline.running.tolist()
    assert run.timeline.attrs["block_bytes"] == 1000
    assert run.itl["weight"].sum() == 6


def test_a_stored_configuration_says_what_made_it(tmp_path: Path, metrics: RunMetrics) -> None:
    made: dict[str, Any] = {"versions": {"python": "3.11.1"}, "profile_sha256": "ab12"}
    where = str(tmp_path / "r")  # a text is as good as a path
    folder = write_run(where, metrics, metrics.summary({"run": made}), {"run": {"tp": 2}})
    assert folder == tmp_path / "r"
    stored = tomllib.loads((folder / "config.toml").read_text())
    assert stored["version"] == 1
    assert stored["made_by"] == {"python": "3.11.1", "profile_sha256": "ab12"}
    assert load_run(folder).config == {"run": {"tp": 2}}
    without = store(tmp_path / "without", metrics) / "config.toml"
    assert tomllib.loads(without.read_text())["made_by"] == {}


def test_the_page_of_formats_names_every_column_of_requests(metrics: RunMetrics) -> None:
    page = Path(__file__).parents[2] / "docs" / "formats.md"
    section = page.read_text(encoding="utf-8").partition("### Requests and gaps")[2]
    rows = re.findall(r"^\| (`.*?) \|", section.partition("`itl.parquet`")[0], re.MULTILINE)
    named = re.findall("`([a-z0-9_]+)`", " ".join(rows))
    assert sorted(named) == sorted([*metrics.request_columns(), "replica"])


def test_parquet_types_are_those_agreed(tmp_path: Path, metrics: RunMetrics) -> None:
    import pyarrow.parquet as pq

    schema = pq.read_schema(store(tmp_path / "run", metrics) / "requests.parquet")
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert schema.names == list(metrics.request_columns())
    assert {kinds[name] for name in ("request_id", "session_id", "reject_reason")} == {"string"}
    assert {kinds[name] for name in ("priority", "output_tokens", "h2d_bytes")} == {"int64"}
    assert {kinds[name] for name in ("arrival_s", "tpot_ms", "kv_bits")} == {"double"}
    assert kinds["slo_met"] == "bool"


def test_unknown_times_are_null_not_nan(tmp_path: Path, metrics: RunMetrics) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(store(tmp_path / "run", metrics) / "requests.parquet")
    assert table.column("ttft_ms").to_pylist() == [1000.0, None, 500.0]
    assert table.column("reject_reason").to_pylist() == [None, "too long", None]


def test_a_run_without_requests_is_stored_too(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", RunMetrics(build([], [])))
    assert load_run(folder).requests.empty
    assert read_columns(folder / "itl.parquet")["gap_ms"].size == 0


def test_an_existing_folder_is_never_touched(tmp_path: Path, metrics: RunMetrics) -> None:
    (tmp_path / "run").mkdir()
    assert [store(tmp_path / "run", metrics).name for _ in range(2)] == ["run-2", "run-3"]
    assert not list((tmp_path / "run").iterdir())


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_columns", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "run", metrics)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(
    tmp_path: Path, metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_columns", full)
    with pytest.raises(SuperInferError, match=r"^cannot write .*run: No space left on device$"):
        store(tmp_path / "run", metrics)


def test_a_path_that_cannot_be_a_folder_is_one_line(tmp_path: Path, metrics: RunMetrics) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SuperInferError, match=r"^cannot write .*: \w[^\n]*$"):
        store(tmp_path / "file" / "run", metrics)


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("old")
    with pytest.raises(ValueError, match="boom"), replacing(path) as staged:
        staged.write_text("half")
        raise ValueError("boom")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]
    assert path.read_text() == "old"


def test_summary_text_is_ascii_and_ordered(tmp_path: Path, metrics: RunMetrics) -> None:
    text = (store(tmp_path / "run", metrics) / "summary.json").read_bytes()
    assert text.isascii()
    keys = list(json.loads(text))
    assert keys == list(metrics.summary())
    assert text.startswith(b'{\n  "version": 1,\n  "completed": 2')


def test_settings_beyond_json_and_toml() -> None:
    rate = {"rate": float("inf"), "out": Path("runs/x"), "share": float("nan")}
    assert json.loads(summary_json(rate)) == {"rate": None, "out": "runs/x", "share": None}
    with pytest.raises(ConfigError, match="cannot store a set"):
        summary_json({"names": {1, 2}})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", "Expecting property name"),
        ("summary.json", "[]", "expected a JSON object"),
        ("summary.json", '{"version": 2}', "version: expected 1, got 2"),
        ("summary.json", '{"classes": 5}', "classes: expected an object, got 5"),
        ("summary.json", '{"run": "x"}', "run: expected an object, got 'x'"),
        ("config.toml", "a = ", "cannot read"),
    ],
)
def test_damaged_folders_name_the_file(
    tmp_path: Path, metrics: RunMetrics, name: str, text: str, message: str
) -> None:
    folder = store(tmp_path / "run", metrics)
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        load_run(folder)


@pytest.mark.parametrize(
    ("name", "column"), [("requests", "request_id"), ("timeline", "t_s"), ("itl", "class")]
)
def test_a_table_that_is_another_one(
    tmp_path: Path, metrics: RunMetrics, name: str, column: str
) -> None:
    folder = store(tmp_path / "run", metrics)
    write_columns(folder / f"{name}.parquet", {"x": np.zeros(1)})
    with pytest.raises(InputError, match=rf"{name}.parquet: {column}: expected such a column"):
        load_run(folder).columns(name)


@pytest.mark.parametrize("name", ["summary.json", "config.toml"])
def test_a_pipe_is_no_result_file(tmp_path: Path, metrics: RunMetrics, name: str) -> None:
    folder = store(tmp_path / "run", metrics)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=rf"{name}: expected a file, got a pipe"):
        load_run(folder)


def test_missing_and_damaged_tables(tmp_path: Path, metrics: RunMetrics) -> None:
    with pytest.raises(InputError, match=r"summary.json: expected a result file"):
        load_run(tmp_path / "nowhere")
    folder = store(tmp_path / "run", metrics)
    (folder / "itl.parquet").write_text("no parquet")
    (folder / "timeline.parquet").unlink()
    run = load_run(folder)
    with pytest.raises(InputError, match=r"itl.parquet: cannot read"):
        _ = run.itl
    with pytest.raises(InputError, match=r"timeline.parquet: expected a Parquet file"):
        _ = run.timeline


def test_sizes_travel_with_the_timeline(tmp_path: Path, metrics: RunMetrics) -> None:
    sizes = read_sizes(store(tmp_path / "run", metrics) / "timeline.parquet")
    assert sizes == {"total_blocks": 100, "block_tokens": 16, "block_bytes": 1000}


def test_default_folder() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5)
    folder = default_folder("data/mooncake.jsonl.gz", "my.module:Policy", now)
    assert folder == Path("runs/mooncake-my.module.Policy-20260102-030405")


def test_storing_a_run_needs_neither_pandas_nor_matplotlib(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from records import build; from superinfer.metrics import RunMetrics\n"
        "from superinfer.lab.results import write_run\n"
        "m = RunMetrics(build([], [])); write_run(Path(sys.argv[1]), m, m.summary(), {})\n"
        "assert not {'pandas', 'matplotlib', 'rich'} & set(sys.modules)\n"
    )
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "run"), tests], check=True)
