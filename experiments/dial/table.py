"""The result as a page of markdown."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.dial.plot import PICTURE
from experiments.scenarios.measures import ATTAINMENT, BATCH, P99_TTFT, PEAK_KV
from experiments.studykit.measures import Measure
from experiments.studykit.record import MACHINE_70B, provenance
from experiments.tables.parts import Numbers, page_of, table
from superinfer.lab.config.dial import Dial

MEASURES = (
    Measure(BATCH, "batch tokens/s", 1, 1),
    Measure(ATTAINMENT, "chat attainment (%)", 100, 1),
    Measure(P99_TTFT, "chat P99 TTFT (ms)"),
    Measure("classes.chat.p99_itl_ms", "chat P99 ITL (ms)"),
    Measure("kv_bits_mean", "KV bits", 1, 2),
    Measure(PEAK_KV, "peak KV (GiB per GPU)", 1, 2),
    Measure("total_rotations", "rotations"),
)
REPORTED = tuple(each.key for each in MEASURES)
_SET = ("floor_bits", "shrink_8_at", "pace_margin", "memory_share", "max_num_batched_tokens")


def page(summary: Numbers) -> str:
    """The whole page."""
    made_by = summary["made_by"]
    return page_of(
        "# The dial between cost, speed and quality",
        provenance(made_by, f"{MACHINE_70B} `{made_by['profile']}`"),
        f"{summary['scenario']}: {summary['title']}; {summary['rate_per_s']:.5g} chat requests/s. "
        "Cost is read as batch tokens/s (the more, the cheaper a token), speed as chat attainment, "
        "quality as mean bits of a cached value: what fewer bits do to answers is unmeasured. A "
        "point is on the front if no other has as much of all three and more of one.",
        f"![Batch throughput against chat attainment, by KV bits, simulated]({PICTURE})",
        _points(summary["points"]),
    )


def _points(points: list[Numbers]) -> Iterator[str]:
    titles = [each.title for each in MEASURES]
    head = ["cost", "speed", "quality", "front", *titles, *(f"`{name}`" for name in _SET)]
    return table(head, map(_point, points), texts=len(head))


def _point(point: Numbers) -> list[str]:
    weights, found = point["weights"], point["numbers"]
    return [
        *(f"{weights[name]:g}" for name in ("cost", "speed", "quality")),
        "yes" if point["front"] else "",
        *(each.mean(found) for each in MEASURES),
        *(f"{value:g}" for value in _set_by(Dial(**weights))),
    ]


def _set_by(dial: Dial) -> Iterator[float]:
    settings = dial.settings("memory") | dial.settings("scheduler")
    settings["floor_bits"] = dial.floor_bits
    return (settings[name] for name in _SET)
