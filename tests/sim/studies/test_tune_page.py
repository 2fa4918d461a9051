"""The table and the files of a tuning, of trials made by hand."""

from __future__ import annotations

import tomllib

import pytest

from sim.studies.tune_page import front_table, trial_toml
from superinfer.lab.config import load_config
from superinfer.lab.studies.space import Choices, Range, Space
from superinfer.lab.studies.tuning import Task, Trial
from traces.printing import print_table

VARIED: Space = {"scheduler.max_num_seqs": Range(8, 64, whole=True), "run.lag": Choices((0, 1))}
FEW: Space = {**VARIED, **{f"scheduler.x{at}": Range(0.0, 1.0) for at in range(2)}}
MANY: Space = {**FEW, "scheduler.x2": Range(0.0, 1.0)}
BASE = (0.5, 1000.0)


def task(space: Space) -> Task:
    base = {"scheduler.max_num_seqs": 32, "run.lag": 0}
    return Task(("slo_attainment", "p99_ttft_ms"), space, base)


def trial(number: int, seqs: int = 32, lag: int = 0) -> Trial:
    settings = {"scheduler.max_num_seqs": seqs, "run.lag": lag}
    return Trial(number, settings, (0.9765, 1234.56 + number))


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_row_says_what_differs_from_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    front = [trial(3, seqs=64, lag=1), trial(0), trial(2, lag=1)]
    failed = [Trial(1, {}, None, "too many"), Trial(4, {}, None, "too few")]
    print_table(front_table(task(FEW), [*front, failed[0]], front, BASE))
    lines = shown(capsys)
    assert lines[0] == "Front: 3 of 4 trials that no other one beats"
    assert lines[2] == "Trial slo_attainment (more) p99_ttft_ms (less) Changed settings"
    assert lines[4:8] == [
        "as it is 50 % 1,000",
        "3 97.65 % 1,237.6 max_num_seqs=64, run.lag=1",
        "0 97.65 % 1,234.6",
        "2 97.65 % 1,236.6 run.lag=1",
    ]
    assert lines[-1] == "Simulated. 1 trial failed: too many"
    print_table(front_table(task(FEW), [*front, *failed], front, BASE))
    assert shown(capsys)[-1] == "Simulated. 2 trials failed, the first: too many"


def test_many_settings_are_in_files(capsys: pytest.CaptureFixture[str]) -> None:
    """And of a long front the first are shown."""
    front = [trial(number) for number in range(21)]
    print_table(front_table(task(MANY), front, front, BASE))
    lines = shown(capsys)
    assert lines[2].endswith("p99_ttft_ms (less) Settings")
    rows = [line for line in lines if line.endswith(".toml")]
    assert [row.rsplit(" ", 1)[1] for row in rows] == [
        f"front/trial-{number}.toml" for number in range(20)
    ]
    assert lines[-1] == "Simulated. The first 20 of the front are shown."
    print_table(front_table(task(MANY), front[:20], front[:20], BASE))
    assert shown(capsys)[-1] == "Simulated."


def test_a_file_says_what_it_gave_and_what_is_changed() -> None:
    config = load_config(trace="t.jsonl", lag=1)
    text = trial_toml(task(FEW), trial(2, lag=1), config)
    assert text.splitlines()[:3] == [
        "# Trial 2 of superinfer-sim tune, simulated: slo_attainment 0.9765, p99_ttft_ms 1236.56.",
        "# Changed: run.lag=1.",
        "",
    ]
    assert tomllib.loads(text)["run"]["lag"] == 1
    assert trial_toml(task(FEW), trial(0), config).splitlines()[1] == "# Changed: nothing."
