"""`traces stats` and `traces convert` as a user meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, superinfer_sim
from rich.table import Table

from traces.generate.load import SPECS_DIR
from traces.printing import print_table
from traces.readers import read_trace

LINES = [
    '{"timestamp":0,"input_length":100,"output_length":10,"class":"mine","tenant":"[red]"}',
    '{"timestamp":0,"input_length":100,"output_length":10}',
    '{"timestamp":3000,"input_length":100,"output_length":2000,"extra":1}',
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(LINES))
    return str(path)


@pytest.fixture
def classes(tmp_path: Path) -> str:
    path = tmp_path / "classes.toml"
    path.write_text("[classes.mine]\nttft_ms = 5\n")
    return str(path)


def run(*arguments: str, stdin: str | None = None) -> Ended:
    return superinfer_sim("traces", *arguments, stdin=stdin)


def test_stats_prints_json_alone(trace: str, classes: str) -> None:
    result = run("stats", trace, "--json", "--classes", classes)
    assert result.exit_code == 0
    stats = json.loads(result.stdout)
    assert (stats["requests"], stats["rate_per_s"], stats["raised_max_tokens"]) == (3, 1.0, 1)
    assert result.stderr == f"warning: {trace}: ignored unknown fields: extra\n"


def test_a_mistake_is_one_line_without_control_characters() -> None:
    result = run("stats", "/no\x1b[31m\nwhere.jsonl")
    assert (result.exit_code, result.stdout) == (2, "")
    expected = "error: /no\\x1b[31m where.jsonl: expected a trace file, got no such file\n"
    assert result.stderr == expected


def test_stats_prints_a_table(trace: str, classes: str) -> None:
    result = run("stats", trace, "--classes", classes)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["output_tokens.mean", "673.333"] in rows and ["output_tokens.max", "2,000"] in rows
    assert "tenants.[red]" in result.stdout


def test_stats_counts_skipped_lines(trace: str) -> None:
    result = run("stats", trace, "--json", "--skip-bad")
    assert json.loads(result.stdout)["skipped"] == 1
    assert f"warning: {trace}: skipped 1 bad line: line 1: class: expected one of " in result.stderr


def test_stats_reads_standard_input() -> None:
    result = run("stats", "-", "--json", stdin=LINES[1])
    assert json.loads(result.stdout)["name"] == "stdin"


def test_a_bad_trace_is_one_line_and_code_2(trace: str) -> None:
    result = run("stats", trace, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {trace}:1: class: expected one of agent, ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["stats"], ["convert", "-o", "-"]])
def test_a_bad_class_file_is_one_line_and_code_2(
    trace: str, tmp_path: Path, command: list[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[classes.mine]\nttft = 5\n")
    result = run(*command, trace, "--classes", str(bad))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {bad}: classes.mine.ttft: expected a known key")
    assert result.stderr.count("\n") == 1


def test_convert_writes_a_native_trace(trace: str, classes: str, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl.gz"
    arguments = ["--spread", "--limit", "2", "--classes", classes]
    result = run("convert", trace, "-o", str(target), *arguments)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith(f"wrote 2 requests to {target}\n")
    workload = read_trace(target, skip_bad=True)
    assert [request.arrival_s for request in workload.requests] == [1.5]


def test_convert_writes_to_standard_output() -> None:
    result = run("convert", "-", "-o", "-", stdin=LINES[1])
    assert result.stdout == LINES[1] + "\n"


def test_convert_cannot_write_to_a_directory(trace: str, tmp_path: Path) -> None:
    result = run("convert", trace, "--skip-bad", "-o", str(tmp_path))
    assert result.exit_code == 2
    assert f"error: {tmp_path}: expected a file, got a folder\n" in result.stderr


@pytest.mark.parametrize("command", ["convert", "mix", "from-log"])
def test_what_is_read_is_not_overwritten(command: str, trace: str, tmp_path: Path) -> None:
    """A trace has less than the log that it was made of; nor by another name of the file."""
    columns = ("--time", "timestamp", "--prompt", "input_length", "--answer", "output_length")
    more = (*columns, "--time-unit", "ms") if command == "from-log" else ("--skip-bad",)
    link = tmp_path / "link"
    link.symlink_to(trace)
    before = Path(trace).read_bytes()
    for out in (trace, str(link)):
        result = run(command, trace, "-o", out, *more)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        said = f"error: {out}: expected another file than the one that is read\n"
        assert result.stderr == said and Path(trace).read_bytes() == before


@pytest.mark.parametrize("command", ["convert", "mix", "generate"])
def test_classes_and_specifications_are_not_overwritten(
    command: str, trace: str, classes: str, tmp_path: Path
) -> None:
    """They are written by hand, and a trace tells nothing of them."""
    spec = tmp_path / "spec.toml"
    spec.write_bytes((SPECS_DIR / "chat.toml").read_bytes())
    of = [str(spec)] if command == "generate" else [trace, "--skip-bad"]
    for out in (classes, str(spec)) if command == "generate" else (classes,):
        before = Path(out).read_bytes()
        result = run(command, *of, "--classes", classes, "-o", out)
        said = f"error: {out}: expected another file than the one that is read\n"
        assert (result.exit_code, result.stderr) == (2, said)
        assert Path(out).read_bytes() == before


def test_lengths_of_a_specification_are_not_overwritten(tmp_path: Path) -> None:
    lengths, spec = tmp_path / "lens.json", tmp_path / "spec.toml"
    lengths.write_text('[{"input_length": 10, "output_length": 5}]')
    spec.write_text(
        "version = 1\nduration_s = 20\n"
        '[clients.a]\nrate_per_s = 1\nlengths = { sharegpt = "lens.json" }\n'
    )
    before = lengths.read_bytes()
    result = run("generate", str(spec), "-o", str(lengths))
    said = f"error: {lengths}: expected another file than the one that is read\n"
    assert (result.exit_code, result.stderr, lengths.read_bytes()) == (2, said, before)
    assert run("generate", str(spec), "-o", str(tmp_path / "t.jsonl")).exit_code == 0


def test_a_trace_of_a_name_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled specification is what is read, not the trace of that name."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = run("generate", "chat", "-o", "chat", "--set", "duration_s=5")
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", ["chunk-0-trace.csv", "mine-dataset.json"])
def test_recorded_clients_are_not_overwritten(name: str, tmp_path: Path) -> None:
    chunk, spec = tmp_path / "clients" / name, tmp_path / "spec.toml"
    chunk.parent.mkdir()
    chunk.write_text("0,1,1,Exponential,0,0\n")
    spec.write_text('version = 1\nduration_s = 20\n[clients.a]\nservegen = "clients"\n')
    result = run("generate", str(spec), "-o", str(chunk))
    said = f"error: {chunk}: expected another file than the one that is read\n"
    assert (result.exit_code, result.stderr) == (2, said)


@pytest.mark.parametrize("command", ["convert", "mix"])
def test_a_session_of_the_folder_that_is_read_is_not_overwritten(
    command: str, tmp_path: Path
) -> None:
    turn = '{"t": 0, "type": "n", "in": 8, "out": 2, "hash_ids": [1]}'
    for name in ("a.json", "b.json"):
        text = f'{{"id": "{name}", "block_size": 8, "requests": [{turn}]}}'
        (tmp_path / name).write_text(text)
    session = tmp_path / "b.json"
    before = session.read_bytes()
    result = run(command, str(tmp_path), "-o", str(session))
    said = f"error: {session}: expected another file than the one that is read\n"
    assert (result.exit_code, result.stderr) == (2, said)
    assert session.read_bytes() == before
    result = run(command, str(tmp_path), "-o", str(tmp_path / "made.jsonl"))
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(("columns", "whole"), [(30, "name: a very long one …"), (200, "x")])
def test_no_figure_is_cut_off_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, whole: str
) -> None:
    """What does not fit is broken into lines at words; the terminal breaks what is longer then."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table(whole, *(f"figure {number}" for number in range(6)))
    table.add_row("first", *["123,456.7"] * 6)
    print_table(table)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert text.count("123,456.7") == 6 and text.count("figure") == 6
    widest = max(map(len, text.splitlines()))
    assert 60 < widest < 100
    assert text.count("…") == whole.count("…")


@pytest.mark.parametrize("command", ["convert", "mix"])
def test_the_folder_of_the_output_is_made(command: str, trace: str, tmp_path: Path) -> None:
    out = tmp_path / "new/folder/t.jsonl.gz"
    assert run(command, trace, "--skip-bad", "-o", str(out)).exit_code == 0
    assert read_trace(out).requests
    assert run("generate", "chat", "-o", str(tmp_path / "other/t.jsonl")).exit_code == 0
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["t.jsonl"]


@pytest.mark.parametrize(
    ("command", "source"),
    [("convert", "nowhere.jsonl"), ("generate", "chat"), ("mix", "nowhere.jsonl")],
)
def test_what_cannot_be_written_is_known_before_any_request(
    command: str, source: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = run(command, source, "-o", str(tmp_path / "file/t.jsonl"))
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path}/file/t.jsonl: cannot write here: Not a directory\n"


@pytest.mark.parametrize("arguments", [["stats"], ["convert", "x"], ["convert", "x", "-o"]])
def test_missing_arguments_are_usage_errors(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_names_every_option() -> None:
    text = run("convert", "--help").stdout
    for option in ("--output", "--skip-bad", "--spread", "--limit", "--classes"):
        assert option in text


def test_a_log_becomes_a_trace(tmp_path: Path) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "trace.jsonl"
    log.write_text("at;in;out;app\n5;1;2;web\nbad\n3;4;5;job\n")
    columns = ("--time", "at", "--time-unit", "s", "--prompt", "in", "--answer", "out")
    by = ("--class-by", "app", "--class", "web=chat", "--class", "job=batch", "--tenant", "app")
    command = ("from-log", str(log), "-o", str(out), "--delimiter", ";", *columns)
    assert run(*command).exit_code == 2
    result = run(*command, *by, "--skip-bad")
    assert result.exit_code == 0
    assert f"warning: {log}: skipped 1 bad line: line 3: expected 4 columns, got 1" in result.stderr
    assert [json.loads(line)["class"] for line in out.read_text().splitlines()] == ["batch", "chat"]
    result = run(*command, "--class", "chat", "--class", "batch")
    assert "--class: expected one class without VALUE=, got chat, batch" in result.stderr
    rest = ("--class-by", "app", "--class", "code", "--class", "job=batch")
    took = ("--latency", "in", "--latency-unit", "s")
    assert run(*command, *rest, *took, "--skip-bad").exit_code == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(each["timestamp"], each["class"]) for each in found] == [(0, "batch"), (5000, "code")]
    result = run(*command, "--only", "app=web", "--skip-bad", "--json")
    assert json.loads(result.stdout)["requests"] == 1
    assert f'warning: {log}: left out 1 row that is no request: line 4: app: "job"' in result.stderr
    for more, requests in (("app=job", 2), ("in=1", 1)):
        result = run(*command, "--only", "app=web", "--only", more, "--skip-bad", "--json")
        assert json.loads(result.stdout)["requests"] == requests
    result = run(*command, "--class-by", "app", "--class", "job=chat", "--class", "job=batch")
    assert result.stderr == "error: --class job=: expected one class, got chat, batch\n"
    result = run(*command, "--hash-block-size", "16")
    assert result.stderr == "error: --hash-block-size: expected --hash-ids with it\n"
    for bad in ("app", "=web"):
        result = run(*command, "--only", bad)
        assert result.exit_code == 2
        assert f"error: --only: expected COLUMN=VALUE, got {bad!r}\n" in result.stderr


def test_convert_says_what_a_trace_leaves_open(tmp_path: Path) -> None:
    record = '{"timestamp":2,"input_length":40,"output_length":4,"hash_ids":[1,2,3]}'
    (tmp_path / "t.jsonl").write_text(record)
    options = ("--hash-block-size", "16", "--time-unit", "s")
    paths = (str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "n"))
    assert not run("convert", *paths, *options).exit_code
    written = json.loads((tmp_path / "n").read_text())
    assert written == {**json.loads(record), "timestamp": 2000, "hash_block_size": 16}
    wrong = run("convert", str(tmp_path / "t.jsonl"), "-o", "-", "--time-unit", "us")
    assert wrong.exit_code == 2
    said = "error: Invalid value for '--time-unit': 'us' is not one of 'ms', 's' (see "
    assert wrong.stderr.startswith(said)


def told(*arguments: str) -> dict[str, Any]:
    """What a command that writes a trace prints, which is JSON alone."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert f"wrote {json.loads(result.stdout)['requests']} requests to " in result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_what_was_written_is_told_as_json(trace: str, classes: str, tmp_path: Path) -> None:
    out = str(tmp_path / "o.jsonl")
    counts = {"skipped_lines": 1, "raised_max_tokens": 1}
    assert told("convert", trace, "-o", out, "--skip-bad") == {"path": out, "requests": 2, **counts}
    mixed = told("mix", trace, trace, "-o", out, "--classes", classes)
    assert mixed == {"path": out, "requests": 6, "skipped_lines": 0, "raised_max_tokens": 2}
    made = told("generate", "chat", "-o", out, "--set", "duration_s=20")
    assert made["path"] == out and made["requests"] == len(Path(out).read_text().splitlines())
    log = tmp_path / "log.csv"
    log.write_text("when,p,a\n2026-01-01T00:00:00,9,3\n2026-01-01T00:00:01,9,3\nsoon,9,3\n")
    columns = ("--time", "when", "--prompt", "p", "--answer", "a", "--skip-bad")
    logged = told("from-log", str(log), "-o", out, *columns)
    assert logged == {"path": out, "requests": 2, "skipped_lines": 1}


@pytest.mark.parametrize("command", [["convert", "t.jsonl"], ["generate", "chat"]])
def test_a_trace_and_json_do_not_go_to_one_place(command: list[str]) -> None:
    result = run(*command, "-o", "-", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        result.stderr == "error: --json: expected a file as --output, got - for standard output\n"
    )


def test_nothing_is_printed_unasked(trace: str, tmp_path: Path) -> None:
    result = run("convert", trace, "-o", str(tmp_path / "o.jsonl"), "--skip-bad")
    assert (result.exit_code, result.stdout) == (0, "")
