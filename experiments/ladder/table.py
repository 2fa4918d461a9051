"""The result as a page of markdown: what each rung is worth, then its numbers."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.ladder.plot import PICTURE
from experiments.ladder.settings import KV_BITS
from experiments.scenarios.measures import ATTAINMENT, BATCH, P99_TTFT, PEAK_KV
from experiments.scenarios.verdicts import points, relative
from experiments.studykit.measures import Measure
from experiments.studykit.record import MACHINE_70B, provenance
from experiments.tables.parts import Numbers, blocks, page_of, table

MEASURES = (
    Measure(ATTAINMENT, "chat attainment (%)", 100, 1),
    Measure("classes.chat.median_ttft_ms", "P50 TTFT (ms)"),
    Measure(P99_TTFT, "P99 TTFT (ms)"),
    Measure("classes.chat.p999_itl_ms", "P99.9 ITL (ms)"),
    Measure(BATCH, "batch tokens/s", 1, 1),
    Measure(PEAK_KV, "peak KV (GiB per GPU)", 1, 2),
    Measure("prefix_hit_rate", "prefix hits (%)", 100, 1),
    Measure("kv_bits_mean", "KV bits", 1, 2),
    Measure("total_rotations", "rotations", 1, 0),
    Measure("d2h_gib", "to the host (GiB per link)", 1, 1),
    Measure("h2d_gib", "from the host (GiB per link)", 1, 1),
)
REPORTED = tuple(each.key for each in MEASURES)
_CONDITIONS = (
    "Each rung has all that the ones above it in the table have, and one thing more; the first is "
    "the best of three sizes of a fixed chunk. Prefix caching is on for all, so that a cache "
    "policy has something to do; else the settings and loads are those of "
    "`experiments.scenarios`. Before *learned reuse* the memory policy is `lru`. From *mixed "
    f"precision* on batch requests may lose bits down to {KV_BITS}, chat requests none; "
    "what that costs in quality is unmeasured. All requests of a class are of one tenant here, so "
    "*tenant fairness* orders two tenants. A change is called better or worse where its paired "
    "95 % interval lies on one side of zero."
)


def page(summary: Numbers) -> str:
    """The whole page."""
    made_by = summary["made_by"]
    return page_of(
        "# What each mechanism is worth",
        provenance(made_by, f"{MACHINE_70B} `{made_by['profile']}`"),
        _CONDITIONS,
        f"![Chat attainment and batch throughput, rung by rung, simulated]({PICTURE})",
        *(_scenario(name, found) for name, found in summary["scenarios"].items()),
    )


# -- inside ---------------------------------------------------------------------------------------


def _scenario(name: str, found: Numbers) -> str:
    shown = found["fixed_chunks"] | found["rungs"]
    head = ["rung", *(each.title for each in MEASURES)]
    rows = ([rung, *(each.mean(numbers) for each in MEASURES)] for rung, numbers in shown.items())
    return blocks(
        f"## {name}: {found['title']}",
        f"At {found['rate_per_s']:.5g} chat requests/s.",
        worth_table(found),
        table(head, rows, texts=len(head)),
    )


def worth_table(found: Numbers) -> Iterator[str]:
    """What each rung of a scenario changes."""
    head = ["rung", "chat attainment", "chat P99 TTFT", "batch tokens/s", "peak KV", "worth"]
    rows = [_row(rung, step) for rung, step in found["steps"].items()]
    return table(head, [*rows, _row("**all of it**", found["whole"])], texts=len(head))


def _row(rung: str, step: Numbers) -> list[str]:
    return [
        rung,
        str(points(step[ATTAINMENT])),
        *(_relative(step, key) for key in (P99_TTFT, BATCH, PEAK_KV)),
        worth(step),
    ]


def _relative(step: Numbers, key: str) -> str:
    """A change in per cent; none where no request has such a number."""
    return str(relative(step[key])) if key in step else "none"


def worth(step: Numbers) -> str:
    """What a step changes beyond doubt, in words."""
    better: list[str] = []
    worse: list[str] = []
    for key, what, sign in (
        (ATTAINMENT, "chat attainment", 1),
        (P99_TTFT, "chat P99 TTFT", -1),
        (BATCH, "batch tokens/s", 1),
        (PEAK_KV, "peak KV", -1),
    ):
        change = step.get(key, {"low": None})
        if change["low"] is None or change["low"] <= 0 <= change["high"]:
            continue
        (better if sign * change["low"] > 0 else worse).append(what)
    said = [f"better: {', '.join(better)}"] if better else []
    said += [f"worse: {', '.join(worse)}"] if worse else []
    return "; ".join(said) or "nothing that shows"
