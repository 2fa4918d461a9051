"""KV blocks that a calibration found room for, where the profile that a user names says so."""

from __future__ import annotations

from typing import Any, Final

from superinfer.costs import CalibratedCost, StepCost
from superinfer.engine import EngineConfig
from superinfer.lab.config import RunConfig

NAMES: Final = ("auto", "roofline", "calibrated", "flexgen")
"""Costs that are no file of the user's."""


def measured_blocks(run: RunConfig, cost: StepCost, scheduler: Any, block_tokens: int) -> int:
    """So many blocks of this run; 0 where nobody measured it, or the run states its memory.

    It does by `kv_blocks`, by another `gpu_memory_utilization` than that of the measurement, which
    is the default, and by a scheduler with a memory share of its own.
    """
    stated = run.kv_blocks or run.gpu_memory_utilization != RunConfig().gpu_memory_utilization
    if stated or run.costs in NAMES or not isinstance(cost, CalibratedCost):
        return 0
    if hasattr(scheduler, "free_gpu_memory_fraction"):
        return 0
    memory = cost.profile.memory
    if not memory.get("kv_blocks"):
        return 0
    return int(memory["kv_blocks"] * memory["block_tokens"]) // block_tokens


def measured_notes(
    run: RunConfig, cost: StepCost, scheduler: Any, sizes: EngineConfig
) -> list[str]:
    """What is to be said of a run whose number of blocks was measured."""
    blocks = measured_blocks(run, cost, scheduler, sizes.block_tokens)
    if not blocks:
        return []
    measured = f"{blocks:,} KV blocks of {sizes.block_tokens} tokens, as measured"
    return [f"{run.costs}: {measured} (run.kv_blocks sets another number)"]
