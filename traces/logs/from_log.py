"""Requests from a log of another system (`log_rows`), columns by name.

Nothing is guessed: who calls says which column is what, and in which unit a time counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from superinfer.errors import ConfigError, InputError
from superinfer.settings import did_you_mean
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.fields import LENGTH_EXPECTED, shown
from traces.formats.native import (
    MAX_NUMBER,
    MOONCAKE_BLOCK_TOKENS,
    OTHER_SIZE,
    HashId,
    Record,
    check_hash_ids,
)
from traces.logs.log_rows import Row, is_json, names_in, rows_of, value_of
from traces.source import RecordError, Source, open_source
from traces.workload import skipped_note

UNITS_MS: Final[Mapping[str, float]] = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds in the units of a time that is a number."""
_MOST_NAMED = 40
"""Columns that a complaint names."""
_NO_DIVIDERS = ('"', "\n", "\r")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SIGNED = re.compile(r"[+-]?[0-9]{1,19}")
_WHOLE = re.compile(r"([0-9]{1,19})(?:\.0+)?")
"""A table with gaps in a column of integers is often written as `812.0`."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a log is what; in JSON a name with dots goes into objects."""

    time: str
    prompt: str
    answer: str
    tenant: str | None = None
    request_id: str | None = None
    session: str | None = None
    priority: str | None = None
    max_tokens: str | None = None
    hash_ids: str | None = None
    """Chained ids of the prompt's blocks, as a list or as its JSON."""
    hash_block_size: int = MOONCAKE_BLOCK_TOKENS
    """Tokens per hash id."""
    class_by: str | None = None
    """The column whose values stand for classes (`classes`)."""
    classes: Mapping[str, str] = field(default_factory=dict)
    class_of_all: str | None = None
    """Where no column says it, or its value stands for none of `classes`."""
    time_unit: str | None = None
    """Of a time that is a number (`UNITS_MS`); one that is text is ISO 8601, UTC without a zone."""
    latency: str | None = None
    """What a request took, where `time` is when it ended."""
    latency_unit: str | None = None
    """Of the latency (`UNITS_MS`)."""
    only: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Columns, each with the values of which the rows that are read have one."""
    delimiter: str = ","
    """Of a CSV; `\\t` stands for a tab, too."""

    @property
    def divider(self) -> str:
        """The character between the columns of a CSV."""
        return "\t" if self.delimiter == r"\t" else self.delimiter

    def names(self) -> list[str]:
        """All columns that are asked for."""
        more = (self.tenant, self.request_id, self.class_by, self.session, self.priority)
        rest = (*more, self.max_tokens, self.hash_ids, self.latency, *self.only)
        return [self.time, self.prompt, self.answer, *(name for name in rest if name)]


@dataclass(slots=True)
class Log:
    """What a log came to: records in order of time, from 0 ms on."""

    records: list[Record]
    skipped: int = 0
    first_skipped: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def skipped_note(self) -> str:
        """How many bad lines were left out, and why the first."""
        return skipped_note(self.skipped, self.first_skipped)


def read_log(path: str | Path, columns: Columns, *, skip_bad: bool = False) -> Log:
    """Read a log, plain or gzip, `-` for standard input.

    Raises ConfigError for columns that say nothing, InputError at the first line that is no request
    unless `skip_bad`, and where none is.
    """
    _check(columns)
    source = open_source(path, is_json, keep_partial=skip_bad)
    rows = _Rows(source, columns)
    for row in rows_of(source, columns.names(), columns.divider):
        fault = rows.take(row)
        if fault is not None and not skip_bad:
            raise fault
    if not rows.found:
        raise InputError(f"expected at least one request, got none{rows.why}", file=source.file)
    return rows.log()


# -- inside ---------------------------------------------------------------------------------------


class _Rows:
    """What the rows of a log came to so far."""

    def __init__(self, source: Source, columns: Columns) -> None:
        self._source, self._columns = source, columns
        self.found: list[tuple[float, Record]] = []
        self._seen: dict[str, str] = {}
        self._bad: list[InputError] = []
        self._others = 0
        self._first_other = self._there_are = ""

    def take(self, row: Row) -> InputError | None:
        """Read a row, or leave it out; what is wrong with it, if it is bad."""
        try:
            if isinstance(row.values, RecordError):
                raise row.values
            if self._leave_out(row, row.values):
                return None
            stamp_ms, record = _record(row.values, self._columns)
            _require_new(record, row.place, self._seen)
        except RecordError as error:
            self._bad.append(row.error(self._source, error))
            return self._bad[-1]
        self.found.append((stamp_ms, record))
        return None

    @property
    def why(self) -> str:
        """Why there is no request, if any row said it."""
        if self._bad:
            return f", the first bad line: {self._bad[0]}"
        return f"; {self._left_out}{self._there_are}" if self._others else ""

    def log(self) -> Log:
        """Records in order of time, from 0 ms on."""
        self.found.sort(key=lambda pair: pair[0])
        for stamp_ms, record in self.found:
            record.timestamp = round(stamp_ms - self.found[0][0], 6)
        records = [record for _, record in self.found]
        warnings = [*self._source.warnings, *_unused(records, self._columns)]
        if self._others:
            warnings.append(f"{self._source.file}: {self._left_out}")
        first = self._bad[0].in_file if self._bad else ""
        return Log(records, len(self._bad), first, warnings)

    def _leave_out(self, row: Row, values: Mapping[str, Any]) -> bool:
        """Whether a row is no request, good or bad."""
        name, reason = _no_request(values, self._columns, is_span=row.is_span)
        if reason and not self._others:
            self._first_other = f"{row.place}: {reason}"
            self._there_are = _near(values, name)
        self._others += bool(reason)
        return bool(reason)

    @property
    def _left_out(self) -> str:
        one = self._others == 1
        rows = "row that is no request: " if one else "rows that are no requests, the first: "
        return f"left out {self._others:,} {rows}{self._first_other}"


def _no_request(values: Mapping[str, Any], columns: Columns, *, is_span: bool) -> tuple[str, str]:
    """By which column a row is to be left out, and why; nothing where it is a request, good or
    bad.
    """
    for name, wanted in columns.only.items():
        value = value_of(values, name)
        if value is None or _text(value) not in wanted:
            return name, f"{name}: {'nothing' if value is None else shown(_text(value))}"
    prompt, answer = columns.prompt, columns.answer
    if is_span and value_of(values, prompt) is None and value_of(values, answer) is None:
        return prompt, f"no {prompt}, no {answer}"
    return "", ""


def _unused(records: Sequence[Record], columns: Columns) -> list[str]:
    """That no request has a value for which there is a class: its column may have another name."""
    named = {record.class_name for record in records} - {columns.class_of_all}
    if columns.class_of_all is None or not columns.classes or named:
        return []
    values = ", ".join(columns.classes)
    return [
        f"--class-by {columns.class_by}: no request has {values} there: all are of class "
        f"{columns.class_of_all}"
    ]


def _check(columns: Columns) -> None:
    _check_unit("--time-unit", columns.time_unit)
    _check_unit("--latency-unit", columns.latency_unit)
    if (columns.latency is None) != (columns.latency_unit is None):
        given, missing = "--latency", f"--latency-unit ({', '.join(UNITS_MS)})"
        if columns.latency is None:
            given, missing = "--latency-unit", "--latency"
        raise ConfigError(f"{given}: expected {missing} with it")
    if columns.hash_ids is None and columns.hash_block_size != MOONCAKE_BLOCK_TOKENS:
        raise ConfigError("--hash-block-size: expected --hash-ids with it")
    if len(columns.divider) != 1 or columns.divider in _NO_DIVIDERS:
        expected = "expected one character, no quote and no line end"
        raise ConfigError(f"--delimiter: {expected}, got {columns.delimiter!r}")
    if columns.class_by and not columns.classes:
        raise ConfigError("--class-by: expected --class VALUE=CLASS for its values, got none")
    if columns.class_of_all == "" or "" in columns.classes.values():
        raise ConfigError("--class: expected the name of a class, got nothing")
    if columns.classes and not columns.class_by:
        raise ConfigError("--class VALUE=CLASS: expected --class-by, the column of these values")


def _check_unit(option: str, unit: str | None) -> None:
    if unit is not None and unit not in UNITS_MS:
        raise ConfigError(f"{option}: expected one of {', '.join(UNITS_MS)}, got {unit!r}")


def _record(row: Mapping[str, Any], columns: Columns) -> tuple[float, Record]:
    """When it came, in ms since 1970 or since whatever the log counts from, and the request."""
    record = Record(
        timestamp=0.0,
        input_length=_tokens(row, columns.prompt),
        output_length=_tokens(row, columns.answer),
        class_name=_class(row, columns),
        tenant=_word(row, columns.tenant),
        request_id=_word(row, columns.request_id),
        session_id=_word(row, columns.session),
        priority=_priority(row, columns.priority) or None,
    )
    _take_limit(record, row, columns)
    _take_contents(record, row, columns)
    return _time_ms(row, columns) - _latency_ms(row, columns), record


def _value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column; RecordError if there is none."""
    found = value_of(row, name)
    if found is None or found == "":
        raise RecordError(name, f"expected a value, got nothing{_near(row, name)}")
    return found


def _near(row: Mapping[str, Any], name: str) -> str:
    """The column that may have been meant, and what there are, where there is none of a name."""
    names = list(islice(names_in(row), _MOST_NAMED))
    if name in names:
        return ""
    return f"{did_you_mean(name, names)}; there are {', '.join(names) or 'none'}"


def _tokens(row: Mapping[str, Any], name: str) -> int:
    value = _value(row, name)
    text = str(value)
    whole = None if isinstance(value, bool) else _WHOLE.fullmatch(text)
    if whole is None or not 1 <= int(whole[1]) <= MAX_LENGTH_TOKENS:
        raise RecordError(name, f"expected {LENGTH_EXPECTED}, got {shown(text)}")
    return int(whole[1])


def _time_ms(row: Mapping[str, Any], columns: Columns) -> float:
    name, value = columns.time, _value(row, columns.time)
    try:
        number = None if isinstance(value, bool) else float(value)
    except OverflowError:  # a long integer
        number = math.inf
    except (TypeError, ValueError):
        number = None
    if number is not None:
        if columns.time_unit is None:
            units = ", ".join(UNITS_MS)
            raise RecordError(
                name, f"a number: expected --time-unit {units}, got {shown(str(value))}"
            )
        time_ms = number * UNITS_MS[columns.time_unit]
        if not 0 <= time_ms <= MAX_NUMBER:
            raise RecordError(name, f"expected a time from 0 to 2**53 ms, got {shown(str(value))}")
        return time_ms
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        expected = 'expected a number or a time like "2026-11-02T09:00:00.120Z"'
        raise RecordError(name, f"{expected}, got {shown(str(value))}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400e3 + since.seconds * 1e3 + since.microseconds / 1e3


def _latency_ms(row: Mapping[str, Any], columns: Columns) -> float:
    """What the request took; 0 where its time is when it came."""
    if columns.latency is None or columns.latency_unit is None:
        return 0.0
    text = str(_value(row, columns.latency))
    try:
        latency_ms = float(text) * UNITS_MS[columns.latency_unit]
    except ValueError:
        latency_ms = math.nan
    if not 0 <= latency_ms <= MAX_NUMBER:
        expected = f"expected a number of {columns.latency_unit}, 0 or more"
        raise RecordError(columns.latency, f"{expected}, got {shown(text)}")
    return latency_ms


def _text(value: Any) -> str:
    """A value as an option names it: true and false as JSON spells them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _class(row: Mapping[str, Any], columns: Columns) -> str | None:
    if columns.class_by is None:
        return columns.class_of_all
    if columns.class_of_all is not None:
        found = value_of(row, columns.class_by)
        return columns.classes.get("" if found is None else _text(found), columns.class_of_all)
    value = _text(_value(row, columns.class_by))
    if value not in columns.classes:
        known = ", ".join(columns.classes)
        raise RecordError(
            columns.class_by, f"expected one of --class ({known}), got {shown(value)}"
        )
    return columns.classes[value]


def _word(row: Mapping[str, Any], name: str | None) -> str | None:
    if name is None:
        return None
    word = str(_value(row, name))
    if _SURROGATE.search(word):  # JSON may escape half a character, which no file can hold
        raise RecordError(name, f"expected Unicode text, got {shown(word)}")
    return word


def _priority(row: Mapping[str, Any], name: str | None) -> int:
    if name is None:
        return 0
    text = str(_value(row, name))
    if not _SIGNED.fullmatch(text) or abs(int(text)) > MAX_NUMBER:
        raise RecordError(name, f"expected an integer from -2**53 to 2**53, got {shown(text)}")
    return int(text)


def _take_limit(record: Record, row: Mapping[str, Any], columns: Columns) -> None:
    name = columns.max_tokens
    if name is None:
        return
    record.max_tokens = _tokens(row, name)
    if record.max_tokens < record.output_length:
        expected = f"expected at least {columns.answer} {record.output_length}"
        raise RecordError(name, f"{expected}, got {record.max_tokens}")


def _take_contents(record: Record, row: Mapping[str, Any], columns: Columns) -> None:
    name = columns.hash_ids
    if name is None:
        return
    value = _value(row, name)
    try:
        found = msgspec.json.decode(value) if isinstance(value, str) else value
        # Lax: exports of OpenTelemetry write numbers of 64 bits as text.
        record.hash_ids = msgspec.convert(found, tuple[HashId, ...], strict=False)
    except (ValueError, RecursionError):
        expected = "expected a list of 64-bit integers"
        raise RecordError(name, f"{expected}, got {shown(value)}") from None
    record.hash_block_size = columns.hash_block_size
    try:
        check_hash_ids(record, OTHER_SIZE)
    except RecordError as bad:
        raise RecordError(name, bad.expected) from None


def _require_new(record: Record, place: str, seen: dict[str, str]) -> None:
    if record.request_id is None:
        return
    earlier = seen.setdefault(record.request_id, place)
    if earlier != place:
        expected = f"expected an id of its own, got {shown(record.request_id)}"
        raise RecordError("request_id", f"{expected} ({earlier} has it too)")
