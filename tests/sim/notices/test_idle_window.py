"""A window that is measured when nobody comes any more is told of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superinfer.lab.notices.idle_window import window_warning

Command = Callable[..., tuple[int, str, str]]
SAID = "run.window_s goes to 20 s, and the last request arrives at "


@pytest.fixture(autouse=True)
def folder(work_folder: Path) -> Path:
    """Requests every 0.5 s, for 20 s."""
    record = {"input_length": 50, "output_length": 4, "class": "chat"}
    lines = (json.dumps({"timestamp": 500 * i, **record}) for i in range(41))
    (work_folder / "t.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return work_folder


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("run", "t.jsonl", "--rate-scale", "2"), ""),
        (("compare", "t.jsonl", "--rate-scale", "2", "--schedulers", "fcfs,edf"), "arm fcfs: "),
        (("sweep", "t.jsonl", "--over", "rate=1,2", "--schedulers", "fcfs"), "fcfs at rate=2: "),
    ],
)
def test_a_faster_trace_ends_inside_the_window(
    command: Command, arguments: tuple[str, ...], place: str
) -> None:
    window = ("--no-plots", "--set", "run.window_s=[5, 20]")
    code, _, error = command(*arguments, *window)
    assert code == 0
    assert f"warning: {place}{SAID}10 s: " in error
    assert error.count(SAID) == (2 if "compare" in arguments else 1)


def test_a_window_inside_the_load_is_none_of_these(command: Command) -> None:
    _, _, error = command("run", "t.jsonl", "--no-plots", "--set", "run.window_s=[5, 20]")
    assert SAID not in error


def test_a_gap_between_requests_is_no_end() -> None:
    assert window_warning([0, 20], np.array([1.0, 19.1])) == ""
    assert window_warning([0, 20], np.array([1.0, 18.9])) != ""


def test_a_window_that_nobody_is_in_is_told_of_elsewhere() -> None:
    assert window_warning([10, 20], np.array([1.0, 9.0])) == ""
    assert window_warning([10, 20], np.array([])) == ""
    assert window_warning(None, np.array([1.0])) == ""
