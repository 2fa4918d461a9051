"""The form of a `summary.json` that is read back: what of it readers rely on.

A file may have been written by another version, or by hand: keys that are missing, null or unknown
are passed over, but what is there must be of its kind, for pages and tables go further down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from superinfer.errors import InputError
from superinfer.metrics.meanings import GROUP, LATENCIES, REPLICA, RUN
from superinfer.metrics.statistics import STATISTICS
from superinfer.settings import is_number, shown_value

VERSION: Final = 1


def check_summary(summary: object, path: Path) -> None:
    """InputError for what is no summary, naming the first key that is not of its kind."""
    if not isinstance(summary, dict):
        raise InputError("expected a JSON object", file=str(path))
    version = summary.get("version", VERSION)
    if type(version) is not int or version != VERSION:
        raise _wrong(path, ("version",), str(VERSION), version)
    _check(summary, _SUMMARY, (), path)


# -- inside ---------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class _Kind:
    """A value that has nothing below it."""

    words: str
    fits: Callable[[Any], bool]
    needed: bool = False
    """Whether it must be there, and not null, where what holds it is."""


@dataclass(slots=True, frozen=True)
class _Every:
    """An object whose values, or a list whose items, are all of one form."""

    words: str
    holder: type
    form: _Form


_Form = _Kind | _Every | Mapping[str, "_Form"]
_Place = tuple[str | int, ...]


def _check(value: Any, form: _Form, place: _Place, path: Path, item: bool = False) -> None:
    """`item`: one of many, where null stands for nothing that could be missing."""
    if isinstance(form, _Kind):
        if not (form.fits(value) or (value is None and not form.needed)):
            raise _wrong(path, place, form.words, value)
    elif value is not None or item:
        words, holder = (form.words, form.holder) if isinstance(form, _Every) else _OBJECT
        if not isinstance(value, holder):
            raise _wrong(path, place, words, value)
        for key, found, below in _parts(value, form):
            _check(found, below, (*place, key), path, isinstance(form, _Every))


def _parts(value: Any, form: _Every | Mapping[str, _Form]) -> Iterator[tuple[Any, Any, _Form]]:
    """What is to be checked below a value: keys or places, what stands there, and its form."""
    if isinstance(form, _Every):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        yield from ((key, item, form.form) for key, item in items)
        return
    yield from ((key, value.get(key), below) for key, below in form.items())


def _wrong(path: Path, place: _Place, words: str, value: object) -> InputError:
    at = ".".join(map(str, place))
    return InputError(f"expected {words}, got {shown_value(value)}", file=str(path), field=at)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_window(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (0, 2) and all(map(is_number, value))


def _objects(form: _Form) -> _Every:
    return _Every("an object", dict, form)


def _list(form: _Form) -> _Every:
    return _Every("a list", list, form)


_OBJECT: Final = ("an object", dict)
_NUMBER: Final = _Kind("a number", is_number)
_THE_NUMBER: Final = _Kind("a number", is_number, needed=True)
_TEXT: Final = _Kind("a text", _is_text)
_THE_TEXT: Final = _Kind("a text", _is_text, needed=True)
_FLAG: Final = _Kind("true or false", lambda value: isinstance(value, bool))
_WINDOW: Final = _Kind("two numbers", _is_window)
_WORD_OR_NUMBER: Final = _Kind("a number or a text", lambda v: is_number(v) or _is_text(v))

_GROUP: Final[Mapping[str, _Form]] = {
    **dict.fromkeys(GROUP, _NUMBER),
    **{f"{each}_{key}_ms": _NUMBER for key in LATENCIES for each in STATISTICS},
    **dict.fromkeys(("kv_kl", "kv_perplexity_change"), _WORD_OR_NUMBER),
    "slo": _objects(_NUMBER),
}
_REPLICA: Final[Mapping[str, _Form]] = {
    **_GROUP,
    **dict.fromkeys((*RUN, *REPLICA), _NUMBER),
    "replica": _THE_NUMBER,
}
_LOAD: Final[Mapping[str, _Form]] = {
    **dict.fromkeys(("model", "sessions"), _TEXT),
    **dict.fromkeys(("concurrency", "duration_s"), _NUMBER),
    **dict.fromkeys(("backlog", "in_flight"), _objects(_NUMBER)),
    "window_s": _WINDOW,
}
_LEFT: Final[Mapping[str, _Form]] = {
    "what": _THE_TEXT,
    **dict.fromkeys(("limit", "largest", "share"), _THE_NUMBER),
}
_TRUST: Final[Mapping[str, _Form]] = {
    **dict.fromkeys(("profile", "source", "host_overhead_origin"), _TEXT),
    **dict.fromkeys(("measured_share", "extrapolated_share", "family_error"), _NUMBER),
    "left_range": _list(_LEFT),
    "assumed": _objects(_TEXT),
}
_SETTINGS: Final[Mapping[str, _Form]] = {
    **dict.fromkeys(("trace", "scheduler", "memory", "model", "device", "router"), _TEXT),
    **dict.fromkeys(("tp", "seed", "replicas", "duration_s"), _NUMBER),
    "window_s": _WINDOW,
}
_RUN: Final[Mapping[str, _Form]] = {
    "run": _SETTINGS,
    **dict.fromkeys(("hybrid", "simulated"), _FLAG),
    "own_memory": _list(_THE_TEXT),
    "versions": _objects(_TEXT),
}
_SUMMARY: Final[Mapping[str, _Form]] = {
    **_GROUP,
    **dict.fromkeys(RUN, _NUMBER),
    "classes": _objects(_GROUP),
    "tenants": _objects(_GROUP),
    "replicas": _list(_REPLICA),
    "counters": _objects(_NUMBER),
    "notes": _list(_THE_TEXT),
    "load": _LOAD,
    "trust": _TRUST,
    "run": _RUN,
}
