"""Around the core: configuration, result folders, studies and their analysis.

For notebooks and scripts:

    from superinfer.lab import load_run, compare_runs, plot_latency_cdf

    run = load_run("runs/mixed-vllm")          # .summary, and .requests as a pandas frame
    plot_latency_cdf(run, "ttft")              # matplotlib Axes; its figure is .figure
    compare_runs(["runs/mixed-vllm", "runs/mixed-priority"])

Everything is imported when it is first used, so that this package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superinfer.lab.api import (
        compare_runs,
        plot_comparison,
        plot_copies,
        plot_kv,
        plot_latency_cdf,
        plot_requests,
        plot_rotations,
        plot_slo_attainment,
        plot_timeline,
    )
    from superinfer.lab.bisect import largest_load, mean_at
    from superinfer.lab.results import Run, load_run
    from superinfer.lab.study import Study, run_study

__all__ = [
    "Run",
    "Study",
    "compare_runs",
    "largest_load",
    "load_run",
    "mean_at",
    "plot_comparison",
    "plot_copies",
    "plot_kv",
    "plot_latency_cdf",
    "plot_requests",
    "plot_rotations",
    "plot_slo_attainment",
    "plot_timeline",
    "run_study",
]

_HOMES = {
    "Run": "results",
    "Study": "study",
    "largest_load": "bisect",
    "load_run": "results",
    "mean_at": "bisect",
    "run_study": "study",
}
"""Modules of the names that are not in `api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
