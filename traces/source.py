"""The bytes of a trace file as lines: plain or gzip, from a path or from standard input."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

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
MOST_LINE_BYTES: Final = 64 << 20
"""Of one request, with millions of ids. What never ends a line, as /dev/zero, is no trace."""
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


def open_source(
    path: str | Path, is_document: Callable[[bytes], bool], *, keep_partial: bool = False
) -> Source:
    """Read `path` (`-`: standard input); a cut gzip is an error unless `keep_partial`, and so is a
    line of more than `MOST_LINE_BYTES` unless the file `is_document` by its first bytes.
    """
    file = file_name(path)
    data, warnings = _read_content(path, file, is_document, keep_partial)
    if not data or data.isspace():
        raise InputError("expected at least one request, got an empty file", file=file)
    head = data[:_HEAD_BYTES]
    return Source(file, trace_name(path), data.split(b"\n"), warnings, head)


def read_content(path: str | Path) -> bytes:
    """All of a file, decompressed, without a byte order mark; else `InputError`."""
    return _read_content(path, file_name(path), lambda head: True, False)[0]


def file_name(path: str | Path) -> str:
    """How errors call a file."""
    return "<stdin>" if str(path) == "-" else str(path)


def _read_content(
    path: str | Path, file: str, is_document: Callable[[bytes], bool], keep_partial: bool
) -> tuple[bytes, list[str]]:
    # What is compressed has lines only when it is not any more.
    content = _Content(file, lambda head: head.startswith(GZIP_MAGIC) or is_document(head))
    _read_bytes(path, file, content.add)
    data = content.joined()
    warnings: list[str] = []
    if data.startswith(GZIP_MAGIC):
        content = _Content(file, is_document)
        damage = _decompress(data, content.add)
        data = content.joined()
        if damage:
            warnings = _damaged(file, data.count(b"\n") + 1, damage, keep_partial)
            data = _whole_lines(data)
    for magic, kind in _NO_TEXT.items():
        if data.startswith(magic):
            raise InputError(f"expected text, plain or by gzip, got {kind}", file=file)
    return data.removeprefix(_UTF8_BOM), warnings


class _Content:
    """The bytes of a file as they come; InputError as soon as a line is too long."""

    def __init__(self, file: str, is_document: Callable[[bytes], bool]) -> None:
        self._file, self._is_document = file, is_document
        self._head = b""
        self._chunks: list[bytes] = []
        self._line, self._line_bytes = 1, 0

    def add(self, chunk: bytes) -> None:
        """Take what follows."""
        self._chunks.append(chunk)
        self._head = self._head or chunk.removeprefix(_UTF8_BOM)[:_HEAD_BYTES]
        end = chunk.find(b"\n")
        self._line_bytes += len(chunk) if end < 0 else end
        if self._line_bytes > MOST_LINE_BYTES and not self._is_document(self._head):
            expected = f"expected lines of at most {MOST_LINE_BYTES >> 20} MiB, got a longer one"
            raise InputError(expected, file=self._file, line=self._line)
        if end >= 0:
            self._line += chunk.count(b"\n")
            self._line_bytes = len(chunk) - chunk.rfind(b"\n") - 1

    def joined(self) -> bytes:
        """All of them."""
        return b"".join(self._chunks)


def _read_bytes(path: str | Path, file: str, take: Callable[[bytes], None]) -> None:
    if str(path) == "-":
        _read_stream(sys.stdin.buffer, take)
        return
    try:
        with Path(path).open("rb") as stream:
            _read_stream(stream, take)
    except FileNotFoundError:
        raise InputError("expected a trace file, got no such file", file=file) from None
    except IsADirectoryError:
        raise InputError("expected a trace file, got a directory", file=file) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"expected a readable file, got: {reason}", file=file) from None


def _read_stream(stream: BinaryIO, take: Callable[[bytes], None]) -> None:
    while chunk := stream.read(_CHUNK_BYTES):
        take(chunk)


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
    damage = _decompress(data, parts.append)
    return b"".join(parts), damage


def _decompress(data: bytes, take: Callable[[bytes], None]) -> str:
    position = 0
    while position < len(data):
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        while position < len(data) and not member.eof:
            chunk = data[position : position + _CHUNK_BYTES]
            try:
                text = member.decompress(chunk)
            except zlib.error:
                return "a damaged one"
            take(text)
            position += len(chunk) - len(member.unused_data)
        if not member.eof:
            return "a truncated one"
        position = _skip_zeros(data, position)
    return ""


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
