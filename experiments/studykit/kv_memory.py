"""The same KV memory for every arm of a study.

Systems reserve memory in ways of their own, and that is not what a study compares.
"""

from __future__ import annotations

from functools import cache

from sim.run import build_engine
from superinfer.lab.config import Config, load_config


@cache
def fitting_tokens(*machine: str) -> int:
    """Tokens whose KV cache fits beside a model, by the settings of a machine, and a step of 8,192
    tokens, as vLLM counts them.
    """
    given = [*machine, "scheduler.max_num_batched_tokens=8192"]
    sizes = build_engine(load_config(None, given, scheduler="fcfs"))[0].config
    return sizes.total_blocks * sizes.block_tokens


def with_kv_tokens(config: Config, tokens: int) -> Config:
    """The run with room for so many tokens, in blocks of its scheduler's own size."""
    blocks = tokens // config.build_scheduler().block_tokens
    return config.with_run(kv_blocks=blocks)
