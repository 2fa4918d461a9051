"""The result as a page of markdown: verdicts first, then the numbers of every part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.measures import Measure
from experiments.record import MACHINE_70B, provenance
from experiments.scenarios.arms import CHUNKED, PREFILL_FIRST, ROTATING, label
from experiments.scenarios.measures import (
    ATTAINMENT,
    BATCH,
    MEAN_E2E,
    P99_TTFT,
    PEAK_KV,
    TABLES,
)
from experiments.scenarios.settings import KEPT_SHARE
from experiments.scenarios.verdicts import points, relative, verdicts
from experiments.tables.parts import table

Numbers = Mapping[str, Any]

_RULES = (
    "A claim *holds* if the mean over the seeds meets it and so does the whole 95 % interval, "
    "*holds in the mean only* if the interval reaches beyond. An arm is *better* where the paired "
    "interval of the difference lies above zero, and *not worse* unless all of it lies below. "
    "Intervals are for one number at a time. Throughput is output tokens/s."
)
_DEFINITIONS = (
    "All numbers are means over the seeds; latencies, attainment and tokens/s are those of the "
    "window from 200 to 800 s, memory, copies and counts those of the whole run of 900 s. A GPU "
    "has a link of its own, and KV sizes are per GPU. Chat is asked for TTFT <= 1 s and TPOT <= "
    "100 ms; rejected and unfinished requests count as missed."
)


def page(summary: Numbers) -> str:
    """The whole page."""
    lines = ["# Is the rotating scheduler worth having?", "", *_provenance(summary["made_by"]), ""]
    lines += [*_verdict_table(summary["parts"]), "", _RULES, "", _DEFINITIONS, ""]
    for name, part in summary["parts"].items():
        lines += [*_part(name, part), ""]
    return "\n".join(lines).rstrip() + "\n"


# -- inside ---------------------------------------------------------------------------------------


def _provenance(made_by: Numbers) -> Iterator[str]:
    yield provenance(made_by, f"{MACHINE_70B} `{made_by['profile']}`")
    if made_by["quick"]:
        yield ""
        yield "**A quick run: few seeds and points. It shows that the study works, and no more.**"
    if made_by["stale"]:
        yield ""
        stale = ", ".join(made_by["stale"])
        yield f"Of another version or extent than the above: {stale}."


def _verdict_table(parts: Numbers) -> list[str]:
    rows = [[row.part, row.claim, row.measured, row.outcome] for row in verdicts(parts)]
    return _table(["part", "claim", "measured [95 % interval]", "verdict"], rows)


def _part(name: str, part: Numbers) -> Iterator[str]:
    yield f"## {name}: {part['title']}"
    yield ""
    if name == "no-slo":
        yield from _without_slo(part)
    elif name == "wrong-slo":
        yield from _wrong_slo(part)
    else:
        yield from _setting(part)


def _setting(part: Numbers) -> Iterator[str]:
    yield _star(part)
    yield ""
    if "first_come" in part:
        yield _first_come(part["first_come"])
        yield ""
    if "arms" not in part:
        return
    yield "Tuned, on seeds of their own (`experiments/tuned.toml`):"
    yield ""
    for arm, settings in part["tuned"].items():
        yield f"* {label(arm)}: {', '.join(f'`{given}`' for given in settings)}"
    for title, measures in TABLES.items():
        yield ""
        yield from _table(
            [title, *(each.title for each in measures)],
            [[label(arm), *_cells(found, measures)] for arm, found in part["arms"].items()],
        )
    for reference, arms in part["differences"].items():
        yield ""
        yield from _differences(f"against {label(reference)}", arms)
    yield ""
    yield from _swept(part["sweep"])
    yield ""
    yield from _published(part["published"])
    if "ablation" in part:
        yield ""
        yield from _ablation(part["ablation"])


def _star(part: Numbers) -> str:
    star, c = part["star"], part["conditions"]
    memory = f"{c['kv_tokens']:,} tokens" if c["kv_tokens"] else "all that the hardware has"
    caching = "on" if c["prefix_caching"] else "off"
    others = "".join(f"; {label(arm)}: {said}" for arm, said in star["other_modes"].items())
    return (
        f"Load: the largest chat rate at which {label(star['reference'])} keeps "
        f"{KEPT_SHARE:.0%} of the chat requests within their targets: **{star['said']} "
        f"requests/s**{others}. For every arm: workload `{c['workload']}`, `{c['load']}`, KV "
        f"memory {memory}, link to the host {c['host_link_gb_per_s']:g} GB/s each way, "
        f"{c['host_memory_gib_per_gpu']:g} GiB of host memory per GPU for swapped KV (vLLM's "
        f"default), prefix caching {caching}, {c['host_step_ms']:g} ms and "
        f"{c['host_per_sequence_us']:g} us per sequence of host time before every step; "
        f"seeds {_listed(part['seeds'])}."
    )


def _first_come(found: Numbers) -> str:
    shares = {arm: each[ATTAINMENT]["mean"] for arm, each in found["arms"].items()}
    listed = ", ".join(f"{label(arm)} {_percent(share)}" for arm, share in shares.items())
    kept = any((shares[arm] or 0) >= KEPT_SHARE for arm in (CHUNKED, PREFILL_FIRST))
    said = (
        "so a mode of vLLM would be a reference here as well."
        if kept
        else "so no chat rate exists at which vLLM keeps the share: with 64 batch requests always "
        "waiting in front, first come, first served has no such load. The reference is strict "
        "priority."
    )
    return f"Chat attainment at {found['rate_per_s']:g} chat requests/s: {listed}, {said}"


def _differences(title: str, arms: Numbers) -> list[str]:
    head = [title, "chat attainment", "chat P99 TTFT", "batch tokens/s", "peak KV"]
    rows = [
        [
            label(arm),
            str(points(found[ATTAINMENT])),
            *(str(relative(found[key])) for key in (P99_TTFT, BATCH, PEAK_KV)),
        ]
        for arm, found in arms.items()
    ]
    return _table(head, rows)


def _swept(found: Numbers) -> Iterator[str]:
    """Chat attainment and batch tokens/s of every arm over the load."""
    head = [f"{factor:g} x" for factor in found["factors"]]
    rows = [
        [
            label(arm),
            *(
                f"{_percent(point[ATTAINMENT]['mean'])}, "
                f"{_number(point[BATCH]['mean'], Measure(BATCH, ''))}"
                for point in points
            ),
        ]
        for arm, points in found["arms"].items()
    ]
    seeds = _listed(found["seeds"])
    yield f"Chat attainment and batch tokens/s at multiples of that chat rate (seeds {seeds}):"
    yield ""
    yield from _table(["arm", *head], rows)


def _published(found: Numbers) -> Iterator[str]:
    yield (
        "Host time as it is published: hidden behind the device for the arms in this table, the "
        "same as above for all others, `rotating` among them. `rotating` against them:"
    )
    yield ""
    rows = [
        [
            label(arm),
            _percent(found["arms"][arm][ATTAINMENT]["mean"]),
            _number(found["arms"][arm][BATCH]["mean"], Measure(BATCH, "", 1, 1)),
            str(points(change[ATTAINMENT])),
            str(relative(change[BATCH])),
        ]
        for arm, change in found["rotating_over"].items()
    ]
    head = ["arm", "chat attainment", "batch tokens/s", "rotating: chat", "rotating: batch"]
    yield from _table(head, rows)


def _ablation(found: Numbers) -> Iterator[str]:
    yield from _differences(f"{label(ROTATING)} without, against the whole", found["differences"])
    for line in found["absent"]:
        yield ""
        yield f"Not shown: {line}."


def _without_slo(part: Numbers) -> Iterator[str]:
    rows = [
        [
            trace,
            *(f"{each[MEAN_E2E]['mean'] / 1e3:,.2f}" for each in found["arms"].values()),
            f"{1 + (found['rotating_over_fcfs'][MEAN_E2E]['relative'] or 0.0):.3f}",
            str(relative(found["rotating_over_fcfs"][MEAN_E2E])),
        ]
        for trace, found in part["traces"].items()
    ]
    head = ["trace", "fcfs, mean E2E (s)", "rotating, mean E2E (s)", "ratio", "difference"]
    yield from _table(head, rows)
    for line in part["absent"]:
        yield ""
        yield f"Skipped: {line}."


def _wrong_slo(part: Numbers) -> Iterator[str]:
    yield (
        f"{part['rate_per_s']:.3f} chat requests/s in all, under `rotating`; seeds "
        f"{_listed(part['seeds'])}."
    )
    yield ""
    rows = []
    for scale, found in part["arms"].items():
        change = part["differences"].get(scale)
        rows.append(
            [
                f"targets {scale}",
                _percent(found[ATTAINMENT]["mean"]),
                str(points(change[ATTAINMENT])) if change else "",
                _percent(found["classes.stated.slo_attainment"]["mean"]),
                _number(found[BATCH]["mean"], Measure(BATCH, "", 1, 1)),
            ]
        )
    head = ["one tenant", "others' attainment", "change", "its own, as stated", "batch tokens/s"]
    yield from _table(head, rows)


def _cells(found: Numbers, measures: Sequence[Measure]) -> list[str]:
    return [_number(found[each.key]["mean"], each) for each in measures]


def _number(value: float | None, measure: Measure) -> str:
    return "none" if value is None else f"{measure.scale * value:,.{measure.digits}f}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column is text, the others are numbers or sentences."""
    return list(table(head, rows, texts=len(head)))
