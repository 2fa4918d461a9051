"""What `superinfer-sim suggest-slo` says: a table, JSON, a file of classes, and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from superinfer.lab.notices.overload import TOO_HIGH
from superinfer.lab.studies.targets import KINDS, LEVELS, USUAL, Miss
from superinfer.lab.versions import versions

if TYPE_CHECKING:
    from rich.table import Table

    from sim.studies.suggest import Search


def classes_toml(search: Search) -> bytes:
    """A file that `--classes` reads."""
    run, wish = search.config.run, search.wish
    about = (
        f"suggest-slo of superinfer {versions('superinfer')['superinfer']}, simulated: scheduler "
        f"{run.scheduler}, memory {run.memory}, {run.model} on {run.device}, tp {run.tp}, trace "
        f"{run.trace} at {run.rate_scale:g} times its rate."
    )
    rule = (
        f"P{100 * wish.quantile:g} reached plus {100 * wish.margin:g} %; met in the last check by: "
        f"{attainments(search) or 'not checked'}."
    )
    head = "".join(f"# {ascii(line)[1:-1]}\n" for line in (about, rule))
    return head.encode() + msgspec.toml.encode(
        {"version": 1, "classes": _tidy(search.class_tables())}
    )


def suggestion(search: Search) -> dict[str, Any]:
    """What `--json` prints."""
    wish = search.wish
    return {
        "version": 1,
        "simulated": True,
        "quantile": wish.quantile,
        "margin": wish.margin,
        "wanted_attainment": wish.attainment,
        "checks": search.checks,
        "reached": bool(search.proposals) and not search.short(),
        "classes": {name: _class_json(search, name) for name in search.names()},
        "warnings": warnings(search),
        "run": search.config.resolved(),
        "versions": versions("superinfer", "simpy", "numpy"),
    }


def page(search: Search) -> Table:
    """A row per class and target: the floor, what was reached, what is stated and proposed."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    at = f"P{100 * search.wish.quantile:g}"
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("Class", no_wrap=True)
    found.add_column("Target", no_wrap=True)
    names = ("alone P50", "P95", "P99", f"at load {at}", "stated", "met %", "proposed", "met %")
    for name in names:
        found.add_column(name, justify="right")
    for name in search.names():
        entry, label = _class_json(search, name), escape(name)
        for kind, row in entry["targets"].items():
            floor = [_number(row["alone"][level]) for level in ("p50", "p95", "p99")]
            found.add_row(label, kind, *floor, *_row_cells(row))
            label = ""
        shares = (entry["stated_attainment"], entry["attainment"])
        before, after = (_number(share, 100.0) for share in shares)
        found.add_row("", "all", "", "", "", "", "", before, "", after, end_section=True)
    return found


def warnings(search: Search) -> list[str]:
    """What cannot be met at all, what rests on little, and what did not hold in the last check."""
    later = (*_floor_warnings(search), *_load_warnings(search), *_check_warnings(search))
    return [*search.weak_steps, *later]


def not_asked(search: Search) -> list[str]:
    """A line for each class that is shown and has no proposal because it states no target."""
    left_out = [name for name in search.names() if name not in search.asked()]
    return [
        f"class {name} states no target: none is proposed (--class {name} asks for one)"
        for name in left_out
    ]


def attainments(search: Search) -> str:
    """The share of each class that met its proposal in the last check."""
    return ", ".join(
        f"{name} {_number(search.attainment(name) or 0.0, 100.0)} %" for name in search.proposals
    )


# -- inside ---------------------------------------------------------------------------------------


def _tidy(tables: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers without a point."""
    return {
        name: {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in table.items()
        }
        for name, table in tables.items()
    }


def _class_json(search: Search, name: str) -> dict[str, Any]:
    """What is known of a class."""
    loaded, proposal = search.loaded[name], search.proposals.get(name, {})
    stated = loaded.stated()
    kinds = [kind for kind in KINDS if kind in {*USUAL, *stated, *proposal}]
    return {
        "requests": loaded.requests,
        "unfinished_share": loaded.unfinished_share,
        "stated_attainment": loaded.attainment(),
        "attainment": search.attainment(name) if proposal else None,
        "targets": {kind: _target_json(search, name, kind, stated) for kind in kinds},
    }


def _target_json(
    search: Search, name: str, kind: str, stated: Mapping[str, float | None]
) -> dict[str, Any]:
    loaded, proposed = search.loaded[name], search.proposals.get(name, {}).get(kind)
    floor, checked = search.alone[name], search.checked.get(name)
    return {
        "alone": {f"p{100 * level:g}": _finite(floor.reached(kind, level)) for level in LEVELS},
        "reached": _finite(loaded.reached(kind, search.wish.quantile)),
        "stated": stated.get(kind),
        "stated_differs": kind in stated and stated[kind] is None,
        "stated_kept": loaded.kept_share(kind),
        "proposed": proposed,
        "kept": checked.kept_share(kind) if checked and proposed is not None else None,
    }


def _row_cells(row: Mapping[str, Any]) -> list[str]:
    stated = "differs" if row["stated_differs"] else _number(row["stated"])
    return [
        _number(row["reached"]),
        stated,
        _number(row["stated_kept"], 100.0),
        _number(row["proposed"]),
        _number(row["kept"], 100.0),
    ]


def _number(value: float | None, factor: float = 1.0) -> str:
    if value is None:
        return "-"
    value *= factor
    digits = 0 if value >= 1000 else 1
    return f"{value:,.{digits}f}".removesuffix(".0")


def _finite(value: float | None) -> float | None:
    """None for what never came."""
    return None if value is None or value in (float("inf"), 0.0) else value


def _same(stated: float | None, target: float) -> bool:
    return stated is not None and abs(stated - target) < 1e-3


def _percent(share: float) -> str:
    """A share in per cent; small ones do not become 0."""
    return "under 0.1 %" if 0 < share < 1e-3 else f"{_number(share, 100.0)} %"


def _floor_warnings(search: Search) -> Iterator[str]:
    """Stated targets that a request misses even alone."""
    for name in search.names():
        outcome = search.alone[name]
        if share := outcome.unfinished_share:
            yield f"class {name}: {_percent(share)} of its requests are refused even alone"
        for kind in KINDS:
            if miss := outcome.miss(kind):
                yield f"class {name}: {_miss_words(miss)}"


def _miss_words(miss: Miss) -> str:
    """Who cannot meet what, with the worst case."""
    unit = "" if miss.kind == "min_tokens_per_s" else " ms"
    target, value = (f"{_number(number)}{unit}" for number in (miss.target, miss.value))
    prompt = f"a prompt of {miss.worst.prompt_tokens:,} tokens"
    answer = f"an answer of {miss.output_tokens:,} tokens after {prompt}"
    label, what = {
        "ttft_ms": (f"TTFT {target}", f"{prompt} takes {value}"),
        "tpot_ms": (f"TPOT {target}", f"{answer} takes {value} per token"),
        "e2el_ms": (f"E2E {target}", f"{answer} takes {value}"),
        "min_tokens_per_s": (f"{target} tokens/s", f"{answer} comes at {value} tokens/s"),
    }[miss.kind]
    return f"{label} cannot be met by {_percent(miss.share)} of its requests even alone: {what}"


def _load_warnings(search: Search) -> Iterator[str]:
    """What makes the figures weak, of all or of a class."""
    if search.overload:
        yield search.overload
    quantile, run = search.wish.quantile, search.config.run
    open_loop = not (run.concurrency or run.backlog or run.in_flight)
    for name in search.asked():
        outcome = search.loaded[name]
        if outcome.requests * (1 - quantile) < 1:
            few = f"{outcome.requests:,} requests are few for P{100 * quantile:g}"
            yield f"class {name}: {few}: its targets rest on the slowest one"
        if open_loop and outcome.grows():
            yield (
                f"class {name}: its waits grow through the run: {TOO_HIGH}, and targets hold for a "
                "run of this length only"
            )
        if name not in search.proposals:
            share = outcome.unfinished_share
            why = f"{_percent(share)} of its requests did not finish" if share else "no such values"
            yield f"class {name}: no target is proposed: {why}"


def _check_warnings(search: Search) -> Iterator[str]:
    """Proposals that do not hold, and requests that they do not reach."""
    for name in search.short() if search.checks else ():
        share, wanted = (search.attainment(name) or 0.0), search.wish.attainment
        found = f"{_number(share, 100.0)} % of its requests met the proposal"
        yield f"class {name}: {found} in check {search.checks}, {_percent(wanted)} were wanted"
    for name in search.loaded.keys() & search.checked.keys() - search.proposals.keys():
        before, after = search.loaded[name].attainment(), search.checked[name].attainment()
        if before is not None and after is not None and after < min(before, search.wish.attainment):
            shares = f"{_percent(after)} with the proposals beside it, {_percent(before)} before"
            yield f"class {name}: {shares} of its requests met the targets that it states"
    for name, targets in search.proposals.items():
        stated = search.checked[name].stated() if name in search.checked else {}
        own = [kind for kind, target in targets.items() if not _same(stated.get(kind), target)]
        if own:
            yield (
                f"class {name}: some of its requests state {', '.join(own)} themselves in the "
                "trace, which a file of classes does not change"
            )
