"""Azure's LLM inference traces: CSV with a time of day and two token counts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.fields import not_utf8, shown
from traces.formats.native import Record
from traces.source import RecordError

HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
_NS_PER_S = 10**9
_NS_PER_MS = 10**6


def is_header(line: bytes) -> bool:
    """True for the column names that these files begin with."""
    names = line.decode(errors="replace").split(",")
    return tuple(name.strip().lower() for name in names) == tuple(map(str.lower, HEADER))


class AzureParser:
    """Turns rows into records; timestamps count from the first good row."""

    stamp_field = HEADER[0]

    def __init__(self) -> None:
        self.unknown_fields: set[str] = set()
        self._first_ns: int | None = None

    def parse(self, line: bytes) -> Record:
        """The record on `line`; `RecordError` if there is none."""
        time, prompt, answer = _columns(line)
        prompt_tokens, answer_tokens = _tokens(HEADER[1], prompt), _tokens(HEADER[2], answer)
        now_ns = _nanoseconds(time)
        if self._first_ns is None:
            self._first_ns = now_ns
        # Whole nanoseconds until here: a float of seconds since 1970 would lose digits.
        return Record((now_ns - self._first_ns) / _NS_PER_MS, prompt_tokens, answer_tokens)


def _columns(line: bytes) -> list[str]:
    try:
        columns = line.decode().split(",")
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None
    if len(columns) != len(HEADER):
        raise RecordError("", f"expected {len(HEADER)} columns, got {len(columns)}")
    return [column.strip() for column in columns]


def _tokens(field: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= MAX_LENGTH_TOKENS:
        return int(text)
    raise RecordError(
        field, f"expected an integer from 1 to {MAX_LENGTH_TOKENS}, got {shown(text)}"
    )


def _nanoseconds(text: str) -> int:
    """Nanoseconds since 1970; a time without a zone is UTC."""
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        moment = datetime.fromisoformat(match[1] + (match[3] or "Z"))
    except ValueError:
        expected = 'a time like "2023-11-16 18:17:03.9799600"'
        raise RecordError(HEADER[0], f"expected {expected}, got {shown(text)}") from None
    whole_s = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return whole_s * _NS_PER_S + int((match[2] or "0").ljust(9, "0"))
