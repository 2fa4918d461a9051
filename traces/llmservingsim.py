"""Workloads of LLMServingSim: one JSON object per line, lengths, arrival in ns and content.

Content is `hash_ids` of full blocks of 16 tokens. The token ids themselves (`input_tok_ids`) are
not read. An answer has the length that is recorded, and the request asks for no more: so the files
are replayed.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from traces.native import MAX_NUMBER, HashId, Length, Record, explain, shown
from traces.source import RecordError

BLOCK_TOKENS = 16
_MARK = b'"input_toks"'
_NS_PER_MS = 10**6
_LENGTH = "an integer >= 1 (tokens)"
_EXPECTED = {
    "input_toks": _LENGTH,
    "output_toks": _LENGTH,
    "arrival_time_ns": "a number from 0 to 2**53 * 10**6 (ns)",
    "hash_ids": "a list of 64-bit integers",
}


class _Line(Struct):
    input_toks: Length
    output_toks: Length
    arrival_time_ns: float
    hash_ids: tuple[HashId, ...] | None = None


def is_record(line: bytes) -> bool:
    """True for an object with the field that every line of these files has."""
    return line.startswith(b"{") and _MARK in line


class ServingSimParser:
    """Turns lines into records; a last, partial block gets an id that matches nothing."""

    stamp_field = "arrival_time_ns"

    def __init__(self) -> None:
        self.unknown_fields: set[str] = set()
        self._decode = msgspec.json.Decoder(_Line).decode
        self._partial = 0

    def parse(self, line: bytes) -> Record:
        """The record on `line`; `RecordError` if there is none."""
        try:
            found = self._decode(line)
        except (ValueError, RecursionError) as error:
            raise _fault(line, error) from None
        arrival_ms = found.arrival_time_ns / _NS_PER_MS
        if not 0 <= arrival_ms <= MAX_NUMBER:
            raise _wrong("arrival_time_ns", found.arrival_time_ns)
        ids, block = self._whole(found), None if found.hash_ids is None else BLOCK_TOKENS
        answer = found.output_toks
        return Record(
            arrival_ms, found.input_toks, answer, answer, hash_ids=ids, hash_block_size=block
        )

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
    try:
        value = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return explain(line, error)
    if not isinstance(value, dict):
        return explain(line, error)
    for name, expected in _EXPECTED.items():
        if name != "hash_ids" and name not in value:
            return RecordError(name, f"expected {expected}, got nothing")
    field = next((name for name in _EXPECTED if f"$.{name}" in str(error)), "")
    return _wrong(field, value.get(field)) if field else RecordError("", str(error))


def _wrong(field: str, value: object) -> RecordError:
    return RecordError(field, f"expected {_EXPECTED[field]}, got {shown(value)}")
