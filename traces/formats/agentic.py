"""Recorded sessions of coding agents: a folder of JSON files, one session each.

The format is that of github.com/callanjfox/kv-cache-tester (`docs/trace_replay_tester.md`). What
its documentation leaves open was found in 89 sessions (6,110 requests) of its commit 94f6046:

* `hash_ids` has one id per *full* block: `in // block_size`. A prompt's last, partial block gets
  an id of its own that matches nothing, so that every token is covered; ids for
  `ceil(in / block_size)` blocks are taken as they are.
* A subagent's `t` is its *end*: `t - duration_ms` lies 0.2 to 1.1 s after the end of the turn that
  called it, and the parent's next turn comes 6 to 216 s after `t`. The times of its requests count
  from its start. It becomes a chain of its own, whose first turn comes at its recorded time; the
  parent's recorded think time covers the wait for it.
* Times are rounded to seconds. `think_time` counts from the end of the last turn whose `api_time`
  is known, which is the turn before only if that one has it; for the others see `_think_s`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from superinfer.errors import ConfigError, InputError
from traces.fields import LENGTH_EXPECTED, field_error
from traces.formats.archive import Member, files_read, is_tar, members, tar_members
from traces.formats.native import Length, Number, Record
from traces.source import RecordError, Source, trace_name

SESSION_GAP_S = 60.0
"""Sessions begin so long after one another, where nothing else is asked for: every file starts at
zero, and 89 agents that all begin in the same second are no load that anybody has."""
API_S, API_S_PER_TOKEN = 3.1, 0.0158
"""A turn without `api_time` took so long, and so much more per token of its answer: least squares
over the 5,407 turns of the sessions above that have it, mean absolute error 2.4 s."""

_MAX_GAP_S = 10**6
SUFFIXES = (".json", ".json.gz")
_SESSION = re.compile(rb'^\s*\{.*"requests"\s*:\s*\[', re.DOTALL)
_T = TypeVar("_T")

# In milliseconds, after a session's begin, such a time is still a stamp of a native record.
Seconds = Annotated[float, Meta(ge=0, le=10**12)]
HashId = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Session(Struct):
    requests: list[Raw]
    block_size: Length
    hash_id_scope: Literal["local", "global"] = "local"
    id: Any = None
    models: Any = None
    tool_tokens: Any = None
    system_tokens: Any = None
    totals: Any = None


class _Kind(Struct):
    type: Literal["n", "s", "subagent"]


class _Turn(Struct, gc=False):
    t: Seconds
    input_tokens: Length = msgspec.field(name="in")
    output_tokens: Length = msgspec.field(name="out")
    hash_ids: tuple[HashId, ...] | None = None
    api_time: Seconds | None = None
    think_time: Seconds | None = None
    type: Any = None
    model: Any = None
    input_types: Any = None
    output_types: Any = None
    stop: Any = None
    ttft: Any = None


class _Subagent(Struct):
    t: Seconds
    duration_ms: Number
    requests: list[Raw]
    type: Any = None
    agent_id: Any = None
    models: Any = None
    status: Any = None
    subagent_type: Any = None
    system_tokens: Any = None
    tool_tokens: Any = None
    tool_use_count: Any = None
    total_tokens: Any = None


_KNOWN_FIELDS: dict[type, frozenset[str]] = {
    kind: frozenset(kind.__struct_encode_fields__) for kind in (_Session, _Turn, _Subagent)
}
_SECONDS = "a number from 0 to 10**12 (s)"
_EXPECTED = {
    "": "an object",
    "requests": "a list of requests",
    "block_size": LENGTH_EXPECTED,
    "hash_id_scope": '"local" or "global"',
    "type": '"n", "s" or "subagent"',
    "t": _SECONDS,
    "in": LENGTH_EXPECTED,
    "out": LENGTH_EXPECTED,
    "hash_ids": "a list of integers >= 0",
    "api_time": _SECONDS,
    "think_time": _SECONDS,
    "duration_ms": "a number from 0 to 2**53 (ms)",
}


@dataclass(slots=True)
class Sessions:
    """The requests of a set of sessions, in order of time."""

    records: list[Record] = field(default_factory=list)
    bad: int = 0
    """Bad requests, and sessions that cannot be read at all."""
    unknown_fields: set[str] = field(default_factory=set)


def session_files(path: str | Path) -> Iterator[Member] | None:
    """The session files of a folder or of the tar archives in it; `None` if it has neither."""
    folder = Path(path)
    # Unlike `Path.is_dir`, this is quiet about impossible paths.
    if str(path) == "-" or not os.path.isdir(path) or not files_read(folder, SUFFIXES):
        return None
    return members(folder, SUFFIXES)


def holds_sessions(head: bytes) -> bool:
    """Whether a file that begins so is one session or an archive of them."""
    return is_tar(head) or _SESSION.match(head) is not None


def sessions_in(source: Source) -> Iterator[Member] | None:
    """The one session that a file is, or those that an archive holds; `None` of another trace."""
    if is_tar(source.head):
        return tar_members(source.file, b"\n".join(source.lines), SUFFIXES)
    if _SESSION.match(source.head):
        return iter([Member(source.file, source.name, b"\n".join(source.lines))])
    return None


def read_sessions(files: Iterable[Member], *, skip_bad: bool, session_gap_s: float) -> Sessions:
    """The records of session files, merged by time.

    Session k (from 0, in the order of `files`) begins at k x `session_gap_s`, and a record's stamp
    is its session's begin plus its recorded time. `session_id` names the chain (the file; for a
    subagent also the number of its entry), `delay_ms` is the think time since the end of the turn
    before in the chain, and `namespace` is the session where its hash ids are local. Raises
    `InputError` at the first fault; `skip_bad` leaves bad requests and broken files out.
    """
    if not 0 <= session_gap_s <= _MAX_GAP_S:
        raise ConfigError(f"session_gap_s: expected a number from 0 to 10**6, got {session_gap_s}")
    result = Sessions()
    reader = _Reader(result, skip_bad)
    for member in files:
        reader.read(member, session_gap_s)
    result.records.sort(key=lambda record: record.timestamp)
    return result


@dataclass(slots=True)
class _Chain:
    """Entries that follow one another: a session's own, or those of one of its subagents."""

    entries: list[Raw]
    start_s: float
    session_id: str
    place: str
    """Field of the file that holds the entries."""


@dataclass(slots=True)
class _Scope:
    """What the requests of one session file share."""

    namespace: str
    block_tokens: int
    ids: dict[int, int] = field(default_factory=dict)
    """Equal ids as one object: a session repeats its ids in every turn."""


class _Reader:
    """Reads session after session into `result`."""

    def __init__(self, result: Sessions, skip_bad: bool) -> None:
        self._result = result
        self._skip_bad = skip_bad
        self._started = 0
        self._names: set[str] = set()
        self._tails = itertools.count(-1, -1)
        """Ids of partial last blocks: those of the files are never negative."""

    def read(self, member: Member, session_gap_s: float) -> None:
        """Add the requests of one file."""
        try:
            session = self._decode(member.data, _Session, "")
        except RecordError as bad:
            self._refuse(member, bad)
            return
        name = self._unique(trace_name(member.name))
        scope = _Scope(name if session.hash_id_scope == "local" else "", session.block_size)
        start_s = self._started * session_gap_s
        self._started += 1
        # A list that grows while it is walked: subagents are found inside of chains.
        chains = [_Chain(session.requests, start_s, name, "requests")]
        for chain in chains:
            self._read_chain(member, chain, scope, chains)

    def _read_chain(
        self, member: Member, chain: _Chain, scope: _Scope, chains: list[_Chain]
    ) -> None:
        turns: list[tuple[str, _Turn]] = []
        for number, raw in enumerate(chain.entries, 1):
            place, name = f"{chain.place}[{number - 1}]", f"{chain.session_id}/{number}"
            try:
                if self._decode(raw, _Kind, place).type == "subagent":
                    chains.append(self._subagent(raw, place, name, chain.start_s))
                else:
                    turns.append((name, self._turn(raw, place, scope.block_tokens)))
            except RecordError as bad:
                self._refuse(member, bad)
        turns.sort(key=lambda named: named[1].t)
        before: _Turn | None = None
        for name, turn in turns:
            self._result.records.append(self._record(name, turn, before, chain, scope))
            before = turn

    def _turn(self, raw: Raw, place: str, block_tokens: int) -> _Turn:
        turn = self._decode(raw, _Turn, place)
        if turn.hash_ids is not None:
            full = turn.input_tokens // block_tokens
            blocks = -(-turn.input_tokens // block_tokens)
            if len(turn.hash_ids) not in (full, blocks):
                wanted = (
                    f"{full} ids (in {turn.input_tokens} / {block_tokens}), or one more for a rest"
                )
                got = len(turn.hash_ids)
                raise RecordError(f"{place}.hash_ids", f"expected {wanted}, got {got}")
        return turn

    def _subagent(self, raw: Raw, place: str, name: str, start_s: float) -> _Chain:
        entry = self._decode(raw, _Subagent, place)
        began_s = max(0.0, entry.t - entry.duration_ms / 1000)
        return _Chain(entry.requests, start_s + began_s, name, f"{place}.requests")

    def _record(
        self, name: str, turn: _Turn, before: _Turn | None, chain: _Chain, scope: _Scope
    ) -> Record:
        return Record(
            timestamp=1000 * (chain.start_s + turn.t),
            input_length=turn.input_tokens,
            output_length=turn.output_tokens,
            session_id=chain.session_id,
            delay_ms=None if before is None else 1000 * _think_s(before, turn),
            request_id=name,
            namespace=scope.namespace,
            hash_block_size=None if turn.hash_ids is None else scope.block_tokens,
            hash_ids=None if turn.hash_ids is None else self._covering_ids(turn, scope),
        )

    def _covering_ids(self, turn: _Turn, scope: _Scope) -> tuple[int, ...]:
        """The recorded ids, and one of its own for a last block that has none."""
        recorded = turn.hash_ids or ()
        shared = tuple(map(scope.ids.setdefault, recorded, recorded))
        if len(shared) * scope.block_tokens >= turn.input_tokens:
            return shared
        return (*shared, next(self._tails))

    def _decode(self, data: bytes | Raw, kind: type[_T], place: str) -> _T:
        """`data` as a `kind`; the fields that it should not have are remembered."""
        try:
            value = msgspec.json.decode(data, type=kind)
            if kind in _KNOWN_FIELDS:
                fields = msgspec.json.decode(data, type=dict[str, Raw]).keys()
                self._result.unknown_fields |= fields - _KNOWN_FIELDS[kind]
        except (ValueError, RecursionError) as error:
            bad = field_error(bytes(data), error, _EXPECTED)
            where = ".".join(part for part in (place, bad.field) if part)
            raise RecordError(where, bad.expected) from None
        return value

    def _refuse(self, member: Member, bad: RecordError) -> None:
        if not self._skip_bad:
            raise InputError(bad.expected, file=member.place, field=bad.field)
        self._result.bad += 1

    def _unique(self, name: str) -> str:
        unique = unused_name(name, self._names)
        self._names.add(unique)
        return unique


def unused_name(name: str, taken: Container[str]) -> str:
    """`name`, or else the first of `name`-2, `name`-3 ... that is not taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain((name,), numbered) if free not in taken)


def _think_s(before: _Turn, turn: _Turn) -> float:
    """Time from the end of the turn before: recorded, or else its gap less what that turn took."""
    if before.api_time is not None and turn.think_time is not None:
        return turn.think_time
    took_s = before.api_time
    if took_s is None:
        took_s = API_S + API_S_PER_TOKEN * before.output_tokens
    return max(0.0, turn.t - before.t - took_s)
