"""From a configuration to the summary of its run; nothing is written and nothing is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.run import SimResult, run_simulation
from superinfer.collection import engines_freed
from superinfer.events import Sink
from superinfer.lab.config import Config
from superinfer.lab.notices.hybrids import pair_of
from superinfer.lab.versions import versions
from superinfer.metrics import RunMetrics, Window
from superinfer.metrics.summary import Summary
from traces.workload import Workload


def simulated(
    config: Config, workload: Workload, sinks: Sequence[Sink] = ()
) -> tuple[RunMetrics, Summary]:
    """Simulate and summarise; writes and shows nothing. `sinks`: one per replica, or none."""
    with engines_freed(len(workload.requests)):
        result = run_simulation(config, workload, sinks=sinks)
    metrics = RunMetrics(result.record, window_of(config))
    return metrics, metrics.summary(_extra(config, workload, result))


def few_summary(config: Config, workload: Workload) -> Summary:
    """The summary of a few requests, one of every class and tenant, one after the other."""
    rows = {(each.slo_class.name, each.tenant): each.index for each in workload.requests}
    kept = sorted(rows.values())
    few = Workload(
        [replace(workload.requests[row], index=at) for at, row in enumerate(kept)],
        [workload.output_tokens[row] for row in kept],
        workload.name,
    )
    return simulated(alone(config), few)[1]


def alone(config: Config) -> Config:
    """The configuration in which every request has the machine for itself.

    With prefix caching it finds what those before it left: the best that it can meet.
    """
    return config.with_run(
        replicas=1,
        slow_replicas={},
        concurrency=1,
        sessions="open",
        backlog={},
        in_flight={},
        duration_s=0.0,
        window_s=[],
    )


def window_of(config: Config) -> Window | None:
    """The steady window that the configuration wants to be measured."""
    return Window(*config.run.window_s) if config.run.window_s else None


# -- inside ---------------------------------------------------------------------------------------


def _extra(config: Config, workload: Workload, result: SimResult) -> Summary:
    """What the record cannot know."""
    wall_s = result.wall_s
    return {
        "wall_s": wall_s,
        "scheduler_s": result.scheduler_s,
        "sim_requests_per_wall_s": len(workload.requests) / wall_s if wall_s else None,
        "load": result.load,
        "trust": result.trust,
        "run": {
            **config.resolved(),
            **pair_of(config),
            "simulated": True,
            "kv_blocks": result.engine.total_blocks,
            "block_tokens": result.engine.block_tokens,
            "block_bytes": result.engine.block_bytes,
            "host_blocks": result.engine.host_blocks,
            "requests": len(workload.requests),
            "skipped_lines": workload.skipped,
            "raised_max_tokens": workload.raised_max_tokens,
            "profile_sha256": result.profile_sha256,
            "versions": versions("superinfer", "simpy", "numpy"),
        },
    }
