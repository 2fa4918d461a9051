"""The bytes of a trace file as lines: plain or gzip, from a path or from standard input."""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from superinfer.errors import InputError

OTHER_LOGS = "superinfer-sim traces from-log reads other logs"
"""For who brings something else than a trace."""
CONVERSATIONS = 'conversations are lengths = { sharegpt = "FILE" } of a specification'
"""For who brings texts without times."""
GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_NO_TEXT = {
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xfd7zXZ\x00": "an xz file",
    b"BZh": "a bzip2 file",
    b"PAR1": 'a Parquet file (pandas.read_parquet("FILE").to_csv("OUT", index=False) makes a CSV)',
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""What logs come in that is not read, by its first bytes."""
_GZIP_WINDOW_BITS = 31
_CHUNK_BYTES = 1 << 16
_HEAD_BYTES = 1 << 16
_SUFFIXES = (".gz", ".tgz", ".tar", ".jsonl", ".json", ".csv")


class RecordError(Exception):
    """One line that is no request: which field, and what was expected there."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(expected)
        self.field, self.expected = field, expected


@dataclass(slots=True)
class Source:
    """The lines of one trace, without line ends; line `n` of the file is `lines[n - 1]`."""

    file: str
    name: str
    lines: list[bytes]
    warnings: list[str] = field(default_factory=list)
    head: bytes = b""
    """The first bytes, decompressed: enough to tell formats of many lines from one another."""

    def error(self, line: int, bad: RecordError) -> InputError:
        """The user's error for a bad line (counted from 1; 0 for the file as a whole)."""
        return InputError(bad.expected, file=self.file, line=line, field=bad.field)


def open_source(path: str | Path, *, keep_partial: bool = False) -> Source:
    """Read `path` (`-`: standard input); a cut gzip is an error unless `keep_partial`."""
    file = file_name(path)
    data, warnings = _read_content(path, file, keep_partial)
    if not data or data.isspace():
        raise InputError("expected at least one request, got an empty file", file=file)
    head = data[:_HEAD_BYTES]
    return Source(file, trace_name(path), data.split(b"\n"), warnings, head)


def read_content(path: str | Path) -> bytes:
    """All of a file, decompressed, without a byte order mark; else `InputError`."""
    return _read_content(path, file_name(path), False)[0]


def file_name(path: str | Path) -> str:
    """How errors call a file."""
    return "<stdin>" if str(path) == "-" else str(path)


def _read_content(path: str | Path, file: str, keep_partial: bool) -> tuple[bytes, list[str]]:
    data = _read_bytes(path, file)
    warnings: list[str] = []
    if data.startswith(GZIP_MAGIC):
        data, damage = gunzip(data)
        if damage:
            warnings = _damaged(file, data.count(b"\n") + 1, damage, keep_partial)
            data = _whole_lines(data)
    for magic, kind in _NO_TEXT.items():
        if data.startswith(magic):
            raise InputError(f"expected text, plain or by gzip, got {kind}", file=file)
    return data.removeprefix(_UTF8_BOM), warnings


def _read_bytes(path: str | Path, file: str) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError("expected a trace file, got no such file", file=file) from None
    except IsADirectoryError:
        raise InputError("expected a trace file, got a directory", file=file) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"expected a readable file, got: {reason}", file=file) from None


def trace_name(path: str | Path) -> str:
    """Name of the trace in a file: the file's without its usual suffixes."""
    if str(path) == "-":
        return "stdin"
    name = Path(path).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def gunzip(data: bytes) -> tuple[bytes, str]:
    """All that can be decompressed, and what is wrong with the rest, if anything."""
    parts: list[bytes] = []
    position = 0
    while position < len(data):
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        while position < len(data) and not member.eof:
            chunk = data[position : position + _CHUNK_BYTES]
            try:
                parts.append(member.decompress(chunk))
            except zlib.error:
                return b"".join(parts), "a damaged one"
            position += len(chunk) - len(member.unused_data)
        if not member.eof:
            return b"".join(parts), "a truncated one"
        position = _skip_zeros(data, position)
    return b"".join(parts), ""


def _skip_zeros(data: bytes, position: int) -> int:
    """Where the next gzip member begins: zeros may fill up a block of the medium."""
    while position < len(data) and data[position] == 0:
        position += 1
    return position


def _damaged(file: str, line: int, damage: str, keep_partial: bool) -> list[str]:
    if not keep_partial:
        raise InputError(f"expected a complete gzip stream, got {damage}", file=file, line=line)
    return [f"{file}:{line}: expected a complete gzip stream, got {damage}: read up to here"]


def _whole_lines(data: bytes) -> bytes:
    """`data` without a last line that was cut off."""
    if data.rstrip().endswith(b"}"):
        return data
    return data[: data.rfind(b"\n") + 1]
