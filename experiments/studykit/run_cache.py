"""Runs by configuration and seed, each made once and kept under `runs/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superinfer.errors import SuperInferError
from superinfer.lab import Study, largest_load, mean_at, run_study
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.results import SUMMARY, Run
from superinfer.lab.studies.bisect import LoadSearch, Probe

RUNNER = "sim.studies.compare:simulate_into"

Runs = dict[str, list[Run]]


@dataclass(slots=True)
class RunCache:
    """Where runs are kept, and the processes that make them."""

    root: Path
    workers: int = 0

    @property
    def stored(self) -> int:
        """How many results there are, of this study and of earlier ones."""
        return sum(1 for _ in self.root.glob(f"*/{SUMMARY}"))

    def runs(self, configs: Mapping[str, Config], seeds: Sequence[int], what: str) -> Runs:
        """All runs of the configurations; SuperInferError if one of them fails."""
        say(f"{what}: {len(configs) * max(len(seeds), 1)} runs")
        result = run_study(Study(configs, self.root, RUNNER, seeds, workers=self.workers))
        if result.failures:
            raise SuperInferError(f"{what}: {result.failures[0]}")
        return {name: [with_totals(run) for run in result.runs(name)] for name in configs}

    def largest(
        self,
        config_at: Callable[[float], Config],
        metric: str,
        threshold: float,
        seeds: Sequence[int],
        bounds: tuple[float, float],
        tolerance: float,
    ) -> LoadSearch:
        """The largest load at which the mean of a metric over the seeds is kept."""
        low, high = bounds
        study = Study({"reference": config_at(low)}, self.root, RUNNER, seeds, workers=self.workers)
        run_at = mean_at(study, metric, lambda _, load: config_at(load))

        def log(probe: Probe) -> None:
            say(f"  {probe.load:.4f}/s: {probe.value:.4f}{'' if probe.kept else ' (not kept)'}")

        return largest_load(run_at, threshold, low, high, tolerance, log=log)


def with_totals(run: Run) -> Run:
    """The run with what only its tables tell in its summary, over the whole run."""
    requests, summary = run.requests, dict(run.summary)
    totals: dict[str, Any] = {
        "peak_kv_gib": summary["peak_kv_bytes"] / 2**30,
        "total_rotations": int(requests["rotations"].sum()),
        "total_preemptions": int(requests["preemptions"].sum()),
        "h2d_gib": float(requests["h2d_bytes"].sum()) / 2**30,
        "d2h_gib": float(requests["d2h_bytes"].sum()) / 2**30,
        "recomputed_tokens": int(requests["recomputed_tokens"].sum()),
        "relegations": int(summary.get("counters", {}).get("relegations", 0)),
        "total_rejected": int((requests["state"] == "rejected").sum()),
    }
    return replace(run, summary=summary | totals)
