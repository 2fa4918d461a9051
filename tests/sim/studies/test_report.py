"""The pages of results, drawn again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Cli
from inline_engine import Inline
from short_trace import left_in, only_error

RUN = ("run", "t.jsonl", "--no-plots", "--out")


@pytest.fixture(autouse=True)
def folder(short_trace_folder: Path) -> Path:
    return short_trace_folder


def drawn(folder: Path) -> dict[str, bytes]:
    """Pages and pictures below a folder."""
    found = (path for path in folder.rglob("*") if path.suffix in (".html", ".png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_run_gets_the_pages_that_it_would_have_had(cli: Cli, folder: Path) -> None:
    """Times of the machine differ from run to run, so the same result is drawn."""
    assert not cli("run", "t.jsonl", "--timeline", "--out", "r").code
    before = drawn(folder / "r")
    assert {"report.html", "latency_cdf.png", "requests.png"} < before.keys()
    for name in before:
        (folder / "r" / name).unlink()
    answer = cli("report", "r")
    assert (answer.code, answer.err) == (0, "report in r\n")
    assert drawn(folder / "r") == before


def test_a_comparison_gets_its_own_and_those_of_its_arms(
    cli: Cli, folder: Path, inline: Inline
) -> None:
    compare = ("compare", "t.jsonl", "--schedulers", "vllm,fcfs", "--workers", "1")
    assert not cli(*compare, "--out", "c").code
    before = drawn(folder / "c")
    assert {"report.html", "compare.png", "vllm/report.html", "fcfs/report.html"} < before.keys()
    for name in before:
        (folder / "c" / name).unlink()
    assert not cli("report", "c").code
    assert drawn(folder / "c") == before


def test_several_runs_are_compared(cli: Cli, folder: Path) -> None:
    for scheduler in ("vllm", "fcfs"):
        assert not cli(*RUN, scheduler, "--scheduler", scheduler).code
    assert not cli("report", "fcfs", "vllm", "--out", "both").code
    assert drawn(folder / "both").keys() == {"report.html", "compare.png"}
    text = (folder / "both/report.html").read_text()
    assert "Comparison: fcfs, vllm" in text
    assert not cli("report", "vllm", "fcfs", "--out", "both").code
    assert "Comparison: vllm, fcfs" in (folder / "both/report.html").read_text()
    assert not drawn(folder / "vllm"), "what is compared stays as it is"


def test_a_comparison_without_a_name(cli: Cli, folder: Path) -> None:
    for name in ("a", "b"):
        assert not cli(*RUN, name).code
    assert not cli("report", "a", "b").code
    (made,) = (folder / "runs").iterdir()
    assert made.name.startswith("t-report-") and "report.html" in left_in(made)


def test_mistakes(cli: Cli, folder: Path) -> None:
    assert not cli(*RUN, "a").code
    assert not cli(*RUN, "b").code
    only_error(cli("report", "no"), 2, "no/summary.json")
    only_error(cli("report", "a", "--out", "o"), 2, "--out: expected two or more results")
    only_error(cli("report", "a", "b", "-o", "b"), 2, "--out: expected a folder of its own")
    only_error(cli("report", "a", "a"), 2, "expected different runs")
    only_error(cli("report"), 2, "Missing argument")


def test_a_folder_of_a_sweep_is_named(cli: Cli, folder: Path, inline: Inline) -> None:
    """And the runs of it are results like any other."""
    sweep = ("sweep", "t.jsonl", "--over", "rate=1,2", "--schedulers", "fcfs", "--no-plots")
    assert not cli(*sweep, "--out", "s").code
    told = "s/summary.json: expected a result file here: s is of `superinfer-sim sweep`: sweep.json"
    only_error(cli("report", "s"), 2, f"{told} has what came out; the same command with --out s")
    run, other = sorted((folder / "s/points").glob("*/summary.json"))
    only_error(cli("report", "s"), 2, f"its runs are s/points/{run.parent.name}, s/points/")
    assert not cli("report", str(run.parent), str(other.parent), "--out", "both").code
    (folder / "s/sweep.json").unlink()
    only_error(cli("report", "s"), 2, "s holds a study that was stopped; the command that began it")


@pytest.mark.parametrize(
    "broken",
    ['{"classes": {"x": 3}}', '{"version": true}', pytest.param("[" * 100_000, id="nested")],
)
def test_a_summary_that_is_none(cli: Cli, folder: Path, broken: str) -> None:
    for name in ("one", "other"):
        assert not cli(*RUN, name).code
    (folder / "other/summary.json").write_text(broken)
    for command in (("report", "other"), ("report", "one", "other"), ("report", "other", "one")):
        only_error(cli(*command), 2, "error: other/summary.json: ")


def test_a_comparison_of_runs_that_do_not_say_how_they_were_made(cli: Cli, folder: Path) -> None:
    for name in ("one", "other"):
        assert not cli(*RUN, name).code
        stored = json.loads((folder / name / "summary.json").read_text())
        (folder / name / "summary.json").write_text(json.dumps({**stored, "run": None}))
    assert not cli("report", "one", "other").code
    (made,) = (folder / "runs").glob("trace-report-*")
    assert drawn(made).keys() == {"report.html", "compare.png"}
