"""Spans of OpenTelemetry: the JSON that its Collector's file exporter writes (`resourceSpans`).

The format is OTLP's JSON encoding of `TracesData`; a file has one such object per line, or is one.
A span becomes a flat row: its fields, its `attributes` by key, and those of its resource as
`resource.attributes`. Integers of 64 bits are text in this encoding and stay so. Lists and maps
among the attributes become lists and objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from traces.source import RecordError

_ROOT: Final = "resourceSpans"
_SCOPES: Final = "scopeSpans"
_SPANS: Final = "spans"


def has_spans(found: Any) -> bool:
    """Whether a JSON value is an export of spans."""
    return isinstance(found, dict) and _ROOT in found


def spans_of(found: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | RecordError]:
    """A row per span in the order of the export, or what is wrong with a part of it."""
    for resource in _objects(found, _ROOT):
        if isinstance(resource, RecordError):
            yield resource
            continue
        outer = {"resource": {"attributes": _attributes(resource.get("resource"))}}
        for scope in _objects(resource, _SCOPES):
            if isinstance(scope, RecordError):
                yield scope
                continue
            for span in _objects(scope, _SPANS):
                yield span if isinstance(span, RecordError) else _row(span, outer)


# -- inside ---------------------------------------------------------------------------------------


def _objects(found: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any] | RecordError]:
    """The objects in a list, which is left out where it is empty."""
    values = found.get(name) or []
    if not isinstance(values, list):
        yield RecordError(name, "expected a list of objects")
        return
    for value in values:
        yield value if isinstance(value, dict) else RecordError(name, "expected a list of objects")


def _row(span: Mapping[str, Any], outer: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**span, "attributes": _attributes(span), **outer}


def _attributes(owner: Any) -> dict[str, Any]:
    """By key; none where the owner is no object or has none."""
    return _by_key(owner.get("attributes") if isinstance(owner, dict) else None)


def _by_key(pairs: Any) -> dict[str, Any]:
    if not isinstance(pairs, list):
        return {}
    return {
        str(pair["key"]): _plain(pair.get("value"))
        for pair in pairs
        if isinstance(pair, dict) and "key" in pair
    }


def _plain(value: Any) -> Any:
    """What an `AnyValue`, as `{"intValue": "812"}`, holds."""
    if not (isinstance(value, dict) and len(value) == 1):
        return value
    kind, inner = next(iter(value.items()))
    values = (inner.get("values") or []) if isinstance(inner, dict) else None
    if kind == "kvlistValue" and isinstance(values, list):
        return _by_key(values)
    if kind == "arrayValue" and isinstance(values, list):
        return [_plain(each) for each in values]
    return inner
