"""What `superinfer-sim sweep` says: tables, JSON and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.lab.numbers import digits, number
from superinfer.lab.studies.axes import Axis, place_text, shown
from superinfer.lab.studies.sweep_points import ATTAINMENT, GOODPUT, Peak, Point, Points, rate_axis
from superinfer.lab.versions import versions

if TYPE_CHECKING:
    from rich.table import Table

HEADS = {
    ATTAINMENT: "SLO %",
    GOODPUT: "goodput/s",
    "request_throughput": "requests/s",
    "p99_ttft_ms": "TTFT p99 ms",
    "p99_tpot_ms": "TPOT p99 ms",
}
"""What the table shows of each point; goodput in requests/s. It fits into 80 columns."""
METRICS = (*HEADS, "output_throughput", "p99_e2el_ms")
"""What `sweep.json` has of each."""


def sweep_json(
    axes: Sequence[Axis],
    wanted: float,
    points: Points,
    found: Sequence[Peak],
    failures: Sequence[str],
    root: Path,
) -> dict[str, Any]:
    """What `--json` prints and `sweep.json` holds; equal for equal sweeps."""
    return {
        "version": 1,
        "simulated": True,
        "wanted_attainment": wanted,
        "axes": [{"name": a.name, "key": a.key, "values": list(a.values)} for a in axes],
        "schedulers": list(dict.fromkeys(point.arm for point in points)),
        "points": [_point(axes, each, root) for each in points],
        "peaks": [_peak(axes, each) for each in found],
        "failed": list(failures),
        "versions": versions("superinfer", "simpy", "numpy"),
    }


def sweep_frame(axes: Sequence[Axis], points: Points, root: Path) -> dict[str, Any]:
    """Columns of `sweep.parquet`: a row per run, with every number of its summary."""
    rows = [(point, run) for point in points for run in point.runs]
    columns: dict[str, Any] = {
        "scheduler": [point.arm for point, _ in rows],
        "seed": np.array([run.config["run"]["seed"] for _, run in rows], np.int64),
        "folder": [run.folder.relative_to(root).as_posix() for _, run in rows],
    }
    for at, axis in enumerate(axes):
        values = [point.place[at] for point, _ in rows]
        column = np.array(values, np.float64) if axis.numeric else [shown(v) for v in values]
        columns[axis.name] = column
    for key in _numbers(rows[0][1].summary):
        columns[key] = np.array([number(run.summary, key) for _, run in rows], np.float64)
    return columns


def sweep_table(axes: Sequence[Axis], points: Points) -> Table:
    """A row per point: place by place, the schedulers below each other."""
    table = _table([axis.name for axis in axes], ["Scheduler", *HEADS.values()])
    order = {place: at for at, place in enumerate(_ordered(axes, points))}
    before = None
    for point in sorted(points, key=lambda each: order[each.place]):  # stable: arms keep theirs
        place = ["" if point.place == before else shown(value) for value in point.place]
        table.add_row(*place, point.arm, *_cells(point))
        before = point.place
    table.caption, table.caption_justify = "Simulated.", "left"
    return table


def peak_table(axes: Sequence[Axis], found: Sequence[Peak], wanted: float) -> Table:
    """A row per scheduler and place of the other axes."""
    from rich.text import Text

    heads = [axis.name for at, axis in enumerate(axes) if at != rate_axis(axes)]
    table = _table(heads, ["Scheduler", "peak rate", *HEADS.values()])
    table.title = Text(f"Peak goodput: the largest rate up to which {100 * wanted:g} % meet theirs")
    table.title_justify = "left"
    for peak in found:
        cells = _cells(peak.point) if peak.point else ["-"] * len(HEADS)
        table.add_row(*map(shown, peak.others), peak.arm, _rate(peak), *cells)
    notes = ["Rates are multiples of the trace's."]
    if any(not peak.bracketed for peak in found):
        notes.append(">=: no rate above it was tried.")
    notes += [_again(axes, peak) for peak in found if peak.kept_above]
    table.caption, table.caption_justify = Text(" ".join(notes)), "left"
    return table


# -- inside ---------------------------------------------------------------------------------------


def _point(axes: Sequence[Axis], point: Point, root: Path) -> dict[str, Any]:
    return {
        "scheduler": point.arm,
        "at": {axis.name: value for axis, value in zip(axes, point.place, strict=True)},
        **{key: point.value(key) for key in METRICS},
        "runs": [
            {
                "seed": run.config["run"]["seed"],
                "folder": run.folder.relative_to(root).as_posix(),
                **{key: run.summary.get(key) for key in METRICS},
            }
            for run in point.runs
        ],
    }


def _peak(axes: Sequence[Axis], peak: Peak) -> dict[str, Any]:
    others = [axis for at, axis in enumerate(axes) if at != rate_axis(axes)]
    return {
        "scheduler": peak.arm,
        "at": {axis.name: value for axis, value in zip(others, peak.others, strict=True)},
        "rate": peak.rate,
        "bracketed": peak.bracketed,
        "kept_above": list(peak.kept_above),
        **{key: peak.point.value(key) if peak.point else None for key in METRICS},
    }


def _numbers(summary: Mapping[str, Any]) -> list[str]:
    return [
        key
        for key, value in summary.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    ]


def _ordered(axes: Sequence[Axis], points: Points) -> list[tuple[Any, ...]]:
    """Places axis by axis: numbers, those of a search too, ascending, words as they were given."""

    def rank(place: tuple[Any, ...]) -> list[float]:
        pairs = zip(axes, place, strict=True)
        return [float(v) if a.numeric else float(a.values.index(v)) for a, v in pairs]

    return sorted({point.place for point in points}, key=rank)


def _table(heads: Sequence[str], others: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(Text(head), justify="right", no_wrap=True)
    for head in others:
        justify: Any = "left" if head == "Scheduler" else "right"
        table.add_column(head, justify=justify, no_wrap=head == "Scheduler")
    return table


def _cells(point: Point) -> list[str]:
    values = {key: point.value(key) for key in HEADS}
    share = values[ATTAINMENT]
    if share is not None:
        values[ATTAINMENT] = 100 * share
    return ["-" if value is None else digits(value) for value in values.values()]


def _rate(peak: Peak) -> str:
    star = "*" if peak.kept_above else ""
    if peak.rate is None:
        return f"none{star}"
    return f"{'' if peak.bracketed else '>= '}{shown(peak.rate)}{star}"


def _again(axes: Sequence[Axis], peak: Peak) -> str:
    """That rates above one that fails keep the share again."""
    others = [axis for at, axis in enumerate(axes) if at != rate_axis(axes)]
    where = " at ".join(filter(None, (peak.arm, place_text(others, peak.others))))
    rates = ", ".join(map(shown, peak.kept_above))
    return f"*: {where} keeps it again at {rates}; more --seeds tell chance apart."
