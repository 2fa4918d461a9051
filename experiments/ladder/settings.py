"""The rungs: what each adds to the one below, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from experiments.scenarios.arms import Arm
from experiments.scenarios.settings import SETTINGS, config_of
from superinfer.lab.config import Config

SCENARIOS = ("m-pcie", "c")
"""Settings of `experiments.scenarios`: memory-bound and compute-bound."""
COMMON = ("run.prefix_caching=true",)
"""So that a cache policy has something to do; prompts of a session share their beginnings."""
CHUNKS = (512, 1024, 2048)
"""Of the first rung, which is the one of these that gives the most batch tokens/s."""
KV_BITS = 4
"""Fewest bits that the batch class allows on the rung of mixed precision."""

OFF: dict[str, str] = {
    "scheduler.deadline_order": "false",
    "scheduler.relegation": "false",
    "scheduler.promotion_margin_s": "0",
    "scheduler.promotion_share": "0",
    "scheduler.rotation": "false",
    "scheduler.write_through": "false",
    "scheduler.full_duplex": "false",
    "scheduler.layout": '"layer_first"',
    "scheduler.prefetch": "false",
    "scheduler.fairness": "false",
}
"""What the second rung does without."""


@dataclass(slots=True, frozen=True)
class Rung:
    """One step of the ladder."""

    name: str
    adds: dict[str, str]
    """Settings that change, in place of those of the rungs below; an empty value takes one away."""


RUNGS = (
    Rung("paced chunks", {}),
    Rung("deadline order", {"scheduler.deadline_order": ""}),
    Rung(
        "relegation and margins",
        dict.fromkeys(
            (
                "scheduler.relegation",
                "scheduler.promotion_margin_s",
                "scheduler.promotion_share",
            ),
            "",
        ),
    ),
    Rung("slack rotation", {"scheduler.rotation": ""}),
    Rung("write-through", {"scheduler.write_through": ""}),
    Rung("full duplex, block first", {"scheduler.full_duplex": "", "scheduler.layout": ""}),
    Rung("prefetch", {"scheduler.prefetch": ""}),
    Rung(
        "learned reuse",
        {"run.memory": "slo_aware", "memory.shrink_8_at": "2", "memory.shrink_4_at": "2"},
    ),
    Rung(
        "mixed precision",
        {
            "memory.shrink_8_at": "",
            "memory.shrink_4_at": "",
            "classes.batch.min_kv_bits": str(KV_BITS),
        },
    ),
    Rung("tenant fairness", {"scheduler.fairness": ""}),
)
"""Above the first one, the lowest first (E.7 of the design)."""


def first_rungs() -> dict[int, Arm]:
    """First come, first served with fixed chunks, by their size."""
    return {
        tokens: Arm(
            f"fcfs, chunks of {tokens:,}", "fcfs", (f"scheduler.max_num_batched_tokens={tokens}",)
        )
        for tokens in CHUNKS
    }


def further_rungs() -> Iterator[Arm]:
    """The rungs above, each with all that the ones below have."""
    settings = dict(OFF)
    for rung in RUNGS:
        settings |= rung.adds
        given = tuple(f"{key}={value}" for key, value in settings.items() if value)
        yield Arm(f"+ {rung.name}", "rotating", given)


def config_at(scenario: str, arm: Arm, chat_per_s: float) -> Config:
    """The run of a rung."""
    return config_of(SETTINGS[scenario], arm, chat_per_s, *COMMON)
