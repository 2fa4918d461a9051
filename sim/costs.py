"""The cost models of a simulated run: what steps take, and what schedulers believe of that."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from superinfer.costs import (
    DeviceSpec,
    HostCost,
    ModelShape,
    Placement,
    StepCost,
    build_cost,
)
from superinfer.costs.base import CostModel
from superinfer.costs.learned import LearnedCost
from superinfer.errors import ConfigError
from superinfer.lab.config import RunConfig


def cost_of(
    run: RunConfig, shape: ModelShape, device: DeviceSpec, placement: Placement | None
) -> StepCost:
    """The cost model, with the host overhead and the links of `[run]` where they are given."""
    host, link = None, run.host_link_gb_per_s
    if run.host_step_ms is not None or run.host_per_sequence_us is not None:
        costs = "roofline" if run.costs == "flexgen" else run.costs
        host = _host(run, build_cost(shape, device, run.tp, costs).host)
    bytes_per_s = None if link is None else link * 1e9
    cost = build_cost(shape, device, run.tp, run.costs, host, placement, bytes_per_s)
    cost.share_bridge(run.links_per_bridge)
    return cost


def believed_of(
    run: RunConfig,
    cost: StepCost,
    shape: ModelShape,
    device: DeviceSpec,
    placement: Placement | None,
) -> CostModel:
    """What an engine predicts with: the `cost` of the device or what `[run]` has in its place, and
    corrected by what steps take if it says so. Each engine has its own, for each learns by itself.
    """
    believed: CostModel = cost
    if run.believed_costs:
        own = msgspec.structs.replace(run, costs=run.believed_costs)
        try:
            believed = cost_of(own, shape, device, placement)
        except ConfigError as error:
            raise ConfigError(f"run.believed_costs: {error}") from None
    return LearnedCost(believed) if run.learn_step_times else believed


def _host(run: RunConfig, known: HostCost) -> HostCost:
    """`known` with what `[run]` says of it."""
    step_ms, sequence_us = run.host_step_ms, run.host_per_sequence_us
    return replace(
        known,
        step_s=known.step_s if step_ms is None else step_ms / 1e3,
        per_sequence_s=known.per_sequence_s if sequence_us is None else sequence_us / 1e6,
        origin="configured",
    )
