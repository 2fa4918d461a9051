"""The tables and the picture of a simulated run beside the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superinfer.lab.trust import range_warning

if TYPE_CHECKING:
    from experiments.accuracy.serving import Comparison, Line

_LABELS = {
    "running": "running requests",
    "waiting": "waiting requests",
    "kv_share": "KV blocks in use",
}


def page(found: Comparison) -> str:
    """The tables in Markdown."""
    return "\n".join((*_latencies(found), "", *_states(found), "", *_facts(found), ""))


def _latencies(found: Comparison) -> Iterator[str]:
    yield "| metric | | real, ms | simulated, ms | error | other simulator | 95 % of the real |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for line in found.lines:
        yield _row(line)


def _row(line: Line) -> str:
    low, high = (100 * (value / line.real_ms - 1.0) for value in line.interval_ms)
    bar = "-" if line.bar is None else f"{100 * line.bar:+.1f} %"
    digits = 2 if line.metric == "TPOT" else 1
    return (
        f"| {line.metric} | {line.statistic} | {line.real_ms:,.{digits}f} | "
        f"{line.simulated_ms:,.{digits}f} | {100 * line.error:+.1f} % | {bar} | "
        f"{low:+.1f} to {high:+.1f} % |"
    )


def _states(found: Comparison) -> Iterator[str]:
    if not found.states:
        return
    yield "| each second | real, mean | simulated, mean | mean absolute difference | largest |"
    yield "|---|--:|--:|--:|--:|"
    for name, (real, ours) in found.states.items():
        scale, unit = (100.0, " %") if name == "kv_share" else (1.0, "")
        off = np.abs(ours - real)
        values = (scale * float(x) for x in (real.mean(), ours.mean(), off.mean(), off.max()))
        yield f"| {_LABELS[name]} | " + " | ".join(f"{x:.1f}{unit}" for x in values) + " |"


def _facts(found: Comparison) -> Iterator[str]:
    single = ", ".join(f"{name} {ms:.1f} ms" for name, ms in found.per_request.items())
    yield f"Mean absolute difference of single requests: {single}."
    yield (
        f"Simulated: {100 * found.hit_share:.1f} % of the prompt tokens found in the cache, "
        f"{found.preemptions} preemptions, {found.total_blocks:,} KV blocks."
    )
    warning = range_warning(found.trust)
    yield f"Extrapolated: {warning}." if warning else "No step left what was measured."


def draw(found: Comparison, path: Path) -> None:
    """Running, waiting and KV use over time, real and simulated."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    at_s = found.run.states["t_s"]
    for axes, (name, (real, ours)) in zip(
        figure.subplots(3, 1, sharex=True), found.states.items(), strict=True
    ):
        scale = 100.0 if name == "kv_share" else 1.0
        axes.plot(at_s, scale * real, color="#222222", linewidth=1.6, label="vLLM")
        axes.plot(at_s, scale * ours, "--", color="#d1495b", linewidth=1.6, label="simulated")
        axes.set_ylabel(_LABELS[name] + (", %" if name == "kv_share" else ""))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    figure.axes[-1].set_xlabel("seconds since the first arrival")
    engine, model = found.run.meta.get("vllm_version", ""), found.run.meta["model"]
    figure.suptitle(f"{model}, vLLM {engine}: real run and simulation")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
