"""What `superinfer-sim plan` says: a table, JSON and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from superinfer.lab.notices.overload import TOO_HIGH
from superinfer.lab.notices.trust import OPTIMISTIC, assumed_warning, nominal, range_warning
from superinfer.lab.versions import versions

if TYPE_CHECKING:
    from rich.table import Table

    from sim.studies.candidates import Candidate, Plan, PlanWish

_FIGURES = (
    "slo_attainment",
    "request_goodput",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "p99_ttft_ms",
    "p99_tpot_ms",
)
EXACT = 1e-12
"""A share that is this little below what is asked for reaches it: rounding."""
_UNITS = {"min_tokens_per_s": "tokens/s"}
_LABELS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2el_ms": "E2E", "min_tokens_per_s": "rate"}


def plan_json(plan: Plan) -> dict[str, Any]:
    """What `--json` prints and `plan.json` holds."""
    wish, found = plan.wish, plan.found()
    return {
        "version": 1,
        "simulated": True,
        "wanted_attainment": wish.attainment,
        "most_gpus": wish.most_gpus,
        "seeds": wish.seeds,
        "currency": plan.prices.currency,
        "answer": _answer(found[0]) if found else None,
        "candidates": [_candidate(plan, each) for each in plan.candidates],
        "warnings": warnings(plan),
        "run": plan.config.resolved(),
        "versions": versions("superinfer", "simpy", "numpy"),
    }


def page(plan: Plan) -> Table:
    """A row per candidate that can run, the answer first."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    currency = escape(plan.prices.currency)
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("Device", no_wrap=True)
    heads = ("TP", "replicas", "GPUs", "SLO %", "goodput/s", "per GPU", "out tokens/s")
    for head in (*heads, f"{currency}/h", f"{currency}/M out"):
        found.add_column(head, justify="right")
    kept = plan.found()
    rest = [each for each in plan.candidates if each.gpus is None and not each.unfit]
    for each in [*kept, *rest]:
        found.add_row(escape(each.device), str(each.tp), *_cells(plan, each))
    found.caption, found.caption_justify = _caption(plan), "left"
    return found


def warnings(plan: Plan) -> list[str]:
    """Who is out and why, and what makes the figures weak."""
    return [*_out_warnings(plan), *_weak_warnings(plan), *_price_warnings(plan)]


# -- inside ---------------------------------------------------------------------------------------


def _answer(candidate: Candidate) -> dict[str, Any]:
    names = ("device", "tp", "replicas", "gpus")
    return {name: getattr(candidate, name) for name in names}


def _candidate(plan: Plan, each: Candidate) -> dict[str, Any]:
    """All that is known of a candidate."""
    summary, price = each.summary, plan.prices.devices.get(each.device)
    return {
        **_answer(each),
        "step_times": _step_times(each),
        "alone_attainment": each.alone["slo_attainment"] if each.alone else None,
        **{name: summary[name] if summary else None for name in _FIGURES},
        "goodput_per_gpu": _per_gpu(each),
        "per_gpu_hour": price.per_gpu_hour if price else None,
        "price_source": price.source if price else None,
        "per_hour": plan.per_hour(each),
        "per_million_output_tokens": plan.per_million(each, "output_throughput"),
        "per_million_tokens": plan.per_million(each, "total_token_throughput"),
        "probes": [
            {
                "replicas": count,
                "gpus": count * each.tp,
                "attainments": each.attainments[count],
                **{key: probe[key] for key in _FIGURES},
            }
            for count, probe in sorted(each.probes.items())
        ],
        "unfit": each.unfit or None,
        "failure": each.failure or None,
    }


def _per_gpu(each: Candidate) -> float | None:
    goodput = each.summary["request_goodput"] if each.summary else None
    return goodput / each.gpus if goodput is not None and each.gpus else None


def _step_times(each: Candidate) -> str | None:
    """The profile that the times of its steps are from, or `roofline:<device>`."""
    known = each.alone
    return known["trust"]["profile"] if known and known.get("trust") else None


def _cells(plan: Plan, each: Candidate) -> list[str]:
    summary = each.summary
    if summary is None or each.replicas is None or each.gpus is None:
        return ["-"] * 8
    return [
        f"{each.replicas:,}",
        f"{each.gpus:,}",
        _number(100 * summary["slo_attainment"]),
        _number(summary["request_goodput"]),
        _number(_per_gpu(each)),
        _number(summary["output_throughput"]),
        _number(plan.per_hour(each)),
        _number(plan.per_million(each, "output_throughput")),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _caption(plan: Plan) -> str:
    found = plan.found()
    if not found:
        most = plan.wish.most_gpus
        return f"No candidate of up to {most} GPU{'s' * (most != 1)} keeps the targets."
    best = found[0]
    plural = "" if best.gpus == 1 else "s"
    return (
        f"{best.gpus} GPU{plural} {best.device} ({best.replicas} x tp {best.tp}): the fewest with "
        f"which {100 * plan.wish.attainment:g} % of the requests meet their targets"
        f"{of_draws(plan.wish)}{_one_less(best)} (simulated)."
    )


def of_draws(wish: PlanWish) -> str:
    """Of which draw a share is, where there are several."""
    return f" in the worst of {wish.seeds} draws" if wish.seeds > 1 else ""


def _one_less(best: Candidate) -> str:
    """What would be reached with one replica less, which was tried; empty where there was one."""
    less = (best.replicas or 0) - 1
    if less not in best.probes:
        return ""
    return f"; with {counted(less)} {100 * best.probes[less]['slo_attainment']:.4g} % do"


def _out_warnings(plan: Plan) -> Iterator[str]:
    """Candidates without an answer."""
    wanted = f"{100 * plan.wish.attainment:g} %"
    for each in plan.candidates:
        if each.unfit:
            yield f"{each.name}: left out: {each.unfit}"
        elif each.failure:
            yield f"{each.name}: left out: {each.failure}"
        elif each.search is None and each.alone is not None:
            reached = f"{100 * (each.alone['slo_attainment'] or 0.0):.4g} %"
            why = "; ".join(_miss_words(each.alone)) or "requests are refused"
            yield (
                f"{each.name}: no number of replicas helps: alone on an empty machine {reached} of "
                f"the requests meet their targets, {wanted} are wanted: {why}"
            )
        elif each.gpus is None and each.probes:
            most = max(each.probes)
            reached = f"{100 * (each.probes[most]['slo_attainment'] or 0.0):.4g} %"
            verb = "is" if most == 1 else "are"
            yield f"{each.name}: {counted(most)} {verb} not enough: {reached} meet their targets"


def counted(replicas: int) -> str:
    """So many replicas, in words."""
    return "1 replica" if replicas == 1 else f"{replicas:,} replicas"


def _miss_words(alone: Mapping[str, Any]) -> Iterator[str]:
    """Which class misses what, with its worst request."""
    for name, outcome in alone["plan"].items():
        for miss in outcome["missed"]:
            unit = _UNITS.get(miss["kind"], "ms")
            yield (
                f"class {name} misses {_LABELS[miss['kind']]} {miss['target']:g} {unit} in "
                f"{100 * miss['share']:.3g} % of its requests (a prompt of "
                f"{miss['prompt_tokens']:,} tokens: {miss['value']:.4g} {unit})"
            )


def _weak_warnings(plan: Plan) -> Iterator[str]:
    """What the figures rest on, also those of candidates that were found wanting."""
    for each in plan.candidates:
        if trust := _trust(each):
            for warning in (range_warning(trust), assumed_warning(trust)):
                if warning:
                    yield f"{each.name}: {warning}"
    growing = [f"{each.name}: {names}" for each in plan.found() if (names := _growing(each))]
    if growing:
        yield (
            f"waits grow through the run ({'; '.join(growing)}): {TOO_HIGH}, and the answer holds "
            "for such a run only"
        )
    behind = [f"{each.name}: {names}" for each in plan.found() if (names := _behind(plan, each))]
    if behind:
        wanted = f"{100 * plan.wish.attainment:g} %"
        yield f"{wanted} of all requests is not {wanted} of each class: {'; '.join(behind)}"
    named = [each.name for each in plan.found() if nominal(_trust(each))]
    if named:
        others = "; those of the others are from profiles" if len(named) < len(plan.found()) else ""
        yield f"{'; '.join(named)}: {OPTIMISTIC}{others}"


def _growing(each: Candidate) -> str:
    """The classes whose waits grow through the run of the answer."""
    outcomes = each.summary["plan"] if each.summary else {}
    return ", ".join(name for name, outcome in outcomes.items() if outcome["grows"])


def _behind(plan: Plan, each: Candidate) -> str:
    """The classes with a smaller share in their targets than was asked for of all requests."""
    classes = (each.summary or {}).get("classes") or {}
    shares = {name: group["slo_attainment"] for name, group in classes.items()}
    return ", ".join(
        f"{name} {100 * share:.4g} %"
        for name, share in shares.items()
        if share is not None and share < plan.wish.attainment - EXACT
    )


def _trust(each: Candidate) -> Mapping[str, Any]:
    """Of the run that settled a candidate: that of the answer, else that with the most replicas,
    else everybody alone; empty where nothing was run.
    """
    last = each.probes[max(each.probes)] if each.probes else each.alone
    settled = each.summary or last
    return (settled or {}).get("trust") or {}


def _price_warnings(plan: Plan) -> Iterator[str]:
    devices = dict.fromkeys(each.device for each in plan.candidates if each.gpus is not None)
    prices = plan.prices.devices
    missing = [name for name in devices if name not in prices]
    if missing:
        yield f"no price for {', '.join(missing)} (--prices)"
    examples = [n for n in devices if n in prices and prices[n].source.startswith("example")]
    if examples:
        yield f"prices of {', '.join(examples)} are examples: give your own with --prices"
