"""A picture of single requests: what each of them did, and what was decided about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from superinfer.lab.json_files import read_json
from superinfer.lab.pictures.parts import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, label
from superinfer.lab.timelines.stories import (
    DECODE,
    MOVING_IN,
    MOVING_OUT,
    PREEMPTED,
    PREFILL,
    QUEUED,
    RECOMPUTE,
    SWAPPED,
)
from superinfer.lab.timelines.timeline import PROCESSES, REQUESTS

LOOKS = {
    QUEUED: ("#FFFFFF", ""),
    PREFILL: (ORANGE, ""),
    DECODE: (BLUE, ""),
    MOVING_OUT: (SKY, "\\\\\\"),
    SWAPPED: ("#DDDDDD", "..."),
    MOVING_IN: (SKY, "///"),
    PREEMPTED: ("#DDDDDD", "xxx"),
    RECOMPUTE: (ORANGE, "xxx"),
}
"""Colour and hatch of each phase."""
MARKERS = {
    "promote": ("^", GREEN),
    "demote": ("v", PURPLE),
    "relegate": ("X", RED),
    "prefetch": ("<", GREY),
}
"""Shape and colour of each decision."""
_US = 1e-6

TraceEvent = dict[str, Any]


def requests_panel(axes: Axes, tracks: Mapping[str, list[TraceEvent]]) -> None:
    """Phases as bars and decisions as markers, the earliest request on top."""
    phases: set[str] = set()
    moments: set[str] = set()
    for row, events in enumerate(tracks.values()):
        phases |= _bars(axes, row, events)
        moments |= _marks(axes, row, events)
    axes.set_yticks(range(len(tracks)), [label(name) for name in tracks])
    axes.set_ylim(len(tracks) - 0.4, -0.6)
    axes.set_xlabel("time (s)")
    axes.spines[["top", "right"]].set_visible(False)
    for name in [name for name in LOOKS if name in phases]:
        colour, hatch = LOOKS[name]
        axes.barh(0, 0, color=colour, hatch=hatch, edgecolor="black", lw=0.6, label=name)
    for name in [name for name in MARKERS if name in moments]:
        shape, colour = MARKERS[name]
        axes.plot([], [], shape, color=colour, mec="black", label=name)
    if phases or moments:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _bars(axes: Axes, row: int, events: Iterable[TraceEvent]) -> set[str]:
    """Draw the phases; returns their names."""
    shown = [event for event in events if event["ph"] == "X" and event["name"] in LOOKS]
    for event in shown:
        colour, hatch = LOOKS[event["name"]]
        span = [(event["ts"] * _US, event["dur"] * _US)]
        axes.broken_barh(span, (row - 0.38, 0.76), fc=colour, hatch=hatch, ec="black", lw=0.6)
    return {event["name"] for event in shown}


def _marks(axes: Axes, row: int, events: Iterable[TraceEvent]) -> set[str]:
    """Draw the decisions; returns their names."""
    shown = [event for event in events if event["ph"] == "i" and event["name"] in MARKERS]
    for event in shown:
        shape, colour = MARKERS[event["name"]]
        axes.plot(np.array([event["ts"] * _US]), [row], shape, color=colour, mec="black", ms=7)
    return {event["name"] for event in shown}


def tracks_of(timeline: Path, most: int) -> dict[str, list[TraceEvent]]:
    """Events of the first `most` requests, by the name of their track."""
    events = read_json(timeline, itemgetter("traceEvents"), "a timeline as --timeline writes it")
    tracks: dict[tuple[int, int], list[TraceEvent]] = {}
    for event in events:
        if "tid" in event and event.get("pid", 0) % PROCESSES == REQUESTS:
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    kept = sorted(tracks, key=lambda place: (_starts_us(tracks[place]), place))[:most]
    return {_name(tracks[place]): tracks[place] for place in kept}


def _starts_us(events: Iterable[TraceEvent]) -> float:
    return min((event["ts"] for event in events if "ts" in event), default=math.inf)


def _name(events: Iterable[TraceEvent]) -> str:
    """The name of a track."""
    return next(str(e["args"]["name"]) for e in events if e["name"] == "thread_name")
