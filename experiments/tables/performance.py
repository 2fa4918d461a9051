"""The tables of `docs/performance.md`, from `python -m experiments.bench --million --json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from experiments.tables.parts import Lines, Numbers, recorded, table

PAGE = "docs/performance.md"
FILE = "cpu/bench.json"
BASE = ("vllm", "fcfs", "priority", "rotating", "vllm prefill-first")


def cases(found: Numbers) -> Lines:
    """Every case as a whole process, but those of many."""
    return _cases(each for each in found["cases"] if not _of_many(each))


def many(found: Numbers) -> Lines:
    """The cases of many tenants and of many replicas."""
    return _cases(filter(_of_many, found["cases"]))


def decisions(found: Numbers) -> Lines:
    """How long a scheduler takes to decide."""
    head = ["decision times under overload", "live requests", "mean us", "p99 us"]
    return table(
        head,
        (
            [
                f"`{each['scheduler']}`",
                f"{each['live']:,}",
                f"{each['mean_us']:.0f}",
                f"{each['p99_us']:.0f}",
            ]
            for each in found["decisions"]
        ),
    )


def bars(found: Numbers) -> Lines:
    """What we ask of ourselves, and whether it is met. A case that was not run has no row."""
    return table(["against our bars", "measured", ""], _bars(found))


def machine(found: Numbers) -> Lines:
    """Where the figures come from."""
    each = found["machine"]
    timeouts = [case["simpy_timeouts_per_s"] for case in found["cases"]]
    yield (
        f"{each['cores']} vCPU, {each['processor']}; Python {each['python']}, SimPy "
        f"{each['simpy']}, numpy {each['numpy']}, core {each['core']}. The yardstick went from "
        f"{min(timeouts) / 1e6:.2f} to {max(timeouts) / 1e6:.2f} million timeouts from case to "
        "case."
    )


TABLES = {
    "bench machine": recorded(FILE, machine),
    "bench cases": recorded(FILE, cases),
    "bench bars": recorded(FILE, bars),
    "bench decisions": recorded(FILE, decisions),
    "bench many": recorded(FILE, many),
}

# -- inside ---------------------------------------------------------------------------------------


def _of_many(case: Numbers) -> bool:
    return str(case["case"]).startswith("many ")


def _cases(cases: Iterable[Numbers]) -> Lines:
    head = ["case", "requests", "wall s", "CPU s", "timeouts/CPU s", "scaled requests/s"]
    head.append("peak MiB")
    return table(
        head,
        (
            [
                each["case"],
                f"{each['requests']:,}",
                f"{each['wall_s']:.2f}",
                f"{each['cpu_s']:.2f}",
                f"{each['simpy_timeouts_per_s']:,.0f}",
                f"{each['scaled_requests_per_s']:,.0f}",
                f"{each['peak_rss_mib']:.0f}",
            ]
            for each in cases
        ),
    )


def _bars(found: Numbers) -> Iterator[list[str]]:
    scaled = {each["case"]: each["scaled_requests_per_s"] for each in found["cases"]}
    for scheduler, bar in (("vllm", 15_000), ("rotating", 8_000)):
        value = scaled[f"standard, {scheduler}"]
        said = f"`{scheduler}`, standard: {bar:,} scaled requests/s"
        yield [said, f"{value:,.0f}", _verdict(value >= bar)]
    yield from _mooncake(found)
    peaks = [each["peak_rss_mib"] for each in found["cases"] if each["requests"] == 100_000]
    shown = f"{min(peaks):.0f} to {max(peaks):.0f} MiB"
    # 400 MB, not MiB
    below = max(peaks) * 2**20 < 400e6
    yield ["peak memory below 400 MB for 100,000 requests", shown, _verdict(below)]
    yield from _decision_bars(found)
    yield from _marginal(found)
    yield from _rivals(scaled)
    yield from _with_content(scaled)
    best = (scaled["standard, vllm"], scaled["standard, vllm prefill-first"])
    shown = f"{best[0]:,.0f}; prefill-first {best[1]:,.0f}"
    yield ["five times the strongest peer: 36,000", shown, _verdict(max(best) >= 36_000)]


def _mooncake(found: Numbers) -> Iterator[list[str]]:
    runs = {
        each["case"].removeprefix("mooncake, "): each["requests"] / each["scaled_requests_per_s"]
        for each in found["cases"]
        if each["case"].startswith("mooncake")
    }
    if runs:
        shown = ", ".join(f"{runs[name]:.1f} s `{name}`" for name in ("vllm", "rotating"))
        yield ["Mooncake in 4 s, scaled", shown, _verdict(max(runs.values()) <= 4)]


def _decision_bars(found: Numbers) -> Iterator[list[str]]:
    for live, bar_us, said in (
        (256, 200, "`rotating`, decision with 256 live requests: 200 us"),
        (1000, 1000, "with 1,000: 1 ms"),
    ):
        (each,) = (
            d for d in found["decisions"] if (d["scheduler"], d["live"]) == ("rotating", live)
        )
        shown = (
            f"{each['mean_us']:.0f} us in the mean, {each['p99_us']:.0f} us at p99 (scaled mean: "
            f"{each['scaled_mean_us']:.0f} us)"
        )
        yield [said, shown, _verdict(each["scaled_mean_us"] <= bar_us)]


def _marginal(found: Numbers) -> Iterator[list[str]]:
    if "marginal" not in found:
        return
    shown = ", ".join(
        f"`{each['scheduler']}` {each['us_at_100_000']:.0f} and {each['us_at_1_000_000']:.0f} us"
        for each in found["marginal"]
    )
    met = all(each["us_at_1_000_000"] <= 1.2 * each["us_at_100_000"] for each in found["marginal"])
    yield [
        "a request in a run of 1,000,000 within 20 % of one in 100,000",
        f"CPU time a request, in 100,000 and in 1,000,000: {shown}",
        _verdict(met),
    ]


def _rivals(scaled: dict[str, Any]) -> Iterator[list[str]]:
    names = (case.removeprefix("standard, ") for case in scaled if case.startswith("standard, "))
    rivals = [n for n in names if n not in BASE and "requests" not in n]
    low, high = (pick(rivals, key=lambda n: scaled[f"standard, {n}"]) for pick in (min, max))
    values = [scaled[f"standard, {name}"] for name in (low, high)]
    shown = f"{values[0]:,.0f} (`{low}`) to {values[1]:,.0f} (`{high}`)"
    yield ["each rival, standard: 4,000", shown, _verdict(values[0] >= 4_000)]


def _with_content(scaled: dict[str, Any]) -> Iterator[list[str]]:
    for case, value in scaled.items():
        if case.startswith("shared halves"):
            scheduler = case.rpartition(", ")[2]
            said = f"`{scheduler}` under `slo_aware`, halves of prompts shared: 4,000"
            yield [said, f"{value:,.0f}", _verdict(value >= 4_000)]


def _verdict(met: bool) -> str:
    return "met" if met else "not yet"
