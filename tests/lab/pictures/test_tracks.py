"""The picture of single requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from superinfer.errors import InputError
from superinfer.lab import plot_requests
from superinfer.lab.pictures.tracks import LOOKS, MARKERS


def event(ph: str, name: str, tid: int, ts_s: float = 0.0, dur_s: float = 0.0) -> dict[str, Any]:
    times = {"ts": 1e6 * ts_s, "dur": 1e6 * dur_s}
    return {"ph": ph, "name": name, "pid": 1, "tid": tid, **times, "args": {}}


def timeline(path: Path, *events: dict[str, Any]) -> Path:
    """Two requests of a chat and a batch class, and the events."""
    names = [
        {**event("M", "thread_name", tid), "args": {"name": f"r{tid} (chat)"}} for tid in (1, 2)
    ]
    device = {**event("X", "decode", 1, 0.0, 9.0), "pid": 2}
    path.write_text(json.dumps({"traceEvents": [*names, device, *events]}))
    return path


def test_phases_are_bars_and_decisions_are_markers(tmp_path: Path) -> None:
    path = timeline(
        tmp_path / "timeline.json",
        event("X", "queued", 1, 0.0, 1.0),
        event("X", "decode", 1, 1.0, 2.0),
        event("i", "promote", 1, 0.5),
        event("X", "swapped", 2, 0.0, 3.0),
        event("X", "r2", 2, 0.0, 3.0),
    )
    axes = plot_requests(path)
    FigureCanvasAgg(axes.figure).draw()  # type: ignore[arg-type]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["r1 (chat)", "r2 (chat)"]
    legend = axes.get_legend()
    assert legend is not None
    shown = {text.get_text() for text in legend.get_texts()}
    assert shown == {"queued", "decode", "swapped", "promote"}
    assert shown <= {*LOOKS, *MARKERS}
    extents = [bars.get_datalim(axes.transData) for bars in axes.collections]
    assert sorted((box.x0, box.x1) for box in extents) == [(0.0, 1.0), (0.0, 3.0), (1.0, 3.0)]


def test_no_more_requests_than_asked_for(tmp_path: Path) -> None:
    axes = plot_requests(timeline(tmp_path / "timeline.json"), most=1)
    assert len(axes.get_yticks()) == 1
    assert axes.get_title() == "The first 1 requests: phases and decisions"
    axes = plot_requests(timeline(tmp_path / "timeline.json"))
    assert axes.get_title() == "Requests: phases and decisions"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "no json", pytest.param("[" * 100_000, id="nested")]
)
def test_what_is_no_timeline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "timeline.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a timeline as --timeline writes it"):
        plot_requests(path)
    with pytest.raises(InputError, match="cannot read: No such file"):
        plot_requests(tmp_path / "none.json")
