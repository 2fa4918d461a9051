"""The result as a page of markdown: findings first, then the numbers of every part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from experiments.rotasched.measures import GAP, MEASURES, THROUGHPUT, TPOT, TTFT
from experiments.rotasched.settings import ARMS, DEFAULT, REPO, ROTATING, TUNED, VARIANTS
from experiments.studykit.measures import Measure
from experiments.studykit.record import simulated_by
from experiments.tables.parts import Numbers, blocks, bullets, page_of, spread, table

LINK_PARTS = ("links", "links_no_stall")

_CONDITIONS = (
    "One GH200 with 144 GB, by its nominal figures (`roofline`): nobody measured its kernels, so "
    "every step is a floor, and rates are higher than a real one would bear. Copies: 375 GB/s from "
    "and 297 GB/s to the host. Poisson arrivals for 120 s, then to the end; a lognormal stand-in "
    "for ShareGPT's lengths (161 prompt, 338 answer tokens). Plans are made while the step before "
    "runs (`lag = 1`). All memory holds KV but for weights and activations, and every arm has the "
    "same bytes of it. `rotating` alone makes use of a longest pause, 5 s where nothing else is "
    "said. Means over the seeds, in brackets their 95 % interval; shares are of all requests, gaps "
    "between tokens are pooled."
)


def page(summary: Numbers) -> str:
    """The whole page."""
    return page_of(
        "# RotaSched on GH200: the shape of its results",
        f"{simulated_by(summary['made_by'])}.",
        bullets(findings(summary)),
        _CONDITIONS,
        "![TTFT and TPOT attainment, gaps and tokens/s against the rate, simulated](rotasched.png)",
        *(blocks(f"## {model}", _sweep(sweep)) for model, sweep in summary["sweeps"].items()),
        *(_links(summary[part]) for part in LINK_PARTS),
        _variants(summary["variants"]),
    )


def findings(summary: Numbers) -> Iterator[str]:
    """What the numbers say, one line each."""
    for model, sweep in summary["sweeps"].items():
        yield _gain(model, sweep)
    for part in LINK_PARTS:
        yield from _slow_link(summary[part])


def _slow_link(links: Numbers) -> Iterator[str]:
    """What is left of the fastest link's tokens/s over the slowest."""
    slow, fast = links["gb_per_s"][0], links["gb_per_s"][-1]
    for arm in (REPO, ROTATING):
        share = _mean(links["arms"][arm][0], THROUGHPUT) / _mean(links["arms"][arm][-1], THROUGHPUT)
        yield (
            f"{links['kv_tokens']:,} tokens of KV memory, {links['rate_per_s']:g} requests/s: over "
            f"{slow:g} GB/s {ARMS[arm].label} gives {100 * share:.0f} % of the tokens/s that it "
            f"gives over {fast:g} GB/s, {_pause(links)}."
        )


def _gain(model: str, sweep: Numbers) -> str:
    """Where the public code gains most TTFT attainment on the better vLLM, and what it costs."""
    arms = sweep["arms"]

    def lead(place: int) -> float:
        best = max(_mean(arms[name][place], TTFT) for name in (DEFAULT, TUNED))
        return _mean(arms[REPO][place], TTFT) - best

    place = max(range(len(sweep["rates_per_s"])), key=lead)
    pairs = [
        f"{measure.title.removesuffix(' (%)')} {measure.mean(arms[REPO][place])} against "
        f"{measure.mean(arms[TUNED][place])}"
        for measure in (TPOT, GAP, THROUGHPUT)
    ]
    return (
        f"{model}: at most {100 * lead(place):+.1f} points of TTFT attainment over the better "
        f"vLLM, at {sweep['rates_per_s'][place]:g} requests/s; there, against chunked vLLM, "
        f"{', '.join(pairs)}."
    )


# -- inside ---------------------------------------------------------------------------------------


def _sweep(sweep: Numbers) -> Iterator[str]:
    return _table(["arm", "requests/s"], _rows(sweep["rates_per_s"], sweep["arms"]))


def _links(links: Numbers) -> str:
    size = f"{links['kv_tokens']:,} tokens of KV memory"
    return blocks(
        f"## Links: {links['model']}, {size}, {_pause(links)}",
        f"{links['rate_per_s']:g} requests/s; the link has the same speed both ways.",
        _table(["arm", "GB/s"], _rows(links["gb_per_s"], links["arms"])),
    )


def _rows(varied: Sequence[float], arms: Numbers) -> Iterator[list[str]]:
    """A row per value of what is varied, and arm."""
    for place, value in enumerate(varied):
        for name, points in arms.items():
            yield [ARMS[name].label, f"{value:g}", *_cells(points[place])]


def _pause(links: Numbers) -> str:
    pause_s = links["max_stall_s"]
    return f"with a longest pause of {pause_s:g} s" if pause_s else "with no longest pause stated"


def _variants(variants: Numbers) -> str:
    rows = ([VARIANTS[name].label, *_cells(found)] for name, found in variants["arms"].items())
    return blocks(
        f"## Variants of RotaSched: {variants['model']}, {variants['rate_per_s']:g} requests/s",
        _table(["variant"], rows),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    return table([*head, *(each.title for each in MEASURES)], rows, texts=len(head))


def _cells(numbers: Numbers) -> list[str]:
    return [_cell(numbers, measure) for measure in MEASURES]


def _cell(numbers: Numbers, measure: Measure) -> str:
    found = numbers[measure.key]
    if found["low"] == found["high"]:
        return measure.mean(numbers)
    return spread(found, measure.digits, measure.scale)


def _mean(numbers: Numbers, measure: Measure) -> float:
    return float(numbers[measure.key]["mean"])
