"""Who is compared, and what the hostile tenant does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from superinfer.lab.config import Config, load_config

SPEC = Path(__file__).with_name("tiers.toml")
FREE, PAID, HOSTILE = "free", "paid", "hostile"
TENANTS = (FREE, PAID, HOSTILE)
ROTATING, NO_AGING, NO_FAIRNESS, LARGER_SHARE = (
    "rotating",
    "rotating, aging off",
    "rotating, fairness off",
    "rotating, aged share 0.3",
)
FLOOD_S = 300.0
"""How long requests arrive: `duration_s` of the specification."""
MACHINE = ("run.model=llama-3.1-70b", "run.device=a100-80g", "run.tp=4")
PAID_TARGETS = (
    f"classes.{PAID}.ttft_ms=2000",
    f"classes.{PAID}.tpot_ms=100",
    f"classes.{PAID}.max_stall_ms=2000",
    f"classes.{PAID}.max_tokens=1024",
    f"classes.{FREE}.max_tokens=1024",
)
CALM_PER_S, FLOOD_PER_S = 0.01, 6.0
"""Hostile requests/s. The machine serves about four a second of these lengths."""


@dataclass(slots=True, frozen=True)
class Arm:
    """A scheduler with its settings."""

    scheduler: str
    settings: tuple[str, ...] = ()


ARMS: Mapping[str, Arm] = {
    "fcfs": Arm("fcfs"),
    "priority": Arm("priority"),
    "vtc": Arm("vtc"),
    NO_AGING: Arm("rotating", ("scheduler.aging=false",)),
    NO_FAIRNESS: Arm("rotating", ("scheduler.fairness=false",)),
    ROTATING: Arm("rotating"),
    LARGER_SHARE: Arm("rotating", ("scheduler.aged_share=0.3",)),
}


@dataclass(slots=True, frozen=True)
class Flood:
    """What the hostile tenant sends."""

    title: str
    rate_per_s: float
    slo_class: str = PAID


FLOODS: Mapping[str, Flood] = {
    "calm": Flood("no flood", CALM_PER_S),
    "hurry": Flood("a flood with the targets of the paying tier", FLOOD_PER_S),
    "free": Flood("a flood inside the free tier", FLOOD_PER_S, FREE),
}


def config_of(arm: Arm, flood: Flood) -> Config:
    """The run of an arm under a flood."""
    given = [
        *MACHINE,
        *PAID_TARGETS,
        f"workload.clients.hostile.rate_per_s={flood.rate_per_s}",
        f"workload.clients.hostile.class={flood.slo_class}",
        *arm.settings,
    ]
    return load_config(None, given, trace=str(SPEC), scheduler=arm.scheduler)
