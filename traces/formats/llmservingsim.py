"""Workloads of LLMServingSim: one JSON object per line, lengths, arrival in ns and content.

Content is `hash_ids` of full blocks of 16 tokens. The token ids themselves (`input_tok_ids`,
`output_tok_ids`) are not read. An answer has the length that is recorded, and the request asks for
no more: so the files are replayed.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from traces.fields import LENGTH_EXPECTED, field_error, shown
from traces.formats.native import MAX_NUMBER, Length, Record, explain
from traces.source import RecordError

BLOCK_TOKENS = 16
_MARK = b'"input_toks"'
_NS_PER_MS = 10**6
_EXPECTED = {
    "input_toks": LENGTH_EXPECTED,
    "output_toks": LENGTH_EXPECTED,
    "arrival_time_ns": "a number from 0 to 2**53 * 10**6 (ns)",
    "hash_ids": "a list of integers from 0 to 2**63 - 1",
}


_BlockId = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Negative ones are those of partial blocks here."""


class _Line(Struct):
    input_toks: Length
    output_toks: Length
    arrival_time_ns: float
    hash_ids: tuple[_BlockId, ...] | None = None


class _StrictLine(_Line, forbid_unknown_fields=True):
    input_tok_ids: msgspec.Raw | None = None
    output_tok_ids: msgspec.Raw | None = None


_KNOWN_FIELDS = frozenset(_StrictLine.__struct_fields__)


def is_record(line: bytes) -> bool:
    """True for an object with the field that every line of these files has."""
    return line.startswith(b"{") and _MARK in line


class ServingSimParser:
    """Turns lines into records; a last, partial block gets an id that matches nothing. Remembers
    the unknown fields that it met.
    """

    stamp_field = "arrival_time_ns"

    def __init__(self) -> None:
        self.unknown_fields: set[str] = set()
        self._decode_strict = msgspec.json.Decoder(_StrictLine).decode
        self._decode_lenient = msgspec.json.Decoder(_Line).decode
        self._partial = 0

    def parse(self, line: bytes) -> Record:
        """The record on `line`; `RecordError` if there is none."""
        try:
            found: _Line = self._decode_strict(line)
        except (ValueError, RecursionError):
            found = self._parse_unusual(line)
        arrival_ms = found.arrival_time_ns / _NS_PER_MS
        if not 0 <= arrival_ms <= MAX_NUMBER:
            raise _wrong("arrival_time_ns", found.arrival_time_ns)
        ids, block = self._whole(found), None if found.hash_ids is None else BLOCK_TOKENS
        answer = found.output_toks
        return Record(
            arrival_ms, found.input_toks, answer, answer, hash_ids=ids, hash_block_size=block
        )

    def _parse_unusual(self, line: bytes) -> _Line:
        """Slow path: a record with unknown fields, or a line to complain about."""
        try:
            found = self._decode_lenient(line)
            fields: dict[str, Any] = msgspec.json.decode(line)
        except (ValueError, RecursionError) as error:
            raise _fault(line, error) from None
        self.unknown_fields |= fields.keys() - _KNOWN_FIELDS
        return found

    def _whole(self, found: _Line) -> tuple[int, ...] | None:
        ids = found.hash_ids
        if ids is None:
            return None
        full, rest = divmod(found.input_toks, BLOCK_TOKENS)
        if len(ids) != full:
            expected = f"expected {full} ids (input_toks {found.input_toks} / 16), got {len(ids)}"
            raise RecordError("hash_ids", expected)
        if not rest:
            return ids
        self._partial -= 1
        return (*ids, self._partial)


def _fault(line: bytes, error: Exception) -> RecordError:
    """The field that does not fit, if the line is an object at all."""
    if isinstance(error, msgspec.ValidationError):
        found = field_error(line, error, _EXPECTED)
        return found if found.field else explain(line, error)
    return _non_finite(line) or explain(line, error)


def _non_finite(line: bytes) -> RecordError | None:
    """A number that is none or too large, such as NaN or 1e400: Python reads it, JSON does not."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    for name in _EXPECTED if isinstance(value, dict) else ():
        number = value.get(name)
        if isinstance(number, float) and not math.isfinite(number):
            return _wrong(name, number)
    return None


def _wrong(field: str, value: object) -> RecordError:
    return RecordError(field, f"expected {_EXPECTED[field]}, got {shown(value)}")
