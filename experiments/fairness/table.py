"""The result as a page of markdown: findings first, then a table per flood."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.fairness.plot import PICTURE
from experiments.fairness.settings import FLOODS, LARGER_SHARE, NO_AGING, NO_FAIRNESS, ROTATING
from experiments.studykit.record import simulated_by
from experiments.tables.parts import Numbers, blocks, bullets, page_of, table
from superinfer.lab.report.values import NONE

_CONDITIONS = (
    "Llama-3.1-70B on four A100-80G. For 300 s a paying tier sends 0.6 requests/s that want a "
    "first token in 2 s and 100 ms per token, a free tier 0.2/s that are promised nothing, and in "
    "a flood a hostile tenant 6/s, together about 1.7 times what the machine serves. Lengths are "
    "the same for all (900 prompt and 200 answer tokens on average), and the run goes on "
    "to the end. Means over the seeds; waits, gaps and shares of the bound are the worst of all "
    "seeds. `asked` and `got` are shares of the prompt tokens that are computed from 60 to 300 s. "
    "The bound on the wait for a first token is that of `aging.py`, with the longest decode as the "
    "longest stay; its prefill part leaves out the term for a device without room, which is large. "
    "Above 100 % of that part a request was on the device in time, and its prompt waited there for "
    "those of others, which are computed in order of urgency and arrival."
)
_COLUMNS = {
    "paid in time": ("paid.slo_attainment", 100, "%"),
    "free TTFT P50": ("free.median_ttft_ms", 1e-3, "s"),
    "free TTFT P99": ("free.p99_ttft_ms", 1e-3, "s"),
    "free worst wait": ("free.worst_wait_ms", 1e-3, "s"),
    "free asked": ("free.asked", 100, "%"),
    "free got": ("free.got", 100, "%"),
    "hostile got": ("hostile.got", 100, "%"),
    "Jain index": ("jain_index", 1, ""),
    "VTC gap (tokens)": ("vtc_gap", 1, ""),
    "tokens/s": ("output_throughput", 1, ""),
    "of the bound": ("of_bound", 100, "%"),
    "of its prefill part": ("of_prefill_bound", 100, "%"),
}


def page(summary: Numbers) -> str:
    """The whole page."""
    made_by = summary["made_by"]
    tables = [
        blocks(f"## {FLOODS[name].title.capitalize()}", _table(arms))
        for name, arms in summary["floods"].items()
    ]
    return page_of(
        "# A free tier beside a hostile tenant",
        f"{simulated_by(made_by)}, step times of {made_by['profile']}.",
        bullets(findings(summary["floods"])),
        _CONDITIONS,
        f"![Attainment of the paying tier, waits and share of the free tier, simulated]({PICTURE})",
        *tables,
    )


def findings(floods: Numbers) -> Iterator[str]:
    """What the numbers say, one line each."""
    hurry, free, calm = (floods[name] for name in ("hurry", "free", "calm"))
    usual, off = hurry[ROTATING], hurry[NO_AGING]
    yield (
        f"**The guarantee holds.** Under a flood that claims to be in a hurry the aged get "
        f"{_aged(usual)} of the prompt tokens ({_aged(hurry[LARGER_SHARE])} with a share of 0.3), "
        f"and no wait of the free tier is longer than {_shown(usual['of_bound'], 100, '%')} "
        "of what the bound allows "
        f"({_shown(usual['of_prefill_bound'], 100, '%')} of its part for prefill)."
    )
    yield (
        f"It is worth this much: the free tier gets {_shown(usual['free.got'], 100, '%')} of the "
        f"prompt tokens with aging, {_shown(off['free.got'], 100, '%')} without and "
        f"{_shown(hurry[NO_FAIRNESS]['free.got'], 100, '%')} where tenants do not take turns; its "
        f"worst wait is {_wait(usual)}, {_wait(off)} and {_wait(hurry[NO_FAIRNESS])}. It asked for "
        f"{_shown(usual['free.asked'], 100, '%')}."
    )
    yield (
        f"**The price**: {_kept(usual)} of the paying tier's requests are in time with it, "
        f"{_kept(off)} without and {_kept(hurry[LARGER_SHARE])} with a share of 0.3; without a "
        f"flood {_kept(calm[ROTATING])}."
    )
    yield (
        f"**Tenants in one class are not kept apart**: the flood costs the paying tier as much as "
        f"itself ({_kept(usual)} and {_shown(usual['hostile.slo_attainment'], 100, '%')} in time)."
    )
    yield (
        f"**Inside the free tier aging works against fairness**: with both the median wait is "
        f"{_shown(free[ROTATING]['free.median_ttft_ms'], 1e-3, 's')}, without aging "
        f"{_shown(free[NO_AGING]['free.median_ttft_ms'], 1e-3, 's')}, without fairness "
        f"{_shown(free[NO_FAIRNESS]['free.median_ttft_ms'], 1e-3, 's')}: the flood's own requests "
        "age, and come before new ones of others. The paying tier is not touched "
        f"({_kept(free[ROTATING])})."
    )
    yield (
        f"**`vtc` isolates tenants best** (worst wait of the free tier {_wait(hurry['vtc'])}) and "
        f"keeps no pace: {_kept(hurry['vtc'])} of the paying requests meet their targets. "
        f"`priority` starves the free tier until the flood is over ({_wait(hurry['priority'])})."
    )


# -- inside ---------------------------------------------------------------------------------------


def _table(arms: Numbers) -> Iterator[str]:
    rows = (
        [name, *(_shown(found[key], scale, unit) for key, scale, unit in _COLUMNS.values())]
        for name, found in arms.items()
    )
    return table(["", *_COLUMNS], rows)


def _aged(found: Numbers) -> str:
    total = sum(found[f"{tenant}.aged"] for tenant in ("free", "paid", "hostile"))
    return _shown(total, 100, "%")


def _wait(found: Numbers) -> str:
    return _shown(found["free.worst_wait_ms"], 1e-3, "s")


def _kept(found: Numbers) -> str:
    return _shown(found["paid.slo_attainment"], 100, "%")


def _shown(value: float | None, scale: float, unit: str) -> str:
    if value is None:
        return NONE
    value *= scale
    digits = 0 if value >= 100 else 1 if value >= 10 or unit else 3
    return f"{value:,.{digits}f}{' ' if unit else ''}{unit}"
