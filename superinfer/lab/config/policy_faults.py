"""What a policy from outside this package does wrong, in one line that names its file."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from superinfer.errors import PlanError, PolicyError, StuckError, SuperInferError

_OURS: Final = ("superinfer", "sim", "executor", "traces")
_IMPORTS: Final = Path(__file__).with_name("policies.py")
"""Where policies are imported: no place of a fault."""

_ANSWERS: Final = {
    "scheduler": ("next_wakeup", "largest_step"),
    "memory": ("fate", "victim", "index"),
    "router": ("route",),
}
"""Methods whose answers are checked; what is wrong with one begins with its name."""


@contextmanager
def faults_named(policies: Mapping[str, str]) -> Iterator[None]:
    """Say whose fault it is when a policy from outside raises, or is refused what it asks for.

    `policies` are names by section (`scheduler`, `memory`, `router`); those that come with us are
    passed over, and where no others are left every error is raised as it is. What a policy raises
    is a PolicyError, with the original as its cause; errors of ours keep their types.
    """
    outside = {section: name for section, name in policies.items() if ":" in name}
    try:
        yield
    except (PlanError, PolicyError, StuckError) as error:
        if not outside or _is_named(outside, error):
            raise
        raise type(error)(f"{_culprit(outside, error)}: {error}") from error
    except SuperInferError:
        raise  # of the machine or of the input
    except (Exception, SystemExit) as error:  # an exit would end all other runs, too
        if not outside or not _theirs(outside, error):
            raise
        reason = " ".join(str(error).split())
        described = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise PolicyError(f"{_culprit(outside, error)}: {described}") from error


def place_of(error: BaseException, files: set[str] | None = None) -> str:
    """Where an error was raised, as `file.py:12`, in the innermost of these files; without them in
    the innermost that is neither Python's nor ours nor a library's, or else in any that is not
    Python's machinery for imports. Empty if there is no such place.
    """
    kinds = (_is_own, _is_source) if files is None else (files.__contains__,)
    for is_known in kinds:
        for frame in _frames(error):
            if is_known(frame.filename):
                return f"{shown(frame.filename)}:{frame.lineno}"
    return ""


def shown(file: str) -> str:
    """A path as a reader knows it: below the current folder without that."""
    path = Path(file)
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


# -- inside ---------------------------------------------------------------------------------------


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """Frames that an error passed through, innermost first. SimPy raises a copy of what a process
    raised, with the original as its cause.
    """
    if error.__cause__ is not None:
        yield from _frames(error.__cause__)
    yield from reversed(traceback.extract_tb(error.__traceback__))


def _is_named(outside: Mapping[str, str], error: Exception) -> bool:
    """Whether the policy was named where it was raised, as while an engine of a run is made."""
    return str(error).startswith(
        tuple(f"{section} {name!r} (" for section, name in outside.items())
    )


def _theirs(outside: Mapping[str, str], error: BaseException) -> bool:
    """False for what has nothing to do with a policy: a full disk, no memory, an end that was asked
    for, unless it was raised in the policy's file.
    """
    if not isinstance(error, OSError | MemoryError | SystemExit):
        return True
    return any(place_of(error, _files(name)) for name in outside.values())


def _culprit(outside: Mapping[str, str], error: BaseException) -> str:
    """The policy with its file, and the line if the error passed through it; all that it may have
    been where it passed through none.
    """
    suspects = _suspects(outside, str(error))
    for section, name in suspects.items():
        place = place_of(error, _files(name))
        if place:
            return f"{section} {name!r} ({place})"
    return " or ".join(f"{section} {name!r} ({_file(name)})" for section, name in suspects.items())


def _suspects(outside: Mapping[str, str], message: str) -> Mapping[str, str]:
    """Those that a message is about: of whose method it tells, or of whose class."""
    method, cls = message.partition(":")[0], message.partition(".")[0]
    told = {
        section: name
        for section, name in outside.items()
        if method in _ANSWERS.get(section, ()) or cls == name.partition(":")[2]
    }
    return told or outside


def _file(name: str) -> str:
    module = sys.modules.get(name.partition(":")[0])
    return shown(getattr(module, "__file__", None) or name.partition(":")[0])


def _files(name: str) -> set[str]:
    """Source files of a policy's class and of what it inherits from outside."""
    module, _, attribute = name.partition(":")
    cls = getattr(sys.modules.get(module), attribute, None)
    bases = getattr(cls, "__mro__", ())
    modules = {module, *(base.__module__ for base in bases)}
    theirs = (each for each in modules if each.partition(".")[0] not in (*_OURS, "builtins"))
    found = (getattr(sys.modules.get(each), "__file__", None) for each in theirs)
    return {file for file in found if file}


def _is_source(file: str) -> bool:
    machinery = file.startswith("<") or f"{os.sep}importlib{os.sep}" in file
    return not machinery and Path(file) != _IMPORTS


def _is_own(file: str) -> bool:
    """Whether it may be the user's own."""
    library = f"{os.sep}site-packages{os.sep}" in file
    shipped = (Path(os.__file__).parent, _IMPORTS.parents[2])
    return _is_source(file) and not library and not any(map(Path(file).is_relative_to, shipped))
