"""Native records and Mooncake's: one JSON object per line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from superinfer.settings import did_you_mean
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.fields import (
    LENGTH_EXPECTED,
    field_path,
    missing_field,
    not_utf8,
    shown,
    value_at,
)
from traces.source import CONVERSATIONS, OTHER_LOGS, RecordError

MAX_NUMBER = 2**53
"""Largest number of a record: beyond it JSON readers disagree about integers."""
MOONCAKE_BLOCK_TOKENS = 512
OTHER_SIZE = "; --hash-block-size gives another"
"""What a complaint about the number of ids adds where the record does not say their size."""

Length = Annotated[int, Meta(ge=1, le=MAX_LENGTH_TOKENS)]
Number = Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
HashId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Priority = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]


class SloRecord(Struct, omit_defaults=True):
    """Targets that override the class's, in ms; 0 takes a target away."""

    ttft_ms: Number | None = None
    tpot_ms: Number | None = None
    e2el_ms: Number | None = None
    min_tokens_per_s: Number | None = None


class Record(Struct, omit_defaults=True, gc=False):
    """One line of a trace; `null` is the same as an absent field."""

    timestamp: Number
    """Arrival, ms."""
    input_length: Length
    output_length: Length
    max_tokens: Length | None = None
    class_name: str | None = msgspec.field(default=None, name="class")
    tenant: str | None = None
    priority: Priority | None = None
    session_id: str | None = None
    delay_ms: Number | None = None
    """After the end of the session's turn before, ms; counts with closed-loop sessions."""
    request_id: str | None = None
    namespace: str | None = None
    slo: SloRecord | None = None
    hash_block_size: Length | None = None
    hash_ids: tuple[HashId, ...] | None = None


class _StrictSlo(SloRecord, forbid_unknown_fields=True):
    pass


class _StrictRecord(Record, forbid_unknown_fields=True, gc=False):
    slo: _StrictSlo | None = None


_TARGET = "a number from 0 to 2**53 (0 = none)"
_EXPECTED = {
    "timestamp": "a number from 0 to 2**53 (ms)",
    "input_length": LENGTH_EXPECTED,
    "output_length": LENGTH_EXPECTED,
    "max_tokens": LENGTH_EXPECTED,
    "delay_ms": "a number from 0 to 2**53 (ms)",
    "hash_block_size": LENGTH_EXPECTED,
    "hash_ids": "a list of 64-bit integers",
    "priority": "an integer from -2**53 to 2**53",
    "slo": "an object of targets",
    **{f"slo.{name}": _TARGET for name in SloRecord.__struct_fields__},
}
_KNOWN_FIELDS = frozenset(Record.__struct_encode_fields__)
_KNOWN_TARGETS = frozenset(SloRecord.__struct_fields__)
_REQUIRED = ("timestamp", "input_length", "output_length")
_SHOWN_NAMES = 120
"""Characters of the names of an object's fields, in a complaint."""


class NativeParser:
    """Turns lines into records, and remembers the unknown fields that it met."""

    stamp_field = "timestamp"

    def __init__(
        self,
        classes: Container[str],
        class_names: str,
        hash_block_tokens: int = MOONCAKE_BLOCK_TOKENS,
    ) -> None:
        self.unknown_fields: set[str] = set()
        self._block_tokens = hash_block_tokens
        self._classes = classes
        self._class_names = class_names
        self._decode_strict = msgspec.json.Decoder(_StrictRecord).decode
        self._decode_lines = msgspec.json.Decoder(_StrictRecord).decode_lines
        self._decode_lenient = msgspec.json.Decoder(Record).decode

    def parse(self, line: bytes) -> Record:
        """The record on `line`; `RecordError` if there is none."""
        try:
            record: Record = self._decode_strict(line)
        except (ValueError, RecursionError):
            record = self._parse_unusual(line)
        self._check(record)
        return record

    def parse_all(self, lines: list[bytes]) -> list[Record] | None:
        """The records of lines that are not blank, all at once; None if any line is unusual."""
        text = b"\n".join(lines)
        # One object a line: none begins on a line and ends on another.
        if not text.startswith(b"{") or text.count(b"}\n{") != len(lines) - 1:
            return None
        try:
            records: list[Record] = list(self._decode_lines(text))
            for record in records:
                self._check(record)
        except (ValueError, RecursionError, RecordError):
            return None
        return records if len(records) == len(lines) else None

    def _parse_unusual(self, line: bytes) -> Record:
        """Slow path: a record with unknown fields, or a line to complain about."""
        try:
            record = self._decode_lenient(line)
            fields: dict[str, Any] = msgspec.json.decode(line)
        except (ValueError, RecursionError) as error:
            raise explain(line, error) from None
        self.unknown_fields |= fields.keys() - _KNOWN_FIELDS
        targets = (fields.get("slo") or {}).keys() - _KNOWN_TARGETS
        self.unknown_fields.update(f"slo.{target}" for target in targets)
        return record

    def _check(self, record: Record) -> None:
        name, limit, ids = record.class_name, record.max_tokens, record.hash_ids
        if name is None and limit is None and ids is None:
            return
        if name is not None and name not in self._classes:
            raise RecordError("class", f"expected one of {self._class_names}, got {shown(name)}")
        if limit is not None and limit < record.output_length:
            expected = f"expected max_tokens >= output_length {record.output_length}, got {limit}"
            raise RecordError("max_tokens", expected)
        if ids is not None:
            stated = record.hash_block_size is not None
            record.hash_block_size = record.hash_block_size or self._block_tokens
            check_hash_ids(record, "" if stated else OTHER_SIZE)


def check_hash_ids(record: Record, hint: str = "") -> None:
    """Raise RecordError unless there is one id per block; `hint` says how to mend the size."""
    block_tokens = record.hash_block_size or MOONCAKE_BLOCK_TOKENS
    ids, blocks = len(record.hash_ids or ()), -(-record.input_length // block_tokens)
    if ids != blocks:
        sizes = f"input_length {record.input_length} / hash_block_size {block_tokens}, rounded up"
        raise RecordError("hash_ids", f"expected {blocks} ids ({sizes}{hint}), got {ids}")


def explain(line: bytes, error: Exception) -> RecordError:
    """What is wrong with a line that msgspec refuses, in this package's words."""
    try:
        line.decode()
    except UnicodeDecodeError as unicode_error:
        return not_utf8(unicode_error)
    if isinstance(error, RecursionError):
        return RecordError("", "expected a JSON object, got one nested too deeply")
    try:
        value = json.loads(line, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return _malformed(line, error)
    if not isinstance(value, dict):
        return RecordError("", f"expected a JSON object, got {shown(value)}")
    return _wrong_field(value, str(error))


def _malformed(line: bytes, error: Exception) -> RecordError:
    found = re.search(r"\(byte (\d+)\)", str(error))
    if found is None:
        return RecordError("", f"expected a JSON object, got a broken one: {shown(line.decode())}")
    column = int(found[1]) + 1
    return RecordError("", f"expected a JSON object, got malformed JSON at column {column}")


def _wrong_field(value: dict[str, Any], message: str) -> RecordError:
    missing = missing_field(message)
    if missing:
        near = did_you_mean(missing, [name for name in value if name not in _EXPECTED])
        if value and not near and value.keys().isdisjoint(_REQUIRED):
            return _of_another_kind(value)
        return RecordError(missing, f"expected {_EXPECTED[missing]}, got nothing{near}")
    field = field_path(message) or _non_finite_field(value)
    if not field:
        return RecordError("", f"expected a JSON object, got a broken one: {message}")
    expected = _EXPECTED.get(field.partition("[")[0], "a string")
    return RecordError(field, f"expected {expected}, got {shown(value_at(value, field))}")


def _of_another_kind(value: dict[str, Any]) -> RecordError:
    """The fault of an object that has nothing of a request."""
    found = shown(", ".join(value), _SHOWN_NAMES)
    hint = CONVERSATIONS if "conversations" in value else OTHER_LOGS
    return RecordError("", f"expected {', '.join(_REQUIRED)} ({hint}), got {found}")


def _non_finite_field(value: dict[str, Any]) -> str:
    """Python reads NaN and Infinity, which are no JSON: the field that holds one."""
    slo = value.get("slo")
    targets = slo.items() if isinstance(slo, dict) else ()
    for name, item in [*value.items(), *((f"slo.{name}", target) for name, target in targets)]:
        for number in item if isinstance(item, list) else [item]:
            if isinstance(number, float) and not math.isfinite(number):
                return name
    return ""


def _parse_int(text: str) -> float:
    """An integer, or infinity for one too long for Python to convert."""
    return int(text) if len(text) < 100 else math.inf
