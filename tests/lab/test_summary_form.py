"""A `summary.json` that is read back: one line for what is wrong, and pages for all else."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import stored
from records import large_record

from superinfer.errors import InputError
from superinfer.lab.report import svg
from superinfer.lab.report.compare_page import compare_page
from superinfer.lab.report.run_page import run_page
from superinfer.lab.results import load_run
from superinfer.lab.studies.differences import differences
from superinfer.lab.summary_form import check_summary

HERE = Path("summary.json")
ODD = (3, -1, True, None, "x", "", [], {}, [1], [None], {"x": 3}, {"x": None}, 1e308, 10**400)
EMPTY_PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt" />'


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ([], "expected a JSON object"),
        ({"version": True}, "version: expected 1, got True"),
        ({"version": 1.0}, "version: expected 1, got 1.0"),
        ({"version": None}, "version: expected 1, got None"),
        ({"classes": {"x": 3}}, "classes.x: expected an object, got 3"),
        ({"classes": {"x": None}}, "classes.x: expected an object, got None"),
        ({"notes": [None]}, "notes.0: expected a text, got None"),
        ({"classes": {"x": {"slo": [1]}}}, "classes.x.slo: expected an object, got [1]"),
        ({"p99_ttft_ms": "x"}, "p99_ttft_ms: expected a number, got 'x'"),
        ({"p99_ttft_ms": True}, "p99_ttft_ms: expected a number, got True"),
        ({"wall_s": float("nan")}, "wall_s: expected a number, got nan"),
        ({"events": 10**5000}, "events: expected a number, got a value of type int"),
        ({"kv_kl": []}, "kv_kl: expected a number or a text, got []"),
        ({"replicas": {}}, "replicas: expected a list, got {}"),
        ({"replicas": [{}]}, "replicas.0.replica: expected a number, got None"),
        ({"notes": ["x", 3]}, "notes.1: expected a text, got 3"),
        ({"load": {"window_s": [1]}}, "load.window_s: expected two numbers, got [1]"),
        ({"run": {"run": 3}}, "run.run: expected an object, got 3"),
        ({"run": {"hybrid": 1}}, "run.hybrid: expected true or false, got 1"),
    ],
)
def test_the_first_key_that_is_not_of_its_kind_is_named(summary: Any, words: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_summary(summary, HERE)
    assert str(refusal.value) == f"summary.json: {words}"


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"p99_ttft_ms": None, "classes": None, "run": {"run": None}},
        {"of_a_later_version": [{}], "classes": {"x": {"of_a_later_version": "y"}}},
        {"kv_kl": "unmeasured", "kv_bits_mean": 4, "load": {"window_s": []}},
    ],
)
def test_what_is_absent_or_unknown_is_passed_over(summary: dict[str, Any]) -> None:
    check_summary(summary, HERE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = large_record(requests=30, steps=400, mean_tokens=10)
    return stored(tmp_path_factory.mktemp("mutated") / "run", record)


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Pictures without what takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg, "_drawn", lambda figure: EMPTY_PICTURE)
        yield


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where all that stands in a summary stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*above, key)
        if isinstance(item, dict | list):
            yield from places(item, (*above, key))


@settings(deadline=None, max_examples=5, derandomize=True)
@given(data=st.data())
def test_a_summary_that_anything_happened_to(
    folder: Path, undrawn: None, data: st.DataObject
) -> None:
    """It is refused in one line, or drawn, alone and beside another."""
    refused_or_drawn(folder, mutated(load_run(folder).summary, data))


@pytest.mark.slow
@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data())
def test_many_summaries_that_anything_happened_to(
    folder: Path, undrawn: None, data: st.DataObject
) -> None:
    """The same, more often."""
    refused_or_drawn(folder, mutated(load_run(folder).summary, data))


def mutated(summary: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """The summary with one thing in it gone, or something odd in its place."""
    summary = copy.deepcopy(summary)
    *above, key = data.draw(st.sampled_from(list(places(summary))))
    holder: Any = summary
    for each in above:
        holder = holder[each]
    if data.draw(st.booleans()):
        holder[key] = data.draw(st.sampled_from(ODD))
    else:
        del holder[key]
    return summary


def refused_or_drawn(folder: Path, summary: dict[str, Any]) -> None:
    """Read a summary that lies beside the tables of `folder`, and draw its pages."""
    other = folder.with_name("other")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    (other / "summary.json").write_text(json.dumps(summary))
    try:
        run = load_run(other)
    except InputError as refusal:
        assert str(refusal).startswith(f"{other / 'summary.json'}: ")
        assert len(str(refusal).splitlines()) == 1
        return
    assert run_page(run)
    beside = [("good", load_run(folder)), ("other", run)]
    found = differences({name: [each] for name, each in beside})
    assert compare_page(beside, folder / "report.html", found)
