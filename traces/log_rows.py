"""The rows of a log of another system: a CSV with a header, JSON lines, or one JSON document."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superinfer.errors import InputError
from superinfer.settings import did_you_mean
from traces.native import not_utf8, shown
from traces.source import RecordError, Source

_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
"""What divides columns in place of a comma, as a shell takes it."""


@dataclass(slots=True)
class Row:
    """Values by column, or what is wrong with them, and where they stand."""

    line: int
    """From 1 on; 0 in a document, where `entry` says it."""
    entry: str
    values: Mapping[str, Any] | RecordError

    @property
    def place(self) -> str:
        """For a reader who knows the file."""
        return f"line {self.line}" if self.line else self.entry

    def error(self, source: Source, bad: RecordError) -> InputError:
        """The user's error for this row."""
        field = " ".join(part for part in (self.entry, bad.field) if part)
        return source.error(self.line, RecordError(field, bad.expected))


def rows_of(source: Source, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    """All rows; in JSON, a document is a list of objects, or an object with a list per column."""
    first = next((line.strip() for line in source.lines if line.strip()), b"")
    if not first.startswith((b"{", b"[")):
        return _csv_rows(source, columns, delimiter)
    alone = _parsed(first)
    if isinstance(alone, dict) and not any(isinstance(alone.get(name), list) for name in columns):
        return _json_lines(source)
    return _document_rows(source, columns)


def value_of(values: Mapping[str, Any], name: str) -> Any:
    """The value of a column, in JSON also one with dots; None if there is none."""
    if name in values:
        return values[name]
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


# -- inside ---------------------------------------------------------------------------------------


def _json_lines(source: Source) -> Iterator[Row]:
    for number, line in enumerate(source.lines, 1):
        if line.strip():
            yield Row(number, "", _object(_parsed(line), line))


def _document_rows(source: Source, columns: Sequence[str]) -> Iterator[Row]:
    text = b"\n".join(source.lines)
    found = _parsed(text)
    if isinstance(found, list):
        for number, each in enumerate(found):
            yield Row(0, f"[{number}]", _object(each, json.dumps(each).encode()))
        return
    if not isinstance(found, dict):
        yield from _json_lines(source)  # which says what is wrong with the first line
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
    try:
        text = [line.decode() for line in source.lines]
    except UnicodeDecodeError as error:
        raise source.error(0, not_utf8(error)) from None
    reader = csv.reader((f"{line}\n" for line in text), delimiter=delimiter)
    header: list[str] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            _check_header(header, columns, source, reader.line_num)
        elif len(cells) != len(header):
            expected = f"expected {len(header)} columns, got {len(cells)}"
            yield Row(reader.line_num, "", RecordError("", expected))
        else:
            values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            yield Row(reader.line_num, "", values)


def _check_header(header: list[str], columns: Sequence[str], source: Source, line: int) -> None:
    """Raise InputError for a column that is not there."""
    for name in columns:
        if name in header:
            continue
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


def _object(found: Any, text: bytes) -> Mapping[str, Any] | RecordError:
    if isinstance(found, dict):
        return found
    got = shown(text.decode(errors="replace").strip())
    return RecordError("", f"expected a JSON object, got {got}")
