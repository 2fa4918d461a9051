"""The runs of a study whose folder was there before, and may have been changed since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from superinfer.errors import InputError
from superinfer.lab.results import CONFIG, SUMMARY, Run
from superinfer.lab.studies.study import StudyResult


def whole_runs(result: StudyResult, name: str) -> list[Run]:
    """The stored runs of an arm; InputError for one that lacks what every run of ours leaves."""
    runs = result.runs(name)
    for run in runs:
        _check(run, CONFIG, run.config, _SETTINGS)
        _check(run, SUMMARY, run.summary, _SUMMARY)
    return runs


# -- inside ---------------------------------------------------------------------------------------

_Needed = Mapping[str, "_Needed"]
"""Keys that must be there, each with those below it."""


def _keys(*names: str) -> dict[str, _Needed]:
    return {name: {} for name in names}


_SETTINGS: Final[_Needed] = {"run": _keys("seed", "costs", "model", "device", "tp")}
_SUMMARY: Final[_Needed] = {
    **_keys("submitted", "unfinished", "slo_attainment", "request_goodput", "output_throughput"),
    "load": _keys("model"),
    "trust": _keys("profile", "extrapolated_share"),
    "run": {"run": _keys("without_slo", "duration_s", "window_s"), "requests": {}},
}


def _check(run: Run, file: str, table: Mapping[str, Any], needed: _Needed) -> None:
    if key := _missing(table, needed):
        again = f"remove {run.folder}, and the same command makes that run again"
        raise InputError(f"expected {key}, got nothing: {again}", file=str(run.folder / file))


def _missing(table: Any, needed: _Needed, above: str = "") -> str:
    """The first key that is not there, or of a table null; empty if all are."""
    for key, below in needed.items():
        found = table.get(key) if isinstance(table, Mapping) else None
        if found is None and (above or below or key not in table):
            return f"{above}{key}"
        if below and (missing := _missing(found, below, f"{above}{key}.")):
            return missing
    return ""
