"""The tables of `docs/rotation.md`, from the studies `scenarios`, `ladder` and `lent_places`."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.lent_places import TREATMENTS
from experiments.scenarios.arms import ROTATING
from experiments.scenarios.measures import ATTAINMENT, BATCH
from experiments.tables.parts import Lines, Numbers, number, recorded, table

PAGE = "docs/rotation.md"
SETTINGS = {
    "article": "all memory, 16 batch requests under way",
    "m-pcie": "KV memory for 80,000 tokens, 25 GB/s to the host",
    "m-c2c": "the same, 350 GB/s",
    "c": "all memory, 64 batch requests always wait",
}
FIRST, LAST = "+ relegation and margins", "+ mixed precision"
"""The rung in front of rotation, and the last one that changes how often it happens."""


def how_often(found: Numbers) -> Lines:
    """Rotations and copies of the default scheduler in each setting."""
    head = ["chat above batch work", "rotations in 900 s", "GiB to the host", "GiB from the host"]
    return table([*head, "peak KV (GiB per GPU)"], _settings(found["parts"]))


def steps(found: Numbers) -> Lines:
    """The rungs that have to do with rotation, memory-bound and compute-bound."""
    head = ["with all above and", "chat in time", "batch tokens/s", "rotations"]
    head += ["compute-bound: chat in time", "batch tokens/s", "rotations"]
    return table(head, _rungs([found["scenarios"][name]["rungs"] for name in ("m-pcie", "c")]))


def lent(found: Numbers) -> Lines:
    """Who is in time by how the class is treated, and who with every token."""
    rows = found["rows"]
    head = ["KV blocks, load", *(f"`{name}`" if "=" in name else name for name in TREATMENTS)]
    return table(head, ([_place(row), *_in_time(row["treatments"])] for row in rows))


TABLES = {
    "how often": recorded("simulated/scenarios/summary.json", how_often),
    "rotation steps": recorded("simulated/ladder/summary.json", steps),
    "lent places": recorded("simulated/lent-places/summary.json", lent),
}

# -- inside ---------------------------------------------------------------------------------------


def _settings(parts: Numbers) -> Iterator[list[str]]:
    for name, words in SETTINGS.items():
        arm = parts[name]["arms"][ROTATING]
        copies = (number(arm[key]["mean"], 1) for key in ("d2h_gib", "h2d_gib"))
        rotations = number(arm["total_rotations"]["mean"])
        yield [words, rotations, *copies, number(arm["peak_kv_gib"]["mean"], 1)]


def _rungs(scenarios: list[Numbers]) -> Iterator[list[str]]:
    names = list(scenarios[0])
    for name in names[names.index(FIRST) : names.index(LAST) + 1]:
        cells = []
        for rungs in scenarios:
            rung = rungs[name]
            cells += [
                number(rung[ATTAINMENT]["mean"], 1, 100, "%"),
                number(rung[BATCH]["mean"], 1),
                number(rung["total_rotations"]["mean"]),
            ]
        yield [name.removeprefix("+ "), *cells]


def _place(row: Numbers) -> str:
    return f"{row['kv_blocks']:,}, {row['load']:g}"


def _in_time(treatments: Numbers) -> Iterator[str]:
    for name in TREATMENTS:
        met, paced = (treatments[name][f"{kind}_attainment"]["mean"] for kind in ("slo", "paced"))
        yield f"{100 * met:.0f} ({100 * paced:.0f})"
