"""What differs between the releases of SGLang that are modelled, and constants they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from superinfer.errors import ConfigError

Policy = Literal["fcfs", "lpm", "dfs-weight", "lof"]
Version = Literal["0.4.6", "0.4.1", "0.3.2"]

IN_BATCH_TOKENS = 32
"""In-batch rule: at most so many cached tokens, and at least so many shared ones."""


@dataclass(slots=True, frozen=True)
class Rules:
    """One release."""

    policy: Policy
    """Default order of the waiting queue (`server_args.py`)."""
    lpm_limit: int | None
    """With more requests waiting than this, LPM gives way to FCFS."""
    in_batch: bool
    """True if requests that share a prefix with an earlier waiting one are put off."""
    init_ratio: float
    floor_factor: float
    """Lowest ratio as a multiple of the first one; with `floor_ratio`, not used."""
    floor_ratio: float | None
    decay: float | None
    """Fall of the ratio per decode step; None: linear over 600 steps."""
    full: Literal["batch", "scheduler", "rounds"]
    """What keeps prefills from being tried again: a flag of the running batch, which is lost when a
    prefill batch takes its place; a flag of the scheduler; or rounds of decode steps."""
    request_cap: int
    """Upper end of the default for running requests."""
    input_margin_tokens: int
    """Prompts end so far below the longest request."""


DECAY_STEPS = 600

_LOWEST = {
    "max_num_seqs": 1,
    "max_prefill_tokens": 1,
    "chunked_prefill_tokens": 0,
    "clip_new_tokens": 1,
    "retract_decode_steps": 1,
    "stream_interval": 1,
}

RULES: dict[str, Rules] = {
    "0.4.6": Rules("fcfs", 128, True, 0.7, 0.14, None, None, "batch", 4096, 5),
    "0.4.1": Rules("lpm", 128, True, 0.7, 0.14, None, None, "scheduler", 4096, 5),
    "0.3.2": Rules("lpm", None, False, 0.7, 0.0, 0.1, 0.001, "rounds", 5120, 0),
}


def max_running_requests(rules: Rules, pool_tokens: int, context_tokens: int) -> int:
    """Default limit of running requests: by the pool, and by the table of requests.

    `model_executor/model_runner.py` (`init_memory_pool`) and `managers/tp_worker.py`.
    """
    table = int(pool_tokens / context_tokens * 512)
    return min(max(pool_tokens // 2, 1), max(table, 2048), rules.request_cap)


def check_settings(settings: object, block_tokens: int) -> None:
    """Refuse settings with which nothing could ever run (ConfigError)."""
    for name, lowest in _LOWEST.items():
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise ConfigError(f"scheduler.{name}: expected at least {lowest}, got {value}")
        if name == "chunked_prefill_tokens" and 0 < value < block_tokens:
            raise ConfigError(
                f"scheduler.{name}: expected 0 or a block ({block_tokens}) at least, got {value}"
            )
