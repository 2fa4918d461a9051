"""The record of a run's steps, and how far the simulator would have been off for each."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from executor.clocks.clock import step_seconds
from executor.step_log import Logged, Step, StepLog, read_steps, waited_bytes
from executor.validation.steps import PROMPTS, WAITED, group_lines, grouped, step_groups
from superinfer.costs import StepCost, build_cost, find_device, list_profiles, load_shape
from superinfer.costs.base import Chunk
from superinfer.errors import InputError
from superinfer.lab.columns import Lists, write_columns
from superinfer.plan import Plan, Requantise, Work

Chunks = tuple[Chunk, ...]
PROFILE = next(info.path for info in list_profiles() if "a100-80g_llama-3.1-8b" in str(info.path))


def plan(requantised: int) -> Plan:
    """Two decodes of 100 tokens each, before which blocks of so many bytes lose bits."""
    jobs = [Requantise(None, 16, 8, 1, requantised)]
    places: Any = (0.0, [], 2, 200, 4, 1e9, [], [], 0, [], [], 0)
    return Plan(*places, requantised=jobs)


def cost() -> StepCost:
    """A measured one."""
    device = find_device("a100-80g", str(PROFILE))
    return build_cost(load_shape("llama-3.1-8b"), device, 1, str(PROFILE))


@pytest.fixture
def log() -> StepLog:
    """Two steps of a slice with chunks, and one of decodes alone that waited."""
    log = StepLog()
    log.add(Work((Chunk(64, 0), Chunk(32, 128)), 3, 300), 0, 0.0, 0.5)
    log.add(Work((Chunk(64, 64), Chunk(32, 160)), 3, 303), 0, 0.5, 0.75)
    log.add(Work((), 2, 200), waited_bytes(plan(4096)), 1.0, 1.25)
    return log


def test_steps_are_told_as_they_ran(log: StepLog) -> None:
    log.add(Work((), 0, 0), 0, 1.25, 1.25)  # everybody in it had ended
    assert log.steps() == [
        Step((Chunk(64, 0), Chunk(32, 128)), 3, 300, 0.5),
        Step((Chunk(64, 64), Chunk(32, 160)), 3, 303, 0.25),
        Step((), 2, 200, 0.25),
    ]


def test_a_file_gives_them_back(log: StepLog, tmp_path: Path) -> None:
    write_columns(tmp_path / "steps.parquet", log.columns())
    wanted = list(map(Logged, log.steps(), [0, 0, 4096]))
    assert read_steps(tmp_path / "steps.parquet") == wanted


def test_a_run_of_no_steps(tmp_path: Path) -> None:
    write_columns(tmp_path / "steps.parquet", StepLog().columns())
    assert read_steps(tmp_path / "steps.parquet") == []


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"steps.parquet: expected a Parquet file"):
        read_steps(tmp_path / "steps.parquet")
    assert step_groups([tmp_path], PROFILE) == []


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("start_s", None),
        ("start_s", np.full(3, np.nan)),
        ("start_s", np.full(3, 9.0)),
        ("start_s", ["0", "1", "2"]),
        ("decodes", None),
        ("chunk_tokens", None),
        ("chunk_tokens", np.full(3, 1)),
        ("chunk_tokens", Lists([1, 2, 3], [1, 2, 3])),
        ("waited_bytes", None),
    ],
)
def test_a_file_of_something_else(log: StepLog, tmp_path: Path, name: str, column: Any) -> None:
    """A column that is not there, of another type, empty, or that contradicts the others."""
    columns = {**log.columns(), name: column}
    written = {name: column for name, column in columns.items() if column is not None}
    write_columns(tmp_path / "steps.parquet", written)
    with pytest.raises(InputError, match=r"steps.parquet: expected the record of a run's steps"):
        read_steps(tmp_path / "steps.parquet")


def timed(cost: StepCost, share: float, chunks: Chunks, decodes: int, context: int) -> Step:
    """A step that took `share` of what it would be simulated with."""
    return Step(chunks, decodes, context, share * step_seconds(cost, 1, chunks, decodes, context))


def test_groups_say_which_steps_are_off() -> None:
    found = cost()
    chunks = (Chunk(900, 0),)
    logged = [
        Logged(timed(found, 1.0, (), 4, 4000), 0),
        Logged(timed(found, 1.0, (), 9, 4000), 0),
        Logged(timed(found, 0.8, chunks, 4, 4000), 0),
        Logged(timed(found, 1.25, chunks, 4, 4000), 0),
        Logged(timed(found, 2.0, (), 4, 4000), 1 << 20),
    ]
    few, more, mixed, waited = grouped(logged, found, lag=1)
    assert (few.rows, few.steps, more.rows) == ("1 to 8", 1, "9 to 32")
    assert few.error == pytest.approx(0.0) and few.scatter == pytest.approx(0.0)
    assert (mixed.kind, mixed.rows, mixed.steps) == (PROMPTS, "513 to 1,024", 2)
    assert mixed.error == pytest.approx(2 / 2.05 - 1)
    assert mixed.scatter == pytest.approx(0.45 / 2.05)
    assert waited.kind == WAITED and waited.error == pytest.approx(-0.5)
    assert sum(group.share for group in (few, more, mixed, waited)) == pytest.approx(1.0)
    assert len(list(group_lines([few, mixed]))) == 3 and not list(group_lines([]))


def test_groups_of_a_run(log: StepLog, tmp_path: Path) -> None:
    """Priced by the profile that is given, whatever the run predicted with."""
    write_columns(tmp_path / "steps.parquet", log.columns())
    run = {"run": {"model": "llama-3.1-8b", "tp": 1, "lag": 0}}
    (tmp_path / "summary.json").write_text(json.dumps({"run": run}), encoding="utf-8")
    groups = step_groups([tmp_path, tmp_path], PROFILE)
    assert [(group.kind, group.steps) for group in groups] == [(PROMPTS, 4), (WAITED, 2)]
    first = SimpleNamespace(**groups[0].row())
    wanted = sum(step_seconds(cost(), 0, *_work(step)) for step in log.steps()[:2])
    assert first.simulated_s == pytest.approx(2 * wanted)
    assert first.error == pytest.approx(wanted / 0.75 - 1)


def _work(step: Step) -> tuple[Any, ...]:
    return step.chunks, step.decodes, step.context_tokens
