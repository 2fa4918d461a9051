"""The rows of a log of another system: a CSV with a header, JSON lines, or one JSON document.

In both forms of JSON an export of OpenTelemetry has a row per span (`otlp`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superinfer.errors import InputError
from superinfer.settings import did_you_mean
from traces.fields import not_utf8, shown
from traces.logs.otlp import has_spans, spans_of
from traces.source import RecordError, Source

_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
"""What divides columns in place of a comma, as a shell takes it."""
MOST_ROW_LINES = 2_000
"""That a row of a CSV has, with cells of several lines."""
_DEEPEST = 8
"""Objects in one another whose names are told."""


@dataclass(slots=True)
class Row:
    """Values by column, or what is wrong with them, and where they stand."""

    line: int
    """From 1 on; 0 in a document, where `entry` says it."""
    entry: str
    """Which of several on a line, or of a document."""
    values: Mapping[str, Any] | RecordError
    is_span: bool = False
    """Of OpenTelemetry, where what is no request has spans, too."""

    @property
    def place(self) -> str:
        """For a reader who knows the file."""
        line = f"line {self.line}" if self.line else ""
        return f"{line} {self.entry}".strip()

    def error(self, source: Source, bad: RecordError) -> InputError:
        """The user's error for this row."""
        field = " ".join(part for part in (self.entry, bad.field) if part)
        return source.error(self.line, RecordError(field, bad.expected))


def is_json(text: bytes) -> bool:
    """Whether a text that begins so is JSON, by its first character."""
    return text.lstrip().startswith((b"{", b"["))


def rows_of(source: Source, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    """All rows; in JSON, a document is a list of objects, or an object with a list per column."""
    first = next((line.strip() for line in source.lines if line.strip()), b"")
    if not is_json(first):
        return _csv_rows(source, columns, delimiter)
    alone = _parsed(first)
    if isinstance(alone, dict) and not any(
        isinstance(value_of(alone, name), list) for name in columns
    ):
        return _json_lines(source)
    return _document_rows(source, columns)


def value_of(values: Mapping[str, Any], name: str) -> Any:
    """The value of a column, in JSON also one with dots; None if there is none.

    A key may have dots itself, as OpenTelemetry's `gen_ai.usage.input_tokens`.
    """
    if name in values:
        return values[name]
    for dot in range(len(name)):
        if name[dot] == "." and isinstance(inner := values.get(name[:dot]), Mapping):
            found = value_of(inner, name[dot + 1 :])
            if found is not None:
                return found
    return None


def names_in(values: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[str]:
    """The names that `value_of` takes, of whatever is no object itself."""
    for key, value in values.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from names_in(value, f"{before}{key}.", depth + 1)
        else:
            yield f"{before}{key}"


# -- inside ---------------------------------------------------------------------------------------


def _json_lines(source: Source) -> Iterator[Row]:
    for number, line in enumerate(source.lines, 1):
        if not line.strip():
            continue
        found = _parsed(line)
        if has_spans(found):
            yield from _span_rows(number, found)
        else:
            yield Row(number, "", _object(found, line))


def _span_rows(line: int, found: Mapping[str, Any]) -> Iterator[Row]:
    """The spans of a line, or with line 0 of a document, numbered from 0 on."""
    for number, values in enumerate(spans_of(found)):
        yield Row(line, f"span[{number}]", values, is_span=True)


def _document_rows(source: Source, columns: Sequence[str]) -> Iterator[Row]:
    text = b"\n".join(source.lines)
    found = _parsed(text)
    if isinstance(found, list):
        for number, each in enumerate(found):
            yield Row(0, f"[{number}]", _object(each))
        return
    if not isinstance(found, dict):
        yield from _json_lines(source)  # which says what is wrong with the first line
        return
    if has_spans(found):
        yield from _span_rows(0, found)
        return
    lists = {name: _list(found, name, source) for name in columns}
    if len({len(each) for each in lists.values()}) > 1:
        lengths = ", ".join(f"{name} {len(each)}" for name, each in lists.items())
        raise source.error(0, RecordError("", f"expected lists of one length, got {lengths}"))
    for number, cells in enumerate(zip(*lists.values(), strict=True)):
        yield Row(0, f"[{number}]", dict(zip(lists, cells, strict=True)))


def _list(found: Mapping[str, Any], name: str, source: Source) -> list[Any]:
    """A column of a document."""
    value = value_of(found, name)
    if isinstance(value, list):
        return value
    near = did_you_mean(name, [key for key, each in found.items() if isinstance(each, list)])
    got = "nothing" if value is None else shown(str(value))
    raise source.error(0, RecordError(name, f"expected a list{near}, got {got}"))


def _csv_rows(source: Source, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    header: list[str] = []
    for line, cells in _cells(source.lines, delimiter):
        if isinstance(cells, RecordError):
            if not header:
                raise source.error(line, cells)
            yield Row(line, "", cells)
        elif not header:
            header = cells
            _check_header(header, columns, source, line)
        elif len(cells) != len(header):
            expected = f"expected {len(header)} columns, got {len(cells)}"
            yield Row(line, "", RecordError("", expected))
        else:
            yield Row(line, "", dict(zip(header, cells, strict=True)))


def _cells(lines: list[bytes], delimiter: str) -> Iterator[tuple[int, list[str] | RecordError]]:
    """The rows that are not blank and the line where each ends, or what is wrong with one.

    Behind a bad row all goes on in the next line: to a quote that is never closed the rest of the
    file would be one row.
    """
    text = _Text(lines)
    while text.begin < len(lines):
        start, broken = text.begin, text.broken
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                text.begin = start + reader.line_num
                if broken:
                    yield text.begin, broken[0]
                    broken.clear()
                elif any(cell.strip() for cell in cells):
                    yield text.begin, [cell.strip() for cell in cells]
            return
        except csv.Error as error:
            text.begin += 1
            broken.clear()
            yield text.begin, _alone(lines[text.begin - 1].decode(), delimiter, error)


def _alone(line: str, delimiter: str, error: csv.Error) -> list[str] | RecordError:
    """The row that begins on a line, which a strict reader refused with `error`.

    It is one all the same if it ends there, such as `"a" ,b`.
    """
    rows = csv.reader([f"{line}\n", "\n"], delimiter=delimiter)
    try:
        cells = next(rows)
    except csv.Error:
        return RecordError("", f"expected a row of a CSV, got: {error}")
    if rows.line_num > 1:
        said = f" ({error})" if "limit" in str(error) else ""
        got = f"a quote that stays open, or text behind one that closes{said}"
        return RecordError("", f"expected a row of a CSV, got {got}")
    return [cell.strip() for cell in cells]


class _Text:
    """Lines with their ends, from the one on where a row begins."""

    def __init__(self, lines: list[bytes]) -> None:
        self.begin = 0
        """Where the next row begins."""
        self.broken: list[RecordError] = []
        """What is wrong with lines that were read."""
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        for index in range(self.begin, len(self._lines)):
            # Else each of many rows with an odd quote would be looked for to the end of the file.
            if index - self.begin >= MOST_ROW_LINES:
                raise csv.Error(f"a row above the limit of {MOST_ROW_LINES:,} lines")
            try:
                yield f"{self._lines[index].decode()}\n"
            except UnicodeDecodeError as error:
                self.broken.append(not_utf8(error))
                yield "\n"


def _check_header(header: list[str], columns: Sequence[str], source: Source, line: int) -> None:
    """Raise InputError for a column that is not there."""
    for name in columns:
        if header.count(name) == 1:
            continue
        if name in header:
            twice = f"expected one column {name!r}, got {header.count(name)}"
            raise source.error(line, RecordError("", twice))
        expected = f"expected a column {name!r}{did_you_mean(name, header)}, got "
        expected += ", ".join(header)
        other = [mark for mark in _DELIMITERS if mark in header[0]] if len(header) == 1 else []
        if other:
            expected += f" (one column: --delimiter {_DELIMITERS[other[0]]}?)"
        raise source.error(line, RecordError("", expected))


def _parsed(text: bytes) -> Any:
    """What JSON says; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(found: Any, text: bytes = b"") -> Mapping[str, Any] | RecordError:
    """What was read out of `text`; without one it is shown as it was read."""
    if isinstance(found, dict):
        return found
    got = shown(text.decode(errors="replace").strip() if text else found)
    return RecordError("", f"expected a JSON object, got {got}")
