"""Traces from logs of other systems, by the names of their columns."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from superinfer.errors import ConfigError, InputError
from traces.convert import lines_of
from traces.logs import log_rows
from traces.logs.from_log import Columns, Log, read_log
from traces.readers import read_trace

CSV = Columns("at", "in", "out")
OPENAI = Columns("created", "usage.prompt_tokens", "usage.completion_tokens", time_unit="s")
HEADER = "at,in,out,app\n"


def log(tmp_path: Path, text: str | bytes, columns: Columns, skip_bad: bool = False) -> Log:
    path = tmp_path / "log"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_log(path, columns, skip_bad=skip_bad)


def fault(tmp_path: Path, text: str | bytes, columns: Columns) -> str:
    with pytest.raises(InputError) as caught:
        log(tmp_path, text, columns)
    return str(caught.value).removeprefix(f"{tmp_path / 'log'}")


def seen(found: Log) -> list[tuple[float, int, int]]:
    return [(each.timestamp, each.input_length, each.output_length) for each in found.records]


def test_a_csv_in_any_order_of_time(tmp_path: Path) -> None:
    """Zones count, quotes hold delimiters, blank lines are none, and time begins at 0."""
    rows = (
        '2026-11-02T09:00:01.250Z,5,6,"a,b"\n\n'
        "2026-11-02T10:00:00.125+01:00,7,8,c\n2026-11-02 09:00:02,9,1,c\n"
    )
    columns = Columns("at", "in", "out", tenant="app")
    found = log(tmp_path, HEADER + rows, columns)
    assert seen(found) == [(0.0, 7, 8), (1125.0, 5, 6), (1875.0, 9, 1)]
    assert [each.tenant for each in found.records] == ["c", "a,b", "c"]


OPEN = "a quote that stays open, or text behind one that closes"


def test_a_quote_that_stays_open(tmp_path: Path) -> None:
    """It costs its own line, and not all that come behind it."""
    rows = [f"2026-11-02T09:00:{second:02},5,{second + 1},c" for second in range(60)]
    rows[3] = '2026-11-02T09:00:03,5,4,"Mozilla'
    words = f":5: expected a row of a CSV, got {OPEN}"
    assert fault(tmp_path, HEADER + "\n".join(rows), CSV) == words
    found = log(tmp_path, HEADER + "\n".join(rows), CSV, skip_bad=True)
    assert (len(found.records), found.skipped) == (59, 1)
    rows[9] = '2026-11-02T09:00:09,5,10,"x" "y'  # ends what began, but not as a cell ends
    found = log(tmp_path, HEADER + "\n".join(rows), CSV, skip_bad=True)
    assert (len(found.records), found.skipped) == (59, 1)


def test_a_row_is_looked_for_in_so_many_lines_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row without its first quote opens another one, so that none ever ends."""
    monkeypatch.setattr(log_rows, "MOST_ROW_LINES", 5)
    rows = '2026-11-02T09:00:00,5,6,"a\nb\n\nd\ne"\n' + '2026-11-02T09:00:01","5","6","c"\n' * 20
    found = log(tmp_path, HEADER + rows, replace(CSV, tenant="app"), skip_bad=True)
    assert ([each.tenant for each in found.records], found.skipped) == (["a\nb\n\nd\ne"], 20)
    text = HEADER + '2026-11-02T09:00:00,5,6,"a' + "\n" * 5 + 'b"\n'
    assert f"got {OPEN} (a row above the limit of 5 lines)" in fault(tmp_path, text, CSV)


def test_cells_of_several_lines_and_with_blanks_around_quotes(tmp_path: Path) -> None:
    rows = '2026-11-02T09:00:00,5,6,"a\nb"\n"2026-11-02T09:00:01" ,"7" ,8 ,"c" \n,,,\n'
    rows += "2026-11-02T09:00:02,x,8,c\n"
    assert fault(tmp_path, HEADER + rows, CSV).startswith(":6: in: expected an integer ")
    found = log(tmp_path, HEADER + rows, replace(CSV, tenant="app"), skip_bad=True)
    assert seen(found) == [(0.0, 5, 6), (1000.0, 7, 8)]
    assert [each.tenant for each in found.records] == ["a\nb", "c"]


def test_json_lines_with_objects_in_them(tmp_path: Path) -> None:
    calls = [
        {"created": 1793610001, "usage": {"prompt_tokens": 455, "completion_tokens": 210}},
        {"created": 1793610000, "usage": {"prompt_tokens": 812, "completion_tokens": 95}},
    ]
    text = "\n".join(map(json.dumps, calls))
    assert seen(log(tmp_path, text, OPENAI)) == [(0.0, 812, 95), (1000.0, 455, 210)]
    assert seen(log(tmp_path, gzip.compress(text.encode()), OPENAI))[1] == (1000.0, 455, 210)


def test_keys_that_have_dots_themselves(tmp_path: Path) -> None:
    """As OpenTelemetry names its attributes, inside of objects and beside names of objects."""
    attributes = {"gen_ai.usage.in": 455, "gen_ai": {"usage.out": 210, "usage": {}}, "gen": 1}
    line = json.dumps({"start": "2026-11-02T09:00:00Z", "span": {"attributes": attributes}})
    where = "span.attributes.gen_ai.usage"
    columns = Columns("start", f"{where}.in", f"{where}.out")
    assert seen(log(tmp_path, line, columns)) == [(0.0, 455, 210)]
    wrong = fault(tmp_path, line, replace(columns, answer=f"{where}.output"))
    assert f": expected a value, got nothing (did you mean '{where}.out'?); there are " in wrong


def test_a_document_of_many_objects_in_one_another(tmp_path: Path) -> None:
    line = '{"a":' * 500 + "1" + "}" * 500
    assert "expected a value, got nothing" in fault(tmp_path, line, CSV)


def test_times_of_the_end(tmp_path: Path) -> None:
    """Who came first may have ended last."""
    text = "at,in,out,took\n10.5,5,6,1.25\n11,7,8,3.0\n"
    columns = Columns("at", "in", "out", time_unit="s", latency="took", latency_unit="s")
    assert seen(log(tmp_path, text, columns)) == [(0.0, 7, 8), (1250.0, 5, 6)]
    in_ms = replace(columns, latency_unit="ms")
    assert seen(log(tmp_path, text, in_ms)) == [(0.0, 5, 6), (498.25, 7, 8)]


@pytest.mark.parametrize("took", ["-1", "nan", "1,5", "soon", "inf"])
def test_latencies_that_are_none(tmp_path: Path, took: str) -> None:
    columns = Columns("at", "in", "out", time_unit="s", latency="took", latency_unit="s")
    text = f'at,in,out,took\n10.5,5,6,"{took}"\n'
    assert (
        fault(tmp_path, text, columns)
        == f':2: took: expected a number of s, 0 or more, got "{took}"'
    )


def test_a_csv_has_lines_and_json_may_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traces.source.MOST_LINE_BYTES", 10)
    columns = Columns("at", "in", "out", time_unit="s")
    assert seen(log(tmp_path, '{"at": [0], "in": [5], "out": [6]}', columns)) == [(0.0, 5, 6)]
    assert fault(tmp_path, HEADER, CSV).startswith(":1: expected lines of at most ")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_document(tmp_path: Path, indent: int | None) -> None:
    """A list of objects, or an object with a list per column, as vLLM's benchmark writes it."""
    lists = {
        "ttft": 0.5,
        "start": [7.5, 6.25],
        "i": [455, 812],
        "o": [210, 95.0],
        "errors": ["", ""],
    }
    objects = [{"start": 7.5, "i": 455, "o": 210}, {"start": 6.25, "i": 812, "o": 95}]
    columns = Columns("start", "i", "o", time_unit="s")
    for document in (lists, objects):
        found = log(tmp_path, json.dumps(document, indent=indent), columns)
        assert seen(found) == [(0.0, 812, 95), (1250.0, 455, 210)]
    inner = replace(columns, time="run.start", prompt="run.i", answer="run.o")
    found = log(tmp_path, json.dumps({"run": lists}, indent=indent), inner)
    assert seen(found) == [(0.0, 812, 95), (1250.0, 455, 210)]
    objects[1]["o"] = 0
    lacks = "o: expected an integer from 1 to 10000000 (tokens), got "
    assert fault(tmp_path, json.dumps(objects, indent=indent), columns) == f': [1] {lacks}"0"'
    found = log(tmp_path, json.dumps([*objects, 5], indent=indent), columns, skip_bad=True)
    assert (found.skipped, found.skipped_note[:30]) == (2, "skipped 2 bad lines, the first")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"start": [1], "i": [2], "oo": [3]}, ": o: expected a list (did you mean 'oo'?), got"),
        ({"starts": [1], "i": [2], "o": [3]}, ": start: expected a list (did you mean 'starts'?)"),
        ({"start": [1], "i": [2], "o": 3}, ': o: expected a list, got "3"'),
        ({"start": [1], "i": [2, 3], "o": [3]}, ": expected lists of one length, got start 1, i 2"),
        ([[1]], ": [0]: expected a JSON object, got "),
    ],
)
def test_documents_that_are_no_logs(tmp_path: Path, document: object, words: str) -> None:
    columns = Columns("start", "i", "o", time_unit="s")
    assert fault(tmp_path, json.dumps(document), columns).startswith(words)


@pytest.mark.parametrize(("mark", "asked"), [(";", ";"), ("\t", "\t"), ("\t", "\\t")])
def test_columns_divided_by_something_else(tmp_path: Path, mark: str, asked: str) -> None:
    text = (HEADER + "2026-11-02T09:00:00Z,7,8.0,c\n").replace(",", mark)
    assert seen(log(tmp_path, text, replace(CSV, delimiter=asked))) == [(0.0, 7, 8)]
    hint = f"(one column: --delimiter {mark!r}?)"
    assert fault(tmp_path, text, CSV).endswith(hint)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_units_of_time(tmp_path: Path, unit: str, scale: float) -> None:
    """A microsecond of a time since 1970 is kept."""
    start = 1_793_610_000
    times = [start, start + 2.5]
    rows = "".join(f"{time * scale:.3f},1,1,x\n" for time in times)
    found = log(tmp_path, HEADER + rows, Columns("at", "in", "out", time_unit=unit))
    assert [each.timestamp for each in found.records] == pytest.approx([0, 2500], abs=1e-3)


def test_classes(tmp_path: Path) -> None:
    rows = HEADER + "2026-01-01T00:00:00,1,1,web\n2026-01-01T00:00:01,1,1,job\n"
    by = Columns("at", "in", "out", class_by="app", classes={"web": "chat", "job": "batch"})
    assert [each.class_name for each in log(tmp_path, rows, by).records] == ["chat", "batch"]
    of_all = Columns("at", "in", "out", class_of_all="chat")
    assert {each.class_name for each in log(tmp_path, rows, of_all).records} == {"chat"}
    one = Columns("at", "in", "out", class_by="app", classes={"web": "chat"})
    assert fault(tmp_path, rows, one) == ':3: app: expected one of --class (web), got "job"'


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2026-01-01T00:00:00,-5,1,x", ":2: in: expected an integer from 1 to 10000000 (tokens),"),
        ("2026-01-01T00:00:00,5,0,x", ":2: out: expected an integer from 1 to 10000000 (tokens),"),
        ("2026-01-01T00:00:00,5,1.5,x", ':2: out: expected an integer from 1 to 10000000 (tokens)'),
        ("2026-01-01T00:00:00,,1,x", ":2: in: expected a value, got nothing"),
        ("yesterday,5,1,x", ":2: at: expected a number or a time like "),
        ("1793610000,5,1,x", ":2: at: a number: expected --time-unit s, ms, us, ns, got "),
        ("garbage", ":2: expected 4 columns, got 1"),
        (f"2026-01-01T00:00:00,5,1,{'x' * 140_000}", ":2: expected a row of a CSV, got: field lar"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_or_left_out(tmp_path: Path, row: str, words: str) -> None:
    assert fault(tmp_path, HEADER + row + "\n", CSV).startswith(words)
    good = "2026-01-01T00:00:05,5,1,x\n"
    found = log(tmp_path, f"{HEADER}{row}\n{good}", CSV, skip_bad=True)
    assert (len(found.records), found.skipped) == (1, 1)
    assert found.skipped_note == f"skipped 1 bad line: {found.first_skipped}"
    assert found.first_skipped.startswith("line 2: ")
    with pytest.raises(InputError, match="got none, the first bad line: "):
        log(tmp_path, HEADER + row + "\n", CSV, skip_bad=True)


def test_a_line_that_is_no_text_can_be_left_out(tmp_path: Path) -> None:
    rows = HEADER.encode() + b"2026-01-01,1,1,\xe9\n2026-01-01,2,1,x\n"
    found = log(tmp_path, rows, CSV, skip_bad=True)
    assert (seen(found), found.first_skipped[:6]) == ([(0.0, 2, 1)], "line 2")


@pytest.mark.parametrize("time", ["1" + "0" * 400, "1e999", "NaN", "-1", "1e15"])
def test_times_that_no_trace_can_hold(tmp_path: Path, time: str) -> None:
    call = f'{{"created": {time}, "usage": {{"prompt_tokens": 1, "completion_tokens": 1}}}}'
    assert fault(tmp_path, call, OPENAI).startswith(":1: created: expected a time from 0 to 2**53")


def test_a_word_that_no_trace_can_hold(tmp_path: Path) -> None:
    call = '{"at": "2026-01-01", "in": 1, "out": 1, "app": "\\ud800"}'
    columns = replace(CSV, request_id="app")
    assert fault(tmp_path, call, columns) == ':1: app: expected Unicode text, got "\\ud800"'


def test_what_came_twice(tmp_path: Path) -> None:
    rows = HEADER + "2026-01-01T00:00:00,1,1,x\n" * 2
    columns = Columns("at", "in", "out", request_id="app")
    said = ':3: request_id: expected an id of its own, got "x" (line 2 has it too)'
    assert fault(tmp_path, rows, columns) == said
    assert log(tmp_path, rows, columns, skip_bad=True).skipped == 1
    assert len(log(tmp_path, rows, CSV).records) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ": expected at least one request, got an empty file"),
        (HEADER, ": expected at least one request, got none"),
        ("time,in,out\n", ":1: expected a column 'at', got time, in, out"),
        (
            '{"at": "2026-01-01", "in": 3, "usage": {"total": 4}}\n',
            ":1: out: expected a value, got nothing; there are at, in, usage.total",
        ),
        (
            '{"At": 3, "in": 3, "out": 3}\n',
            ":1: at: expected a value, got nothing (did you mean 'At'?)",
        ),
        ('{"at": 3\n', ":1: expected a JSON object, got "),
        ("at,in,out,at\n", ":1: expected one column 'at', got 2"),
        ("at,in,out\r2026-01-01,1,1\r", ":1: expected a row of a CSV, got: new-line character "),
        (HEADER.encode() + b"2026-01-01,1,1,\xe9\n", ":2: expected UTF-8 text, got byte 0xe9 at "),
        (HEADER.encode("utf-16"), ": expected text, plain or by gzip, got UTF-16"),
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert fault(tmp_path, text, CSV).startswith(words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (Columns("a", "b", "c", time_unit="min"), "--time-unit: expected one of s, ms, us, ns, "),
        (
            Columns("a", "b", "c", latency="d"),
            "--latency: expected --latency-unit (s, ms, us, ns) ",
        ),
        (Columns("a", "b", "c", latency_unit="s"), "--latency-unit: expected --latency with it"),
        (
            Columns("a", "b", "c", latency="d", latency_unit="h"),
            "--latency-unit: expected one of s, ms, us, ns, got 'h'",
        ),
        (Columns("a", "b", "c", delimiter="::"), "--delimiter: expected one character, no quote "),
        (Columns("a", "b", "c", delimiter='"'), "--delimiter: expected one character, no quote "),
        (Columns("a", "b", "c", delimiter="\n"), "--delimiter: expected one character, no quote "),
        (Columns("a", "b", "c", class_by="d"), "--class-by: expected --class VALUE=CLASS"),
        (Columns("a", "b", "c", classes={"x": "chat"}), "--class VALUE=CLASS: expected --class-by"),
        (
            Columns("a", "b", "c", class_of_all=""),
            "--class: expected the name of a class, got noth",
        ),
        (Columns("a", "b", "c", class_by="d", classes={"x": ""}), "--class: expected the name of"),
    ],
)
def test_columns_that_say_nothing(tmp_path: Path, columns: Columns, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        log(tmp_path, HEADER, columns)
    assert str(caught.value).startswith(words)


def test_the_lines_are_a_trace(tmp_path: Path) -> None:
    rows = "2026-11-02T09:00:01,5,6,chat\n2026-11-02T09:00:00,7,8,chat\n"
    found = log(tmp_path, HEADER + rows, Columns("at", "in", "out", class_of_all="chat"))
    path = tmp_path / "trace.jsonl"
    path.write_bytes(lines_of(found.records))
    workload = read_trace(path)
    assert [(each.arrival_s, each.prompt_tokens) for each in workload.requests] == [(0, 7), (1, 5)]
    assert workload.output_tokens == [8, 6]
    assert {each.slo_class.name for each in workload.requests} == {"chat"}


FULL = Columns(
    "at",
    "in",
    "out",
    session="chat",
    priority="level",
    max_tokens="limit",
    hash_ids="ids",
    hash_block_size=64,
    time_unit="s",
)
FULL_HEADER = "at,in,out,chat,level,limit,ids\n"


def test_what_a_request_may_have_beyond_its_lengths(tmp_path: Path) -> None:
    row = {"at": 1, "in": 100, "out": 5, "chat": "c1", "level": -2, "limit": 8, "ids": [7, -9]}
    in_json = log(tmp_path, json.dumps([row]), FULL)
    in_csv = log(tmp_path, FULL_HEADER + '1,100,5,c1,-2,8,"[7,-9]"\n', FULL)
    assert in_json.records == in_csv.records
    (tmp_path / "t.jsonl").write_bytes(lines_of(in_json.records))
    (request,) = read_trace(tmp_path / "t.jsonl").requests
    assert (request.session_id, request.priority, request.max_tokens) == ("c1", -2, 8)
    assert (request.hash_ids, request.hash_block_tokens) == ((7, -9), 64)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,100,5,,0,8,[7]", "chat: expected a value, got nothing"),
        ("1,100,5,c,x,8,[7]", 'level: expected an integer from -2**53 to 2**53, got "x"'),
        (f"1,100,5,c,{2**60},8,[7]", "level: expected an integer from -2**53 to 2**53, got"),
        ("1,100,5,c,0,4,[7]", "limit: expected at least out 5, got 4"),
        (
            "1,100,5,c,0,8,[7]",
            "ids: expected 2 ids (input_length 100 / hash_block_size 64, rounded up; "
            "--hash-block-size gives another), got 1",
        ),
        ("1,100,5,c,0,8,7 9", 'ids: expected a list of 64-bit integers, got "7 9"'),
        ('1,100,5,c,0,8,"[7,0.5]"', 'ids: expected a list of 64-bit integers, got "[7,0.5]"'),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, row: str, words: str) -> None:
    assert fault(tmp_path, FULL_HEADER + row, FULL).startswith(f":2: {words}")


def test_a_class_of_all_other_values(tmp_path: Path) -> None:
    """Also of requests that say nothing."""
    rows = "2026-01-01,1,1,job\n2026-01-01,1,1,web\n2026-01-01,1,1,\n"
    classes = {"job": "batch"}
    by = Columns("at", "in", "out", class_by="app", classes=classes, class_of_all="chat")
    found = log(tmp_path, HEADER + rows, by)
    assert [each.class_name for each in found.records] == ["batch", "chat", "chat"]
    assert not found.warnings


def test_a_column_of_classes_that_nobody_has(tmp_path: Path) -> None:
    """In JSON an object may lack it, and null is no value."""
    line = '{"at": 1, "in": 3, "out": 4, "app": null}'
    by = Columns(
        "at", "in", "out", time_unit="s", class_by="app", classes={"None": "code"}, class_of_all="a"
    )
    found = log(tmp_path, line, by)
    assert [each.class_name for each in found.records] == ["a"]
    assert found.warnings == ["--class-by app: no request has None there: all are of class a"]


def test_rows_of_one_value_only(tmp_path: Path) -> None:
    """What is wrong with other rows is not told; a number is compared as text."""
    rows = HEADER + "never,,,web\n2026-01-01,3,4,job\n2026-01-01,5,6,web\n"
    found = log(tmp_path, rows, replace(CSV, only={"app": ["job"]}))
    assert seen(found) == [(0.0, 3, 4)]
    left = 'left out 2 rows that are no requests, the first: line 2: app: "web"'
    assert found.warnings == [f"{tmp_path / 'log'}: {left}"]
    day = '{"at": "2026-01-01", "out": 1, '
    calls = f'{day}"in": 1}}\n{day}"in": 2, "ok": 200}}'
    assert seen(log(tmp_path, calls, replace(CSV, only={"ok": ["200"]}))) == [(0.0, 2, 1)]


def test_rows_of_one_of_several_values_and_of_several_columns(tmp_path: Path) -> None:
    rows = HEADER + "".join(f"2026-01-01,{n},{n % 2 + 1},{'abc'[n % 3]}\n" for n in range(1, 13))
    either = log(tmp_path, rows, replace(CSV, only={"app": ["a", "b"]}))
    assert [each.input_length for each in either.records] == [1, 3, 4, 6, 7, 9, 10, 12]
    both = log(tmp_path, rows, replace(CSV, only={"app": ["a", "b"], "out": ["2"]}))
    assert [each.input_length for each in both.records] == [1, 3, 7, 9]
    left = 'left out 8 rows that are no requests, the first: line 3: app: "c"'
    assert both.warnings == [f"{tmp_path / 'log'}: {left}"]


def test_a_row_of_nothing_has_no_columns(tmp_path: Path) -> None:
    assert fault(tmp_path, "{}", CSV).endswith("expected a value, got nothing; there are none")


def test_rows_that_are_true_as_json_says_it(tmp_path: Path) -> None:
    """And nothing is no text."""
    day = '"at": "2026-01-01", "out": 1'
    calls = f'{{{day}, "in": 1, "ok": false}}\n{{{day}, "in": 2, "ok": true}}\n'
    calls += f'{{{day}, "in": 3, "ok": null}}\n{{{day}, "in": 4}}'
    found = log(tmp_path, calls, replace(CSV, only={"ok": ["true"]}))
    assert seen(found) == [(0.0, 2, 1)] and 'the first: line 1: ok: "false"' in found.warnings[0]
    by = replace(CSV, class_by="ok", classes={"true": "chat"}, class_of_all="batch")
    named = [each.class_name for each in log(tmp_path, calls, by).records]
    assert named == ["batch", "chat", "batch", "batch"]
    for word in ("True", "None", ""):
        assert "got none" in fault(tmp_path, calls, replace(CSV, only={"ok": [word]}))


def test_rows_of_a_value_that_none_has(tmp_path: Path) -> None:
    """The columns are named, for the value may stand elsewhere."""
    said = fault(tmp_path, '{"at": 1, "in": 2, "out": 3}', replace(CSV, only={"App": ["job"]}))
    assert said == (
        ": expected at least one request, got none; left out 1 row that is no request: line 1: "
        "App: nothing; there are at, in, out"
    )
    rows = HEADER + "2026-01-01,3,4,job\n"
    assert fault(tmp_path, rows, replace(CSV, only={"App": ["job"]})).startswith(
        ":1: expected a column 'App' (did you mean 'app'?), got at, in, out, app"
    )
