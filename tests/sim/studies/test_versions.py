"""Every study says which software made its result."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import Cli
from inline_engine import Inline

from superinfer.lab.versions import versions

COMMANDS = {
    "sweep": ("--schedulers", "fcfs", "--over", "rate=1"),
    "tune": ("--scheduler", "fcfs", "--trials", "1"),
    "plan": ("--tp", "1"),
    "sensitivity": ("--schedulers", "vllm,fcfs", "--part", "host"),
    "suggest-slo": ("--scheduler", "fcfs"),
}
EXTRA = {"tune": ["optuna"]}


@pytest.fixture(autouse=True)
def folder(short_trace_folder: Path) -> Path:
    return short_trace_folder


@pytest.mark.parametrize("command", COMMANDS)
def test_versions(command: str, cli: Cli, inline: Inline) -> None:
    answer = cli(command, "t.jsonl", *COMMANDS[command], "--json")
    assert answer.code == 0, answer
    packages = ["superinfer", "simpy", "numpy", *EXTRA.get(command, [])]
    expected = {name: version(name) for name in packages}
    assert answer.json["versions"] == {"python": platform.python_version(), **expected}


def test_the_file_of_suggested_targets_has_ours(cli: Cli, folder: Path) -> None:
    assert not cli("suggest-slo", "t.jsonl", "-o", "c.toml").code
    head = (folder / "c.toml").read_text().splitlines()[0]
    assert head.startswith(f"# suggest-slo of superinfer {version('superinfer')}, simulated")


def test_a_package_that_is_not_there() -> None:
    assert versions("no-such-package")["no-such-package"] == "unknown"
