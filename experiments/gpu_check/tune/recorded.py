"""Rows of a part as an earlier call has recorded them, to decide by: no row, or one that failed, is
a ValueError that says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.gpu_check.checks import NO_TIME, Result, Results
from experiments.gpu_check.rows import Row

UNKNOWN: Result = {"error": NO_TIME[0]}
"""As good as a check that is not there."""

Checks = Mapping[str, Result]
Times = dict[str, float]
"""Microseconds by what was measured."""


def tuned(results: Results, name: str | None) -> Checks:
    """Checks of `tune` on devices of this name, if there are any; with those that ended without
    saying where they were.
    """
    found = results.data.get("tune", {}).get("checks", {})
    if name is None or all(check.get("device") != name for check in found.values()):
        return {}
    return {
        check: result
        for check, result in found.items()
        if result.get("device", None if result.get("ok") else name) == name
    }


def rows_of(checks: Checks, name: str) -> list[Row]:
    """Of one check. ValueError where it is not there, or not well."""
    if name not in checks:
        raise ValueError(f"{name}: not measured")
    found = checks[name]
    if not found.get("ok"):
        raise ValueError(f"{name}: {found.get('error', 'not ok')}")
    return list(found.get("rows", []))


def well(checks: Checks, begin: str) -> list[Row]:
    """Of all checks with such names that are well."""
    found = [check for name, check in checks.items() if name.startswith(begin) and check.get("ok")]
    return [row for check in found for row in check.get("rows", [])]


def times(rows: list[Row], *keys: str, **wanted: Any) -> Times:
    """The least time of rows with these fields, by others. ValueError where there are none, or one
    has an error.
    """
    found: Times = {}
    named = " ".join(f"{key} {value}" for key, value in wanted.items())
    for row in rows:
        if any(row.get(key) != value for key, value in wanted.items()):
            continue
        if "error" in row:
            raise ValueError(f"{named}: {row['error']}")
        case = " ".join(f"{key}={row[key]}" for key in keys)
        found[case] = min(row["us"], found.get(case, math.inf))
    if not found:
        raise ValueError(f"{named}: not measured")
    return found


def compared(now: Times, new: Times) -> list[Row]:
    """Both times of each case. ValueError where one has cases of its own."""
    if now.keys() != new.keys():
        raise ValueError(f"not both measured: {', '.join(sorted(now.keys() ^ new.keys()))}")
    return [
        {"case": case, "now us": us, "us": new[case], "change": new[case] / us - 1}
        for case, us in now.items()
    ]


def change(figures: list[Row]) -> float:
    """Of the sum of all, as a share."""
    now_us, us = (sum(float(row[key]) for row in figures) for key in ("now us", "us"))
    return us / now_us - 1
