"""The result as markdown: tables out of `summary.json` alone, and the page that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from experiments.headline.claims import Finding, findings
from experiments.headline.measures import (
    ATTAINMENT,
    E2E,
    HIGHER_IS_BETTER,
    MEASURES,
    PEAK,
    TOKENS,
    TTFT,
    UNSERVED,
)
from experiments.headline.settings import OURS, VLLM, VLLM_TUNED, label
from experiments.headline.workloads import WORKLOADS
from experiments.scenarios.arms import ARMS
from experiments.studykit.measures import Measure
from experiments.studykit.record import provenance
from experiments.tables.parts import Lines, Numbers, blocks, bullets, page_of, spread, table
from superinfer.lab.report.values import NONE

SHARES = (ATTAINMENT, UNSERVED)
"""Of all requests: they differ by points."""
_OVERVIEW = (E2E, TTFT, TOKENS, PEAK)
"""What the overview compares with vLLM v0.6.0."""


def page(summary: Numbers) -> str:
    """The whole page of results."""
    parts = summary["parts"]
    stale = summary["made_by"].get("stale")
    return page_of(
        "# The article's table, by simulation",
        provenance(summary["made_by"], "step times as each part says"),
        f"Of another version or extent: {', '.join(stale)}." if stale else "",
        blocks("## The article's claims", claims(summary)) if "70b" in parts else "",
        "## All parts",
        overview(summary),
        *(blocks(f"## {parts[name]['title']}", section(summary, name)) for name in parts),
    )


def section(summary: Numbers, name: str) -> str:
    """One part: what it is, its tables and its picture."""
    part = summary["parts"][name]
    tuned = (
        f"{label(arm)}: {', '.join(f'`{each}`' for each in settings)}"
        for arm, settings in part["tuned"].items()
    )
    return blocks(
        described(summary, name),
        systems(summary, name),
        against(summary, name),
        f"![Curves over the load, simulated]({name}.png)",
        skew(summary) if "skew" in part else "",
        "Tuned:",
        bullets(tuned),
    )


def described(summary: Numbers, name: str) -> str:
    """What all arms of a part have in common."""
    part = summary["parts"][name]
    found, extent, reference = part["conditions"], part["extent"], part["reference"]
    rates = ", ".join(f"{kind} {rate:.2f}/s" for kind, rate in part["rates_per_s"].items())
    low_s, high_s = found["window_s"]
    caching = "on" if found["prefix_caching"] else "off"
    nominal = "" if found["measured"] else " (nominal figures, optimistic)"
    notes = "; ".join(found["notes"])
    return blocks(
        f"Targets: {found['asked']}; latencies and attainment of {found['judged']}. Workload "
        f"`{found['spec']}`; the reference load, {reference['load']:.3f} times its rates, is the "
        f"largest at which {ARMS[reference['mode']].label} keeps 78 % ({rates} in the window, seed "
        f"0). Step times `{found['step_times']}`{nominal}; KV memory for {found['kv_tokens']:,} "
        f"tokens ({found['kv_gib']:.1f} GiB per GPU), prefix caching {caching}, for every arm. "
        f"{extent['seeds']} seeds, measured from {low_s:g} to {high_s:g} s of "
        f"{found['duration_s']:g} s.",
        f"{notes[0].upper()}{notes[1:]}." if notes else "",
    )


def claims(summary: Numbers) -> Lines:
    """The article's figures beside ours."""
    head = ["the article claims", "measured as", "arm", "against", "simulated [95 %]", "reached"]
    return table(head, map(_claim, findings(summary["parts"]["70b"])), texts=4, last_texts=1)


def overview(summary: Numbers) -> Lines:
    """A row per part: attainment, and how ours differs from vLLM v0.6.0 as it comes."""
    head = ["part", "attainment (%): vLLM default", "vLLM tuned", "best other rival", "SuperInfer"]
    head += [f"{_name(each)} against vLLM default (%)" for each in _OVERVIEW]
    return table(head, map(_overview_row, summary["parts"].values()))


def systems(summary: Numbers, name: str) -> Lines:
    """Every arm of a part at the reference load."""
    arms = summary["parts"][name]["arms"]
    shown = _shown(arms)
    rows = (
        [_bold(arm), *(_spread(found[each.key], each) for each in shown)]
        for arm, found in arms.items()
    )
    return table(["system", *(each.title for each in shown)], rows)


def against(summary: Numbers, name: str) -> Lines:
    """How SuperInfer differs from each rival, paired by seed, and where it is better or worse."""
    part = summary["parts"][name]
    shown = _shown(part["arms"])
    heads = [f"{_name(each)} ({'points' if each in SHARES else '%'})" for each in shown]
    rows = (
        [
            label(rival),
            *(_difference(found[each.key], each) for each in shown),
            *better_and_worse(found, shown),
        ]
        for rival, found in part["ours_over"].items()
        if not rival.startswith(OURS)
    )
    return table(["SuperInfer against", *heads, "better", "worse"], rows, last_texts=2)


def better_and_worse(found: Numbers, shown: tuple[Measure, ...]) -> tuple[str, str]:
    """Measures whose whole interval lies on one side of zero."""
    good: list[str] = []
    bad: list[str] = []
    for each in shown:
        low, high = found[each.key]["low"], found[each.key]["high"]
        if low is None or high is None or low <= 0.0 <= high:
            continue
        (good if (low > 0.0) == (each in HIGHER_IS_BETTER) else bad).append(_name(each))
    return ", ".join(good) or NONE, ", ".join(bad) or NONE


def skew(summary: Numbers) -> Lines:
    """What uneven routing changes, with nominal step times."""
    part = summary["parts"]["mixtral"]["skew"]
    shown = (ATTAINMENT, E2E, TTFT, TOKENS)
    yield "| routing skew | system | " + " | ".join(each.title for each in shown) + " |"
    yield "|--:|---|" + "--:|" * len(shown)
    for value, row in part["rows"].items():
        for arm, found in row["arms"].items():
            cells = [_spread(found[each.key], each) for each in shown]
            yield f"| {value} | {label(arm)} | " + " | ".join(cells) + " |"


TABLES: Mapping[str, Callable[[Numbers], Lines]] = {
    "headline claims": claims,
    "headline overview": overview,
    **{f"headline {name}": partial(systems, name=name) for name in WORKLOADS},
    **{f"headline {name} against": partial(against, name=name) for name in WORKLOADS},
    "headline skew": skew,
}
"""The tables of docs/headline.md by name, each a function of what `summary.json` holds."""


# -- inside ---------------------------------------------------------------------------------------


def _shown(arms: Numbers) -> tuple[Measure, ...]:
    return tuple(each for each in MEASURES if each.key in arms[OURS])


def _bold(arm: str) -> str:
    return f"**{label(arm)}**" if arm.startswith(OURS) else label(arm)


def _name(measure: Measure) -> str:
    """The title without its unit."""
    return measure.title.split(" (")[0].removeprefix("SLO ")


def _claim(finding: Finding) -> list[str]:
    measure = finding.claim.measure
    if measure == ATTAINMENT:
        shown = f"{measure.text(finding.before)} -> {_spread(finding.change, measure)} %"
    else:
        shown = spread(finding.change, 1, 100, "+") + " %"
    arms = label(finding.arm), label(finding.rival)
    return [finding.claim.words, _name(measure), *arms, shown, finding.reached]


def _overview_row(part: Numbers) -> list[str]:
    arms, over = part["arms"], part["ours_over"][VLLM]
    rest = [name for name in arms if not name.startswith((OURS, VLLM))]
    best = max(rest, key=lambda name: arms[name][ATTAINMENT.key]["mean"])
    return [
        part["title"],
        *(ATTAINMENT.mean(arms[name]) for name in (VLLM, VLLM_TUNED)),
        f"{ATTAINMENT.mean(arms[best])} ({label(best)})",
        ATTAINMENT.mean(arms[OURS]),
        *(_difference(over[each.key], each) for each in _OVERVIEW),
    ]


def _spread(found: Numbers, measure: Measure) -> str:
    """Mean and interval, which for a share ends at 0 and 100 %."""
    mean = measure.text(found["mean"])
    if found["mean"] is None or found["low"] is None:
        return mean
    low, high = max(0.0, found["low"]), found["high"]
    if measure in SHARES:
        high = min(1.0, high)
    return f"{mean} [{measure.text(low)}, {measure.text(high)}]"


def _difference(found: Numbers, measure: Measure) -> str:
    """Points of shares, per cent of everything else."""
    if measure in SHARES:
        return spread({"mean": found["difference"], **found}, 1, 100, "+")
    ends = {end: found[f"relative_{end}"] for end in ("low", "high")}
    return spread({"mean": found["relative"], **ends}, 1, 100, "+")
