"""The result as a page of markdown: verdicts first, then the numbers of every part."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.scenarios.arms import CHUNKED, PREFILL_FIRST, ROTATING, label
from experiments.scenarios.measures import ATTAINMENT, BATCH, MEAN_E2E, P99_TTFT, PEAK_KV, TABLES
from experiments.scenarios.settings import KEPT_SHARE
from experiments.scenarios.verdicts import points, relative, verdicts
from experiments.studykit.measures import Measure
from experiments.studykit.record import MACHINE_70B, provenance
from experiments.tables.parts import Lines, Numbers, blocks, bullets, page_of, table

_QUICK = "**A quick run: few seeds and points. It shows that the study works, and no more.**"
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
    made_by, parts = summary["made_by"], summary["parts"]
    stale = ", ".join(made_by["stale"])
    return page_of(
        "# Is the rotating scheduler worth having?",
        provenance(made_by, f"{MACHINE_70B} `{made_by['profile']}`"),
        _QUICK if made_by["quick"] else "",
        f"Of another version or extent than the above: {stale}." if stale else "",
        _verdict_table(parts),
        _RULES,
        _DEFINITIONS,
        *(_part(name, part) for name, part in parts.items()),
    )


# -- inside ---------------------------------------------------------------------------------------


def _verdict_table(parts: Numbers) -> Lines:
    rows = [[row.part, row.claim, row.measured, row.outcome] for row in verdicts(parts)]
    return _table(["part", "claim", "measured [95 % interval]", "verdict"], rows)


def _part(name: str, part: Numbers) -> str:
    show = {"no-slo": _without_slo, "wrong-slo": _wrong_slo}.get(name, _setting)
    return blocks(f"## {name}: {part['title']}", show(part))


def _setting(part: Numbers) -> str:
    return blocks(
        _star(part),
        _first_come(part["first_come"]) if "first_come" in part else "",
        _compared(part) if "arms" in part else "",
    )


def _compared(part: Numbers) -> str:
    """All arms at one load, their differences, and what else was varied."""
    tuned = (
        f"{label(arm)}: {', '.join(f'`{given}`' for given in settings)}"
        for arm, settings in part["tuned"].items()
    )
    return blocks(
        "Tuned, on seeds of their own (`experiments/tuned.toml`):",
        bullets(tuned),
        *(_measured(title, measures, part["arms"]) for title, measures in TABLES.items()),
        *(
            _differences(f"against {label(reference)}", arms)
            for reference, arms in part["differences"].items()
        ),
        _swept(part["sweep"]),
        _published(part["published"]),
        _ablation(part["ablation"]) if "ablation" in part else "",
    )


def _measured(title: str, measures: Sequence[Measure], arms: Numbers) -> Lines:
    rows = [
        [label(arm), *(_number(found[each.key]["mean"], each) for each in measures)]
        for arm, found in arms.items()
    ]
    return _table([title, *(each.title for each in measures)], rows)


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


def _differences(title: str, arms: Numbers) -> Lines:
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


def _swept(found: Numbers) -> str:
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
    return blocks(
        f"Chat attainment and batch tokens/s at multiples of that chat rate (seeds {seeds}):",
        _table(["arm", *head], rows),
    )


def _published(found: Numbers) -> str:
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
    return blocks(
        "Host time as it is published: hidden behind the device for the arms in this table, the "
        "same as above for all others, `rotating` among them. `rotating` against them:",
        _table(head, rows),
    )


def _ablation(found: Numbers) -> str:
    return blocks(
        _differences(f"{label(ROTATING)} without, against the whole", found["differences"]),
        *(f"Not shown: {line}." for line in found["absent"]),
    )


def _without_slo(part: Numbers) -> str:
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
    return blocks(_table(head, rows), *(f"Skipped: {line}." for line in part["absent"]))


def _wrong_slo(part: Numbers) -> str:
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
    return blocks(
        f"{part['rate_per_s']:.3f} chat requests/s in all, under `rotating`; seeds "
        f"{_listed(part['seeds'])}.",
        _table(head, rows),
    )


def _number(value: float | None, measure: Measure) -> str:
    return "none" if value is None else f"{measure.scale * value:,.{measure.digits}f}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    """The first column is text, the others are numbers or sentences."""
    return table(head, rows, texts=len(head))
