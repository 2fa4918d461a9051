"""Files of a data set that is a folder, or a tar archive as it is often published."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from superinfer.errors import InputError
from traces.source import GZIP_MAGIC, gunzip, read_content

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257


@dataclass(slots=True, frozen=True)
class Member:
    """One file: how errors call it, its name without folders, and its bytes."""

    place: str
    name: str
    data: bytes


def is_tar(data: bytes) -> bool:
    """True for a tar archive, after decompression."""
    return data[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC


def members(path: Path, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """The files whose names end in one of `suffixes`, in order of name, hidden ones left out.

    Of a folder that holds none itself, those in its tar archives; `path` may be an archive too.
    Raises `InputError` for what cannot be read.
    """
    for file in files_read(path, suffixes):
        if path.is_dir() and _wanted(file.name, suffixes):
            yield Member(str(file), file.name, read_content(file))
        else:
            yield from tar_members(str(file), read_content(file), suffixes)


def files_read(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files into which `members` looks."""
    if not path.is_dir():
        return [path]
    return _files(path, suffixes) or _files(path, ARCHIVE_SUFFIXES)


def tar_members(place: str, data: bytes, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """The files in a decompressed archive, in order of name; `place` is what errors call it."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for info in archive:
                stream = archive.extractfile(info) if _wanted(info.name, suffixes) else None
                if stream is not None:
                    found[info.name] = stream.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"expected a complete tar archive, got: {error}", file=place) from None
    for name, content in sorted(found.items()):
        inside = f"{place}/{name.removeprefix('./')}"
        yield Member(inside, PurePosixPath(name).name, _decompressed(inside, content))


def _decompressed(place: str, data: bytes) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        return data
    content, damage = gunzip(data)
    if damage:
        raise InputError(f"expected a complete gzip stream, got {damage}", file=place)
    return content


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.endswith(suffixes) and not PurePosixPath(name).name.startswith(".")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        reason = f"expected a readable folder, got: {error.strerror}"
        raise InputError(reason, file=str(folder)) from None
    return [file for file in inside if _wanted(file.name, suffixes) and file.is_file()]
