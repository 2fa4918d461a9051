"""Reading a trace: what format it has, which records are good, and the requests they become."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from superinfer.collection import no_collection
from superinfer.errors import ConfigError, InputError
from superinfer.request import SLOClass
from superinfer.slo_classes import PRESETS
from traces.dialect import TIME_UNITS_MS, USUAL, Dialect
from traces.fields import not_utf8, shown
from traces.formats.agentic import (
    SUFFIXES,
    holds_sessions,
    read_sessions,
    session_files,
    sessions_in,
)
from traces.formats.archive import Member, files_read
from traces.formats.azure import HEADER, AzureParser, is_header
from traces.formats.llmservingsim import ServingSimParser
from traces.formats.llmservingsim import is_record as is_serving_sim
from traces.formats.native import MAX_NUMBER, NativeParser, Record, SloRecord
from traces.resolver import Resolver, without_targets
from traces.source import (
    CONVERSATIONS,
    OTHER_LOGS,
    RecordError,
    Source,
    open_source,
    trace_name,
)
from traces.stamps import coarse_clock_warnings, longest_ordered, spread_stamps, stamp_warnings
from traces.workload import Workload

_NAMED_UNKNOWN_FIELDS = 10
_HEADER_CHARACTERS = 160
"""Of a first line that is no trace, in a complaint: enough for the columns of a table."""
_CONVERSATION = b'"conversations"'
"""In the head of a list of them."""
LineParser = NativeParser | AzureParser | ServingSimParser


def read_trace(
    path: str | Path,
    *,
    classes: Mapping[str, SLOClass] | None = None,
    skip_bad: bool = False,
    spread: bool = False,
    limit: int | None = None,
    without_slo: bool = False,
    dialect: Dialect = USUAL,
) -> Workload:
    """Read a native, Mooncake, Azure or LLMServingSim trace, plain or gzip, `-` for standard input,
    or a folder, archive or file of recorded agent sessions (`traces.formats.agentic`).

    `classes` replaces the presets, `skip_bad` leaves bad lines out and counts them, `spread`
    distributes the requests that share a stamp until the next one, `limit` keeps the first so
    many requests, `without_slo` takes every target away, `dialect` says what the trace leaves open.
    Raises `InputError` at the first fault.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected an integer >= 1, got {limit}")
    known = without_targets(PRESETS if classes is None else classes, without_slo)
    source, files = _open(path, skip_bad)
    if files is None:
        most = None if skip_bad or spread else limit
        rows = _line_rows(source, known, skip_bad, most, dialect)
    else:
        dialect.require_usual(source.file)
        rows = _session_rows(files, skip_bad, dialect.session_gap_s)
    if rows.fault or not rows.records:
        raise rows.fault or _no_requests(source, rows)
    if spread:
        rows.stamps = spread_stamps(rows.stamps)
    elif files is None:
        rows.warnings += coarse_clock_warnings(source.file, rows.stamps)
    rows.cut(limit)
    return _workload(source, rows, Resolver(known, without_slo))


def files_of(path: str | Path) -> list[Path]:
    """The files that a trace is read from: those of the sessions in a folder, or itself."""
    # Unlike `Path.is_dir`, this is quiet about impossible paths.
    return files_read(Path(path), SUFFIXES) if os.path.isdir(path) else [Path(path)]


@dataclass(slots=True)
class _Rows:
    """Good records in file order, with their line numbers and arrivals in ms."""

    numbers: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    bad_numbers: list[int] = field(default_factory=list)
    first_bad: InputError | None = None
    """What is wrong with the first line that was left out."""
    first_with_id: dict[str, int] = field(default_factory=dict)
    """Where each given request id came first."""
    fault: InputError | None = None
    """The bad line at which reading stopped; the rows before it may hold an earlier fault."""
    unknown_fields: set[str] = field(default_factory=set)
    from_first: bool = False
    """The first good record's stamp is time 0; otherwise stamps are kept."""
    warnings: list[str] = field(default_factory=list)

    def keep(self, positions: Iterable[int]) -> None:
        """Drop every record that is at none of `positions` and count it as bad."""
        kept = sorted(positions)
        self.bad_numbers += set(self.numbers).difference(self.numbers[i] for i in kept)
        self.numbers = [self.numbers[i] for i in kept]
        self.records = [self.records[i] for i in kept]
        self.stamps = [self.stamps[i] for i in kept]

    def line_id(self, number: int) -> str:
        """Id of a record that gives none: its line number, told apart from ids that are given."""
        name = str(number)
        while name in self.first_with_id:
            name = f"line-{name}"
        return name

    def cut(self, limit: int | None) -> None:
        """Forget everything after the first `limit` good records, the bad lines too."""
        if limit is None or limit >= len(self.records):
            return
        for rows in (self.numbers, self.records, self.stamps):
            del rows[limit:]
        self.bad_numbers = [number for number in self.bad_numbers if number < self.numbers[-1]]


def _open(path: str | Path, skip_bad: bool) -> tuple[Source, Iterable[Member] | None]:
    """The trace, and the session files that it consists of, if it does."""
    files = session_files(path)
    if files is not None:
        return Source(str(path), trace_name(path), []), files
    source = open_source(path, _is_document, keep_partial=skip_bad)
    return source, sessions_in(source)


def _is_document(head: bytes) -> bool:
    return holds_sessions(head) or _CONVERSATION in head


def _session_rows(files: Iterable[Member], skip_bad: bool, session_gap_s: float) -> _Rows:
    sessions = read_sessions(files, skip_bad=skip_bad, session_gap_s=session_gap_s)
    return _Rows(
        numbers=list(range(1, len(sessions.records) + 1)),
        records=sessions.records,
        stamps=[record.timestamp for record in sessions.records],
        bad_numbers=[0] * sessions.bad,
        unknown_fields=sessions.unknown_fields,
    )


def _line_rows(
    source: Source,
    classes: Mapping[str, SLOClass],
    skip_bad: bool,
    limit: int | None,
    dialect: Dialect,
) -> _Rows:
    parser = _detect(source, classes, skip_bad, dialect)
    if not isinstance(parser, NativeParser):
        dialect.require_usual(source.file)
    rows = _parse(source, parser, skip_bad, limit)
    rows.unknown_fields = parser.unknown_fields
    rows.from_first = isinstance(parser, AzureParser)
    _count_in_ms(source, rows, TIME_UNITS_MS[dialect.time_unit])
    _check_rows(source, rows, parser.stamp_field, skip_bad)
    if isinstance(parser, NativeParser):
        rows.warnings = stamp_warnings(source.file, rows.stamps, dialect.time_unit)
    return rows


def _count_in_ms(source: Source, rows: _Rows, unit_ms: float) -> None:
    """Turn stamps into ms, without digits that the product of two floats adds."""
    if unit_ms == 1.0:
        return
    rows.stamps = [round(stamp * unit_ms, 6) for stamp in rows.stamps]
    for number, stamp in zip(rows.numbers, rows.stamps, strict=True):
        if stamp > MAX_NUMBER:
            expected = f"expected a time from 0 to 2**53 ms, got {stamp:.15g}"
            raise source.error(number, RecordError("timestamp", expected))


def _detect(
    source: Source, classes: Mapping[str, SLOClass], skip_bad: bool, dialect: Dialect
) -> LineParser:
    """The parser for the first line that is recognised; without `skip_bad` it must be the first."""
    first: InputError | None = None
    for position, line in enumerate(source.lines):
        text = line.strip()
        if is_serving_sim(text):
            return ServingSimParser()
        if text.startswith(b"{"):
            known = {"default", *classes}
            return NativeParser(known, ", ".join(sorted(known)), dialect.hash_block_tokens)
        if is_header(text):
            source.lines[position] = b""
            return AzureParser()
        if text and first is None:
            hint = CONVERSATIONS if _CONVERSATION in source.head else OTHER_LOGS
            first = source.error(position + 1, _unrecognised(text, hint))
            if not skip_bad:
                break
    raise first or InputError("expected at least one good record, got none", file=source.file)


def _unrecognised(text: bytes, hint: str) -> RecordError:
    try:
        line = text.decode()
    except UnicodeDecodeError as error:
        return not_utf8(error)
    found = shown(line, _HEADER_CHARACTERS)
    known = f"a JSON object or {','.join(HEADER)} ({hint})"
    return RecordError("", f"expected {known}, got {found}")


def _parse(source: Source, parser: LineParser, skip_bad: bool, limit: int | None) -> _Rows:
    if isinstance(parser, NativeParser) and limit is None:
        rows = _parse_at_once(source, parser)
        if rows is not None:
            return rows
    rows, parse = _Rows(), parser.parse
    for number, line in enumerate(source.lines, 1):
        if not line or line.isspace():
            continue
        try:
            record = parse(line)
        except RecordError as bad:
            if not skip_bad:
                rows.fault = source.error(number, bad)
                break
            rows.bad_numbers.append(number)
            rows.first_bad = rows.first_bad or source.error(number, bad)
            continue
        rows.numbers.append(number)
        rows.records.append(record)
        if len(rows.records) == limit:
            break
    rows.stamps = [record.timestamp for record in rows.records]
    return rows


def _parse_at_once(source: Source, parser: NativeParser) -> _Rows | None:
    """The short way for a trace without a fault; None if there may be one."""
    lines = source.lines
    numbers = [i for i, line in enumerate(lines, 1) if line and not line.isspace()]
    if len(numbers) < len(lines):
        lines = [lines[number - 1] for number in numbers]
    records = parser.parse_all(lines)
    if records is None:
        return None
    return _Rows(numbers, records, [record.timestamp for record in records])


def _check_rows(source: Source, rows: _Rows, stamp_field: str, skip_bad: bool) -> None:
    """Time must not run backwards, given ids must differ: an error, or rows that are dropped."""
    disorder = next((i for i, (a, b) in enumerate(pairwise(rows.stamps), 1) if b < a), 0)
    if disorder:
        fault = source.error(rows.numbers[disorder], _backwards(rows, disorder, stamp_field))
        if not skip_bad:
            raise fault
        rows.first_bad = rows.first_bad or fault
        rows.keep(longest_ordered(rows.stamps))
    repeated = _repeated_ids(source, rows, skip_bad)
    if repeated:
        rows.keep(set(range(len(rows.records))) - repeated)


def _backwards(rows: _Rows, position: int, stamp_field: str) -> RecordError:
    before, now = rows.stamps[position - 1], rows.stamps[position]
    expected = f"expected no time before the previous request's {before:.15g} ms, got {now:.15g}"
    return RecordError(stamp_field, expected)


def _repeated_ids(source: Source, rows: _Rows, skip_bad: bool) -> set[int]:
    first = rows.first_with_id
    repeated = set()
    for position, record in enumerate(rows.records):
        if record.request_id is None:
            continue
        earlier = first.setdefault(record.request_id, position)
        if earlier != position:
            place = f"line {rows.numbers[earlier]} has it too"
            expected = f"expected an id of its own, got {shown(record.request_id)} ({place})"
            fault = source.error(rows.numbers[position], RecordError("request_id", expected))
            if not skip_bad:
                raise fault
            rows.first_bad = rows.first_bad or fault
            repeated.add(position)
    return repeated


def _no_requests(source: Source, rows: _Rows) -> InputError:
    bad = ""
    if rows.bad_numbers:
        first = f", the first: {rows.first_bad.in_file}" if rows.first_bad else ""
        bad = f" and {len(rows.bad_numbers)} bad lines{first}"
    return InputError(f"expected at least one good record, got none{bad}", file=source.file)


def _workload(source: Source, rows: _Rows, resolver: Resolver) -> Workload:
    # Only a CSV whose first row was dropped does not begin at 0; native stamps are kept.
    first_ms = rows.stamps[0] if rows.from_first else 0.0
    name_of = rows.line_id if rows.first_with_id else str
    numbered = enumerate(zip(rows.numbers, rows.records, rows.stamps, strict=True))
    with no_collection():  # walking ever more live requests would take half of the time
        requests = [
            resolver.request(index, name_of(number), record, (stamp - first_ms) / 1000)
            for index, (number, record, stamp) in numbered
        ]
    return Workload(
        requests=requests,
        output_tokens=[record.output_length for record in rows.records],
        name=source.name,
        raised_max_tokens=resolver.raised_max_tokens,
        skipped=len(rows.bad_numbers),
        first_skipped=rows.first_bad.in_file if rows.first_bad else "",
        warnings=[
            *source.warnings,
            *rows.warnings,
            *_unknown_fields(source, rows.unknown_fields),
        ],
    )


def _unknown_fields(source: Source, names: set[str]) -> list[str]:
    if not names:
        return []
    listed = sorted(names)[:_NAMED_UNKNOWN_FIELDS]
    more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    text = ", ".join(shown(name)[1:-1] for name in listed)
    targets = " (targets go into slo)" if names & {*SloRecord.__struct_fields__} else ""
    return [f"{source.file}: ignored unknown fields: {text}{more}{targets}"]
