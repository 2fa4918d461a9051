"""The tables of `docs/rivals.md`, from `python -m experiments.rotasched`."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.rotasched.measures import BOTH, GAP, LONG, THROUGHPUT, TPOT, TTFT
from experiments.rotasched.settings import ARMS, REPO, ROTATING
from experiments.tables.parts import Lines, Numbers, recorded, table

PAGE = "docs/rivals.md"
FILE = "simulated/rotasched/summary.json"
SWEPT = "qwen2.5-32b"
SHOWN = (TTFT, TPOT, BOTH, GAP, LONG, THROUGHPUT)


def sweep(found: Numbers) -> Lines:
    """One model over the rates."""
    head = ["", "requests/s", "TTFT in time (%)", "TPOT in time (%)", "both (%)", "P99 gap (ms)"]
    return table([*head, LONG.title, "tokens/s"], _sweep(found["sweeps"][SWEPT]))


def links(found: Numbers) -> Lines:
    """Tokens/s over the speed of the link, with a longest pause stated and without."""
    speeds = [f"{speed:g} GB/s" for speed in found["links"]["gb_per_s"]]
    head = ["tokens/s over a link of", *speeds]
    rows = []
    for part, said in (("links", "a longest pause of 5 s"), ("links_no_stall", "none stated")):
        for arm in (REPO, ROTATING):
            cells = map(THROUGHPUT.mean, found[part]["arms"][arm])
            rows.append([f"{ARMS[arm].label}, {said}", *cells])
    return table(head, rows)


TABLES = {"rotasched sweep": recorded(FILE, sweep), "rotasched links": recorded(FILE, links)}

# -- inside ---------------------------------------------------------------------------------------


def _sweep(found: Numbers) -> Iterator[list[str]]:
    for place, rate in enumerate(found["rates_per_s"]):
        for arm, points in found["arms"].items():
            cells = [each.mean(points[place]) for each in SHOWN]
            yield [ARMS[arm].label, f"{rate:g}", *cells]
