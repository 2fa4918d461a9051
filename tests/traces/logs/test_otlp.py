"""Logs that are exports of OpenTelemetry's spans, in its JSON encoding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from superinfer.errors import InputError
from traces.logs.from_log import Columns, Log, read_log
from traces.logs.otlp import has_spans, spans_of
from traces.source import RecordError

USAGE = "attributes.gen_ai.usage"
COLUMNS = Columns(
    "startTimeUnixNano", f"{USAGE}.input_tokens", f"{USAGE}.output_tokens", time_unit="ns"
)
START_NS = 1_793_610_000_000_000_000


def attributes(**values: Any) -> list[dict[str, Any]]:
    """As the encoding has them; a number as the text of an integer of 64 bits."""
    return [
        {"key": key.replace("__", "."), "value": value if isinstance(value, dict) else text(value)}
        for key, value in values.items()
    ]


def text(value: Any) -> dict[str, str]:
    return {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)}


def call(span_id: str, after_ms: float, **values: Any) -> dict[str, Any]:
    """A span of a model's answer."""
    return {
        "spanId": span_id,
        "name": "chat",
        "startTimeUnixNano": str(START_NS + int(after_ms * 1e6)),
        "attributes": attributes(**values),
    }


def tokens(prompt: Any, answer: Any) -> dict[str, Any]:
    return {"gen_ai__usage__input_tokens": prompt, "gen_ai__usage__output_tokens": answer}


def export(*spans: Any, service: str = "desk") -> dict[str, Any]:
    resource = {"attributes": attributes(service__name=service)}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


FIRST, SECOND = call("a", 250, **tokens(812, 95)), call("b", 0, **tokens(455, 210))
TOOL = {"spanId": "t", "name": "execute_tool", "startTimeUnixNano": str(START_NS)}


def log(tmp_path: Path, content: str, columns: Columns = COLUMNS, **options: bool) -> Log:
    (tmp_path / "log").write_text(content)
    return read_log(tmp_path / "log", columns, **options)


def fault(tmp_path: Path, content: str, columns: Columns = COLUMNS) -> str:
    with pytest.raises(InputError) as caught:
        log(tmp_path, content, columns)
    return str(caught.value).removeprefix(f"{tmp_path / 'log'}")


def lines(*exports: Any) -> str:
    return "\n".join(map(json.dumps, exports))


@pytest.mark.parametrize(
    "content",
    [
        lines(export(FIRST, SECOND)),
        lines(export(FIRST), export(SECOND)),
        json.dumps(export(FIRST, SECOND), indent=1),
    ],
    ids=["a line", "lines", "a document"],
)
def test_lines_of_exports_and_a_document(tmp_path: Path, content: str) -> None:
    columns = replace(COLUMNS, request_id="spanId", tenant="resource.attributes.service.name")
    found = log(tmp_path, content, columns)
    assert [
        (
            each.request_id,
            round(each.timestamp, 3),
            each.input_length,
            each.output_length,
            each.tenant,
        )
        for each in found.records
    ] == [("b", 0.0, 455, 210, "desk"), ("a", 250.0, 812, 95, "desk")]
    assert not found.warnings


@pytest.mark.parametrize("value", [{"intValue": 812}, {"doubleValue": 812.0}, {"intValue": "812"}])
def test_numbers_as_exporters_write_them(tmp_path: Path, value: dict[str, Any]) -> None:
    (record,) = log(tmp_path, lines(export(call("a", 0, **tokens(value, 9))))).records
    assert record.input_length == 812


def test_spans_of_something_else_are_left_out_and_told(tmp_path: Path) -> None:
    found = log(tmp_path, lines(export(TOOL), export(TOOL, FIRST)))
    assert [each.input_length for each in found.records] == [812]
    assert (found.skipped, found.warnings) == (
        0,
        [
            f"{tmp_path / 'log'}: left out 2 rows that are no requests, the first: line 1 span[0]: "
            f"no {COLUMNS.prompt}, no {COLUMNS.answer}"
        ],
    )


def test_a_span_with_one_count_is_bad(tmp_path: Path) -> None:
    half = call("c", 0, gen_ai__usage__input_tokens=5)
    said = f":1: span[1] {COLUMNS.answer}: expected a value, got nothing"
    assert fault(tmp_path, lines(export(FIRST, half))).startswith(said)
    assert log(tmp_path, lines(export(FIRST, half)), skip_bad=True).skipped == 1


def test_other_names_are_told_where_no_span_is_a_request(tmp_path: Path) -> None:
    other = replace(COLUMNS, prompt=f"{USAGE}.prompt_tokens", answer=f"{USAGE}.completion_tokens")
    for only in ({}, {"name": ["chat"]}):
        said = fault(tmp_path, lines(export(FIRST)), replace(other, only=only))
        assert said.startswith(
            ": expected at least one request, got none; left out 1 row that is no request: "
            f"line 1 span[0]: no {other.prompt}, no {other.answer}"
        )
        assert f"there are spanId, name, startTimeUnixNano, {COLUMNS.prompt}, " in said


def test_spans_of_one_line_have_places_of_their_own(tmp_path: Path) -> None:
    columns = replace(COLUMNS, request_id="spanId")
    said = 'request_id: expected an id of its own, got "a" (line 1 span[0] has it too)'
    assert fault(tmp_path, lines(export(FIRST, FIRST)), columns) == f":1: span[1] {said}"
    document = json.dumps(export(FIRST, FIRST), indent=1)
    assert fault(tmp_path, document, columns) == f": span[1] {said.replace('line 1 ', '')}"


@pytest.mark.parametrize(
    "broken",
    [
        {"resourceSpans": 5},
        {"resourceSpans": [5]},
        {"resourceSpans": [{"scopeSpans": {"a": 1}}]},
        {"resourceSpans": [{"scopeSpans": ["a"]}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": "a"}]}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [None]}]}]},
    ],
)
def test_parts_that_are_none(tmp_path: Path, broken: dict[str, Any]) -> None:
    (found,) = spans_of(broken)
    assert isinstance(found, RecordError)
    said = f":1: span[0] {found.field}: expected a list of objects"
    assert fault(tmp_path, lines(broken)) == said
    assert log(tmp_path, lines(broken, export(FIRST)), skip_bad=True).skipped == 1


@pytest.mark.parametrize(
    "bare",
    [
        {"resourceSpans": []},
        {"resourceSpans": [{"resource": 5}]},
        {"resourceSpans": [{"scopeSpans": [{"scope": {}}]}]},
    ],
)
def test_exports_of_nothing(tmp_path: Path, bare: dict[str, Any]) -> None:
    assert has_spans(bare)
    assert not list(spans_of(bare))
    assert fault(tmp_path, lines(bare)) == ": expected at least one request, got none"


def test_attributes_that_are_no_pairs_are_none() -> None:
    """And a value may be empty."""
    pairs = [5, {"value": 1}, {"key": "a"}, {"key": "b", "value": {}}]
    rows = spans_of(export({"attributes": 5}, {"attributes": pairs}))
    assert [row["attributes"] for row in rows if isinstance(row, dict)] == [
        {},
        {"a": None, "b": {}},
    ]


def test_attributes_of_lists_and_maps() -> None:
    ids = {"arrayValue": {"values": [{"intValue": "7"}, {"stringValue": "x"}]}}
    usage = {"kvlistValue": {"values": [{"key": "prompt", "value": {"intValue": "812"}}]}}
    bare = {"arrayValue": {}}
    found = call("a", 0, ids=ids, usage=usage, bare=bare, wrong={"arrayValue": 5})
    (row,) = spans_of(export(found))
    assert not isinstance(row, RecordError)
    assert row["attributes"] == {
        "ids": ["7", "x"],
        "usage": {"prompt": "812"},
        "bare": [],
        "wrong": 5,
    }


def test_ids_of_blocks_in_a_list(tmp_path: Path) -> None:
    """Numbers of 64 bits are text there, too."""
    ids = {"arrayValue": {"values": [{"intValue": "7"}, {"intValue": str(-(2**63))}]}}
    columns = replace(COLUMNS, hash_ids="attributes.ids", hash_block_size=8)
    content = lines(export(call("a", 0, **tokens(9, 5), ids=ids)))
    (record,) = log(tmp_path, content, columns).records
    assert (record.hash_ids, record.hash_block_size) == ((7, -(2**63)), 8)


@pytest.mark.parametrize("found", [None, [], {"resourceLogs": []}])
def test_what_is_no_export_of_spans(found: Any) -> None:
    assert not has_spans(found)
