"""Around the core: configuration, result folders, studies and their analysis.

For notebooks and scripts:

    from superinfer.lab import load_run, compare_runs, plot_latency_cdf

    run = load_run("runs/mixed-vllm")          # .summary, and .requests as a pandas frame
    plot_latency_cdf(run, "ttft")              # matplotlib Axes; its figure is .figure
    compare_runs(["runs/mixed-vllm", "runs/mixed-priority"])

* Results of commands: `load_run`, `load_comparison`, `load_cache_study`, `newest_folder`.
* Tables: `summary_frame`, `quantile_frame`, `compare_runs`.
* One run: `latency_figure`, `attainment_figure`, `queue_and_kv_figure`, `rotations_figure`.
* One run or several: `plot_latency_cdf`, `plot_latency_tail`, `plot_slo_attainment`,
  `plot_slo_scale`, `plot_timeline`, `plot_kv`, `plot_copies`, `plot_rotations`.
* Differences: `plot_differences`, `plot_comparison`.
* Single requests, and caches: `plot_requests`, `plot_cache_study`.
* Recorded hardware: `load_resimulated`, `load_steady`, `gain_frame`, `plot_errors`, `plot_parity`.
* Many runs: `Study`, `run_study`, `largest_load`, `mean_at`.

Everything is imported when it is first used, so that this package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superinfer.lab.notebooks.api import (
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
    from superinfer.lab.notebooks.cache_frames import load_cache_study, plot_cache_study
    from superinfer.lab.notebooks.comparison import load_comparison, newest_folder
    from superinfer.lab.notebooks.frames import quantile_frame, summary_frame
    from superinfer.lab.notebooks.hardware import (
        gain_frame,
        load_resimulated,
        load_steady,
        plot_errors,
        plot_parity,
    )
    from superinfer.lab.pictures.differences import plot_differences
    from superinfer.lab.pictures.figures import (
        attainment_figure,
        latency_figure,
        queue_and_kv_figure,
        rotations_figure,
    )
    from superinfer.lab.pictures.tails import plot_latency_tail, plot_slo_scale
    from superinfer.lab.results import Run, load_run
    from superinfer.lab.studies.bisect import largest_load, mean_at
    from superinfer.lab.studies.study import Study, run_study

__all__ = [
    "Run",
    "Study",
    "attainment_figure",
    "compare_runs",
    "gain_frame",
    "largest_load",
    "latency_figure",
    "load_cache_study",
    "load_comparison",
    "load_resimulated",
    "load_run",
    "load_steady",
    "mean_at",
    "newest_folder",
    "plot_cache_study",
    "plot_comparison",
    "plot_copies",
    "plot_differences",
    "plot_errors",
    "plot_kv",
    "plot_latency_cdf",
    "plot_latency_tail",
    "plot_parity",
    "plot_requests",
    "plot_rotations",
    "plot_slo_attainment",
    "plot_slo_scale",
    "plot_timeline",
    "quantile_frame",
    "queue_and_kv_figure",
    "rotations_figure",
    "run_study",
    "summary_frame",
]

_HOMES = {
    name: home
    for home, names in {
        "notebooks.cache_frames": "load_cache_study plot_cache_study",
        "notebooks.comparison": "load_comparison newest_folder",
        "notebooks.frames": "quantile_frame summary_frame",
        "notebooks.hardware": "gain_frame load_resimulated load_steady plot_errors plot_parity",
        "pictures.differences": "plot_differences",
        "pictures.figures": "attainment_figure latency_figure queue_and_kv_figure rotations_figure",
        "pictures.tails": "plot_latency_tail plot_slo_scale",
        "results": "Run load_run",
        "studies.bisect": "largest_load mean_at",
        "studies.study": "Study run_study",
    }.items()
    for name in names.split()
}
"""Modules of the names that are not in `notebooks.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'notebooks.api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
