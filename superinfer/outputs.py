"""Files that a command writes: whether it can, asked before the work, and whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from superinfer.errors import InputError, SuperInferError


def check_writable(
    path: Path, *, file: bool = False, inputs: Iterable[str | Path | None] = ()
) -> None:
    """Raise InputError unless a result can be written at `path`: to be asked before the work that
    leads to it begins. Nothing is left behind. `file`: it may take the place of another file, but
    not of `inputs`, from which it is made; else it is a folder, which may be there. Folders above
    it need not exist.
    """
    _check_name(path)
    try:
        _check_kind(path, file=file)
        _check_inputs(path, inputs)
        if file and path.exists():
            with path.open("a"):
                pass
        if not _is_stream(path):
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            probe = folder / staged_name(path)
            probe.touch(exist_ok=False)
            probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write here: {error.strerror}", file=str(path)) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and move it to `path` only once all is written.

    Folders above it are made. A link stays one, and a device or a pipe is written to as it is.
    Raises SuperInferError, in one line, where the file system refuses.
    """
    with one_line_errors(path):
        if _is_stream(path):
            yield path
            return
        target = path.resolve()
        staged = target.with_name(staged_name(target))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield staged
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into one line for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        raise SuperInferError(f"cannot write {path}: {reason}") from error


def staged_name(path: Path) -> str:
    """A name beside `path` that nothing else has, with its suffix."""
    return f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}"


def _check_kind(path: Path, *, file: bool) -> None:
    if file and path.is_dir():
        raise InputError("expected a file, got a folder", file=str(path))
    if not file and path.exists() and not path.is_dir():
        raise InputError("expected a folder, got a file", file=str(path))


def _check_name(path: Path) -> None:
    """Tables are written by a library that takes no other names. `-` is what commands that convert
    traces call standard output; who means that elsewhere is not to get a file of that name.
    """
    if str(path) == "-":
        raise InputError("expected a name, for only traces go to standard output", file="-")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError("expected a name in UTF-8", file=ascii(str(path))[1:-1]) from None


def _check_inputs(path: Path, inputs: Iterable[str | Path | None]) -> None:
    for each in inputs:
        if each is not None and path.is_file() and Path(each).is_file() and path.samefile(each):
            raise InputError("expected another file than the one that is read", file=str(path))


def _is_stream(path: Path) -> bool:
    """True for a device, a pipe or a socket, which no file may replace."""
    return path.exists() and not path.is_file() and not path.is_dir()
