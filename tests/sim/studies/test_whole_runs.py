"""A study that goes on with runs that somebody changed: one line, and how to mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from inline_engine import Inline

SWEEP = ("sweep", "t.jsonl", "--over", "rate=1", "--schedulers", "fcfs", "--no-plots", "--out", "s")


@pytest.fixture
def swept(short_trace_folder: Path, cli: Cli, inline: Inline) -> Path:
    """The folder of the one run of a sweep."""
    assert not cli(*SWEEP).code
    (run,) = (short_trace_folder / "s/points").glob("[!.]*")
    return run.relative_to(short_trace_folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"trust": None}, "trust"),
        ({"trust": {"profile": "x"}}, "trust.extrapolated_share"),
        ({"load": {}}, "load.model"),
        ({"run": {"run": {}}}, "run.run.without_slo"),
    ],
)
def test_a_summary_that_lacks_something(
    cli: Cli, swept: Path, change: dict[str, Any], key: str
) -> None:
    file = swept / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    again = f"remove {swept}, and the same command makes that run again"
    answer = cli(*SWEEP)
    assert answer.code == 2
    assert answer.err.splitlines()[-1] == f"error: {file}: expected {key}, got nothing: {again}"


@pytest.mark.parametrize(
    ("text", "key"), [("", "run"), ("run = 3", "run.seed"), ("[run]\nseed = 0", "run.costs")]
)
def test_settings_that_lack_something(cli: Cli, swept: Path, text: str, key: str) -> None:
    (swept / "config.toml").write_text(text)
    answer = cli(*SWEEP)
    assert answer.code == 2
    assert f"{swept / 'config.toml'}: expected {key}, got nothing" in answer.err.splitlines()[-1]


def test_what_nobody_changed_is_used_again(cli: Cli, swept: Path) -> None:
    answer = cli(*SWEEP)
    assert (answer.code, answer.err.splitlines()[0]) == (0, "1 of 1 runs were there before")
