"""What a sweep over two axes shows and stores, of points and peaks made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.studies.sweep_page import peak_table, sweep_frame, sweep_json, sweep_table
from superinfer.lab.results import Run
from superinfer.lab.studies.axes import Axis, Place
from superinfer.lab.studies.sweep_points import Peak, Point
from traces.printing import print_table

RATES = Axis("rate", "run.rate_scale", (2, 1))
WAYS = Axis("way", "scheduler.preemption", ("swap", "recompute"))
AXES = (RATES, WAYS)
ROOT = Path("s")
HEADS = [
    "Scheduler",
    "SLO",
    "%",
    "goodput/s",
    "requests/s",
    "TTFT",
    "p99",
    "ms",
    "TPOT",
    "p99",
    "ms",
]


def point(arm: str, place: Place, share: float | None = 0.5) -> Point:
    summary = {
        "slo_attainment": share,
        "request_goodput": 1.5,
        "request_throughput": 2,
        "p99_ttft_ms": None,
        "p99_tpot_ms": 30.0,
        "ended": True,
        "device": "h100",
    }
    return Point(arm, place, (Run(ROOT / "points/x", summary, {"run": {"seed": 7}}),))


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line but the rule."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split() for line in lines if line.strip("─ ")]


def test_points_stand_place_by_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers ascend, also those of a search; words stay as they were given."""
    places: list[Place] = [(2, "recompute"), (1, "swap"), (1.5, "swap"), (1, "recompute")]
    points = [point(arm, place) for arm in ("b", "a") for place in places]
    print_table(sweep_table(AXES, [*points, point("c", (1, "swap"), None)]))
    figures = ["50", "1.5", "2", "-", "30"]
    assert rows(capsys) == [
        ["rate", "way", *HEADS],
        ["1", "swap", "b", *figures],
        ["a", *figures],
        ["c", "-", *figures[1:]],
        ["1", "recompute", "b", *figures],
        ["a", *figures],
        ["1.5", "swap", "b", *figures],
        ["a", *figures],
        ["2", "recompute", "b", *figures],
        ["a", *figures],
        ["Simulated."],
    ]


BOUND = Peak("a", ("swap",), point("a", (2, "swap")), 2, False, ())
NONE = Peak("b", ("recompute",), None, None, True, (3, 4))
FOUND = Peak("c", ("swap",), point("c", (1.5, "swap"), 0.9), 1.5, True, ())


def test_peaks_say_what_they_rest_on(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(peak_table(AXES, [BOUND, NONE, FOUND], 0.9))
    title, heads, *found = rows(capsys)
    assert " ".join(title) == "Peak goodput: the largest rate up to which 90 % meet theirs"
    assert heads == ["way", "Scheduler", "peak", "rate", *HEADS[1:]]
    assert found[:3] == [
        ["swap", "a", ">=", "2", "50", "1.5", "2", "-", "30"],
        ["recompute", "b", "none*", *"-----"],
        ["swap", "c", "1.5", "90", "1.5", "2", "-", "30"],
    ]
    assert " ".join(word for row in found[3:] for word in row) == (
        "Rates are multiples of the trace's. >=: no rate above it was tried. *: b at way=recompute "
        "keeps it again at 3, 4; more --seeds tell chance apart."
    )
    print_table(peak_table(AXES, [FOUND], 0.9))
    assert " ".join(rows(capsys)[-1]) == "Rates are multiples of the trace's."


def test_peaks_are_stored_at_their_place_of_the_other_axes() -> None:
    points = [point("a", (2, "swap"))]
    told = sweep_json(AXES, 0.9, points, [BOUND, NONE], [], ROOT)
    assert (told["version"], told["simulated"]) == (1, True)
    assert told["axes"][1] == {
        "name": "way",
        "key": "scheduler.preemption",
        "values": ["swap", "recompute"],
    }
    assert told["points"][0]["at"] == {"rate": 2, "way": "swap"}
    bound, none = told["peaks"]
    assert (bound["at"], bound["rate"], bound["bracketed"]) == ({"way": "swap"}, 2, False)
    assert (bound["slo_attainment"], none["slo_attainment"], none["rate"]) == (0.5, None, None)
    assert (none["at"], none["kept_above"]) == ({"way": "recompute"}, [3, 4])


def test_columns_are_the_numbers_of_summaries() -> None:
    columns = sweep_frame(AXES, [point("a", (2, "swap")), point("b", (1, "swap"), None)], ROOT)
    numbers = ("slo_attainment", "request_goodput", "request_throughput", "p99_ttft_ms")
    names = ["scheduler", "seed", "folder", "rate", "way", *numbers, "p99_tpot_ms"]
    assert list(columns) == names, "neither words nor truths"
    assert (columns["way"], columns["folder"]) == (["swap", "swap"], ["points/x"] * 2)
    assert (columns["rate"].tolist(), columns["seed"].tolist()) == ([2, 1], [7, 7])
    assert columns["slo_attainment"][0] == 0.5 and np.isnan(columns["slo_attainment"][1])
