"""Merging traces into one workload."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal

from superinfer.errors import ConfigError
from superinfer.request import DEFAULT_CLASS, Request, SLOClass
from superinfer.slo_classes import PRESETS
from traces.formats.agentic import unused_name
from traces.readers import read_trace
from traces.resolver import covering_limit
from traces.workload import Workload

Source = tuple[str, str | None]
"""Path of a trace, and the class that all of its requests get; None: the class of each record."""


def parse_sources(
    args: Sequence[str], classes: Mapping[str, SLOClass] | None = None
) -> list[Source]:
    """Sources from arguments `PATH` or `PATH:CLASS`, in their order.

    An argument is divided at its last colon if a class of `classes` (default: the presets) follows;
    otherwise it must be the path of something that exists. Raises `ConfigError`.
    """
    known = _with_default(PRESETS if classes is None else classes)
    return [_parse_source(arg, known) for arg in args]


def mix(
    sources: Sequence[Source],
    *,
    classes: Mapping[str, SLOClass] | None = None,
    skip_bad: bool = False,
    spread: bool = False,
    limit: int | None = None,
    align: bool = False,
) -> Workload:
    """Read traces and merge them by arrival; at equal times the earlier source comes first.

    Stamps are kept as they are, so that a source may begin later than another; with `align` the
    first request of each arrives at 0. A source with a class is read as if each of its records had
    that class: its targets (a record's own `slo` still overrides them) and its answer limit.

    A source's label is its trace's name (`-2`, `-3` ... added where names repeat). Every request's
    namespace is `label`, or `label/own` if it has one of its own, so prompts of different sources
    never match. If any request id occurs in two sources, all become `label/id`; session ids go the
    same way. `limit` keeps the first so many requests of the mixture; the other options are those
    of `read_trace`, source by source. Raises `InputError` or `ConfigError`.
    """
    known = _with_default(PRESETS if classes is None else classes)
    if not sources:
        raise ConfigError("sources: expected at least one trace, got none")
    if sum(path == "-" for path, _ in sources) > 1:
        raise ConfigError("sources: expected standard input (-) at most once")
    parts = []
    for path, class_name in sources:
        chosen = _classes_for(class_name, known)
        parts.append(
            read_trace(path, classes=chosen, skip_bad=skip_bad, spread=spread, limit=limit)
        )
    return _merged(parts, limit, align)


def _with_default(classes: Mapping[str, SLOClass]) -> dict[str, SLOClass]:
    return {"default": DEFAULT_CLASS, **classes}


def _parse_source(arg: str, classes: Collection[str]) -> Source:
    path, colon, name = arg.rpartition(":")
    if colon and path and name in classes:
        return path, name
    if colon and not os.path.exists(arg):
        listed = ", ".join(sorted(classes))
        raise ConfigError(f"{arg}: expected PATH or PATH:CLASS with a class of {listed}")
    return arg, None


def _classes_for(class_name: str | None, classes: Mapping[str, SLOClass]) -> Mapping[str, SLOClass]:
    """The classes as one source sees them: with a class given, every name stands for it."""
    if class_name is None:
        return classes
    if class_name not in classes:
        listed = ", ".join(sorted(classes))
        raise ConfigError(f"class: expected one of {listed}, got {class_name!r}")
    return dict.fromkeys(classes, classes[class_name])


def _merged(parts: Sequence[Workload], limit: int | None, align: bool) -> Workload:
    labels = _labels(parts)
    for label, part in zip(labels, parts, strict=True):
        _take_over(part, label, align)
    _tell_apart(parts, labels, "request_id")
    _tell_apart(parts, labels, "session_id")
    pairs = sorted(_pairs(parts), key=lambda pair: pair[0].arrival_s)[:limit]
    for index, (request, _) in enumerate(pairs):
        request.index = index
    return Workload(
        requests=[request for request, _ in pairs],
        output_tokens=[output_tokens for _, output_tokens in pairs],
        name="+".join(labels),
        raised_max_tokens=_raised(parts, pairs),
        skipped=sum(part.skipped for part in parts),
        warnings=list(chain.from_iterable(part.warnings for part in parts)),
    )


def _labels(parts: Sequence[Workload]) -> list[str]:
    labels: list[str] = []
    for part in parts:
        labels.append(unused_name(part.name or "trace", labels))
    return labels


def _take_over(part: Workload, label: str, align: bool) -> None:
    """Move a source's requests to its namespace, and to time 0 if sources are to be aligned."""
    first_s = part.requests[0].arrival_s if align else 0.0
    for request in part.requests:
        request.arrival_s -= first_s
        request.namespace = f"{label}/{request.namespace}" if request.namespace else label


def _tell_apart(
    parts: Sequence[Workload], labels: Sequence[str], kind: Literal["request_id", "session_id"]
) -> None:
    """Put labels before these ids of all requests if two sources share one of them."""
    ids = [{getattr(request, kind) for request in part.requests} - {None} for part in parts]
    if len(set().union(*ids)) == sum(map(len, ids)):
        return
    for part, label in zip(parts, labels, strict=True):
        for request in part.requests:
            own = getattr(request, kind)
            if own is not None:
                setattr(request, kind, f"{label}/{own}")


def _pairs(parts: Sequence[Workload]) -> Iterator[tuple[Request, int]]:
    for part in parts:
        yield from zip(part.requests, part.output_tokens, strict=True)


def _raised(parts: Sequence[Workload], kept: Sequence[tuple[Request, int]]) -> int:
    """Raised limits among the requests that are kept.

    A workload counts them without saying which they are. Where a client declared just the limit
    that its answer would have been given, the count of the whole source is the bound.
    """
    if len(kept) == sum(len(part.requests) for part in parts):
        return sum(part.raised_max_tokens for part in parts)
    kept_ids = {id(request) for request, _ in kept}
    return sum(
        min(
            part.raised_max_tokens,
            sum(
                id(request) in kept_ids and _looks_raised(request, n)
                for request, n in _pairs([part])
            ),
        )
        for part in parts
    )


def _looks_raised(request: Request, output_tokens: int) -> bool:
    limit = request.slo_class.max_tokens
    return limit < output_tokens and request.max_tokens == covering_limit(limit, output_tokens)
