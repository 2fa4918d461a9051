"""Which numbers the summaries of a workload will have, found out before a long study."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.commands import simulated
from sim.studies.suggest import alone
from superinfer.lab.config import Config
from superinfer.lab.studies.differences import check_metric
from traces.workload import Workload


def check_known(metric: str, config: Config, workload: Workload) -> None:
    """ConfigError for a metric that no summary of this workload has a place for."""
    check_metric(metric, few_summary(config, workload))


def few_summary(config: Config, workload: Workload) -> dict[str, Any]:
    """The summary of a few requests, one of every class and tenant, one after the other."""
    rows = {(each.slo_class.name, each.tenant): each.index for each in workload.requests}
    kept = sorted(rows.values())
    few = Workload(
        [replace(workload.requests[row], index=at) for at, row in enumerate(kept)],
        [workload.output_tokens[row] for row in kept],
        workload.name,
    )
    return simulated(alone(config), few)[1]
