"""The tables and the picture of a simulated run beside the real one, made of its summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studykit.pictures import write_png
from experiments.studykit.record import provenance
from experiments.tables.parts import Lines, page_of, table
from superinfer.lab.notices.trust import range_warning

Summary = Mapping[str, Any]
_LABELS = {
    "running": "running requests",
    "waiting": "waiting requests",
    "kv_share": "KV blocks in use",
}
_LEFT_OUT = ("TTFT mean", "TTFT P50", "TPOT mean", "E2E mean")


def page(summary: dict[str, Any]) -> str:
    """`results.md`."""
    return page_of(
        f"# {summary['model']}, vLLM {summary['vllm']}: a real run and its simulation",
        provenance(summary["made_by"], f"{summary['requests']} requests of a real run"),
        "![over time](serving.png)" if summary["states"] else "",
        *_tables(summary),
        "## With parts of the profile left out",
        left_out_lines(summary),
    )


def tables(summary: Summary) -> str:
    """Everything of one simulation."""
    return page_of(*_tables(summary))


def latency_lines(summary: Summary) -> Lines:
    """Each statistic of each metric."""
    yield "| metric | | real, ms | simulated, ms | error | other simulator | 95 % of the real |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for line in summary["lines"]:
        real, digits = line["real_ms"], 2 if line["metric"] == "TPOT" else 1
        low, high = (100 * (value / real - 1.0) for value in line["interval_ms"])
        bar = "-" if line["bar"] is None else f"{100 * line['bar']:+.1f} %"
        yield (
            f"| {line['metric']} | {line['statistic']} | {real:,.{digits}f} | "
            f"{line['simulated_ms']:,.{digits}f} | {100 * line['error']:+.1f} % | {bar} | "
            f"{low:+.1f} to {high:+.1f} % |"
        )


def state_lines(summary: Summary) -> Lines:
    """The scheduler's state second by second; nothing where it was not recorded."""
    if not summary["states"]:
        return []
    head = ["each second", "real, mean", "simulated, mean", "mean absolute difference", "largest"]
    return table(head, (_state(name, sides) for name, sides in summary["states"].items()))


def fact_lines(summary: Summary) -> Iterator[str]:
    """What the tables do not say."""
    single = ", ".join(f"{name} {ms:.1f} ms" for name, ms in summary["per_request_ms"].items())
    yield f"Mean absolute difference of single requests: {single}."
    yield (
        f"Simulated: {100 * summary['hit_share']:.1f} % of the prompt tokens found in the cache, "
        f"{summary['preemptions']} preemptions, {summary['total_blocks']:,} KV blocks."
    )
    warning = range_warning(summary["trust"])
    yield f"Extrapolated: {warning}." if warning else "No step left what was measured."


def decode_lines(summary: Summary) -> Lines:
    """Steps of decodes alone by their sequences."""
    rows = [_decodes(row) for row in summary["steps"]["decodes"] if row["steps"]]
    head = ["decodes alone, sequences", "steps", "real, ms", "simulated, ms", "difference, ms"]
    return table(head, rows) if rows else []


def chunk_lines(summary: Summary) -> Lines:
    """Steps with one prompt by their tokens."""
    rows = [_chunks(row) for row in summary["steps"]["chunks"] if row["steps"]]
    head = ["one prompt beside decodes, tokens", "steps", "beyond the kernels, ms", "least, most"]
    return table(head, rows) if rows else []


def left_out_lines(summary: Summary) -> Lines:
    """Errors without some parts of the profile."""
    rows = (
        [row["words"], *(f"{100 * row['errors'][name]:+.1f} %" for name in _LEFT_OUT)]
        for row in summary["left_out"]
    )
    return table(["left out", *_LEFT_OUT], rows)


def draw(summary: Summary, path: Path) -> None:
    """Running, waiting and KV use over time, real and simulated."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    for axes, (name, sides) in zip(
        figure.subplots(3, 1, sharex=True), summary["states"].items(), strict=True
    ):
        scale = 100.0 if name == "kv_share" else 1.0
        real, ours = (scale * np.array(sides[side]) for side in ("real", "simulated"))
        axes.plot(summary["at_s"], real, color="#222222", linewidth=1.6, label="vLLM")
        axes.plot(summary["at_s"], ours, "--", color="#d1495b", linewidth=1.6, label="simulated")
        axes.set_ylabel(_LABELS[name] + (", %" if name == "kv_share" else ""))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    figure.axes[-1].set_xlabel("seconds since the first arrival")
    figure.suptitle(f"{summary['model']}, vLLM {summary['vllm']}: real run and simulation")
    write_png(figure, path)


# -- inside ---------------------------------------------------------------------------------------


def _tables(summary: Summary) -> Iterator[Lines]:
    for part in (latency_lines, state_lines, fact_lines, decode_lines, chunk_lines):
        yield part(summary)


def _state(name: str, sides: Summary) -> list[str]:
    real, ours = (np.array(sides[side]) for side in ("real", "simulated"))
    scale, unit = (100.0, " %") if name == "kv_share" else (1.0, "")
    off = np.abs(ours - real)
    values = (scale * float(x) for x in (real.mean(), ours.mean(), off.mean(), off.max()))
    return [_LABELS[name], *(f"{value:.1f}{unit}" for value in values)]


def _decodes(row: Summary) -> list[str]:
    low, high = row["sequences"]
    real, ours = row["real_ms"], row["simulated_ms"]
    times = (f"{real:.2f}", f"{ours:.2f}", f"{ours - real:+.2f}")
    return [f"{low} to {high}", str(row["steps"]), *times]


def _chunks(row: Summary) -> list[str]:
    low, high = row["tokens"]
    ends = f"{row['least_ms']:.1f}, {row['most_ms']:.1f}"
    return [f"{low:,} to {high:,}", str(row["steps"]), f"{row['median_ms']:.1f}", ends]
