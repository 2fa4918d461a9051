"""Whether a device has the memory for the KV blocks that a configuration gives it."""

from __future__ import annotations

from sim.run import build_engine
from superinfer.costs import FlexGenCost, find_device
from superinfer.lab.config import Config

GIB = 2**30


def too_many_blocks(config: Config) -> list[str]:
    """A line for a warning, where `run.kv_blocks` take more than all that the weights leave.

    They are simulated all the same: a larger device than there is can be what is asked about.
    """
    run = config.run
    if not run.kv_blocks:
        return []
    engine, cost = build_engine(config)
    memory_bytes = find_device(run.device, run.costs).memory_bytes
    if not memory_bytes or isinstance(cost, FlexGenCost):  # whose weights may lie elsewhere
        return []
    taken = run.kv_blocks * engine.config.block_bytes
    free = memory_bytes - cost.shape.weight_bytes(run.tp)
    if taken <= free:
        return []
    return [
        f"run.kv_blocks: {run.kv_blocks:,} blocks take {taken / GIB:,.1f} GiB of each {run.device} "
        f"at tp {run.tp}, and the weights leave {max(free, 0) / GIB:.1f} GiB"
    ]
