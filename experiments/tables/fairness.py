"""The table of `docs/fairness.md`, from `python -m experiments.fairness`."""

from __future__ import annotations

from experiments.fairness.settings import LARGER_SHARE, NO_AGING, NO_FAIRNESS, ROTATING
from experiments.tables.parts import Lines, Numbers, number, recorded, table

PAGE = "docs/fairness.md"
FILE = "simulated/fairness/summary.json"
ARMS = {
    ROTATING: "`rotating`",
    NO_AGING: "the same, `aging = false`",
    NO_FAIRNESS: "the same, `fairness = false`",
    LARGER_SHARE: "the same, `aged_share = 0.3`",
    "priority": "`priority`",
    "fcfs": "`fcfs`",
    "vtc": "`vtc`",
}


def hurry(found: Numbers) -> Lines:
    """The flood that claims to be in a hurry."""
    arms = found["floods"]["hurry"]
    asked = number(arms[ROTATING]["free.asked"], 0, 100, "%")
    head = ["", f"free tier's share of prefill (asked for {asked})", "its median TTFT"]
    head += ["its worst wait", "paying requests in time"]
    return table(head, ([words, *_cells(arms[name])] for name, words in ARMS.items()))


TABLES = {"flood in a hurry": recorded(FILE, hurry)}


def _cells(arm: Numbers) -> list[str]:
    return [
        number(arm["free.got"], 1, 100, "%"),
        number(arm["free.median_ttft_ms"], 1, 1e-3, "s"),
        number(arm["free.worst_wait_ms"], 1, 1e-3, "s"),
        number(arm["paid.slo_attainment"], 1, 100, "%"),
    ]
