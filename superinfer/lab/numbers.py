"""Numbers of a summary by their key, also those of one class or tenant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from superinfer.lab.metric_names import Summary
from superinfer.lab.precision import PRECISION

_COLUMNS = {"classes": "class", "tenants": "tenant"}


def split_metric(metric: str) -> tuple[str, str, str]:
    """`classes`, name and key of `classes.<name>.<key>`; two empty texts and the key of others.

    Names may contain dots themselves, keys do not.
    """
    section, _, rest = metric.partition(".")
    name, _, key = rest.rpartition(".")
    return (section, name, key) if section in _COLUMNS and name else ("", "", metric)


def column_of(section: str) -> str:
    """The column of `requests.parquet` that `classes` or `tenants` go by."""
    return _COLUMNS[section]


def number(summary: Summary, metric: str) -> float | None:
    """A number by its key; None where it is null or absent."""
    group, key = _place_of(summary, metric)
    value = group.get(key)
    return value if isinstance(value, int | float) else None


def has_number(summary: Summary, metric: str) -> bool:
    """Whether there is a place for such a number, which may be null."""
    group, key = _place_of(summary, metric)
    return key in group and isinstance(group[key], int | float | None)


def close_keys(key: str, known: Iterable[str]) -> str:
    """What a key that is not known may have been meant to be: the end of a message, or nothing."""
    close = get_close_matches(key, known, 3)
    return f"; close: {', '.join(close)}" if close else ""


def digits(value: float, count: int = 4) -> str:
    """A number with so many significant digits, without an exponent."""
    return f"{float(f'{value:.{count}g}'):,.12g}"


def mean_number(summaries: Sequence[Summary], metric: str) -> float | None:
    """Mean of a number over runs; None unless every run has it."""
    values = [number(summary, metric) for summary in summaries]
    known = [value for value in values if value is not None]
    if not values or len(known) < len(values):
        return None
    return known[0] if len(known) == 1 else float(np.mean(known))


def mean_summary(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The numbers of several runs, of the whole and of each class that all have: the mean over all,
    null unless all have it. What is `unmeasured` in one of them is that in the mean.
    """
    first = summaries[0]
    if len(summaries) == 1:
        return dict(first)
    keys = [key for key, value in first.items() if value is None or isinstance(value, int | float)]
    found: dict[str, Any] = {key: mean_number(summaries, key) for key in keys}
    for key in PRECISION:
        words = [value for each in summaries if isinstance(value := each.get(key), str)]
        found |= {key: words[0]} if words else {}
    classes = [each.get("classes") or {} for each in summaries]
    if any(classes):
        names = [name for name in classes[0] if all(name in each for each in classes)]
        found["classes"] = {name: mean_summary([each[name] for each in classes]) for name in names}
    return found


def _place_of(summary: Summary, metric: str) -> tuple[Summary, str]:
    """The summary, or the class or tenant in it, and the key there."""
    section, name, key = split_metric(metric)
    group = (summary.get(section) or {}).get(name) or {} if section else summary
    return group, key
