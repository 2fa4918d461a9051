"""What a plan is asked for, its candidates, and what was found out about each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from superinfer.lab.config import Config
from superinfer.lab.metric_names import Summary
from superinfer.lab.prices import Prices
from superinfer.lab.studies.bisect import Fewest

DEGREES = (1, 2, 4, 8)
"""Tensor parallelism that is tried unless it is said which: what fits into one server."""


@dataclass(slots=True, frozen=True)
class PlanWish:
    """What is asked for."""

    devices: tuple[str, ...]
    degrees: tuple[int, ...] = DEGREES
    attainment: float = 0.95
    """Share of the requests with targets that are to meet them."""
    most_gpus: int = 64
    """Of one candidate."""
    seeds: int = 1
    """Draws of a specification; each of them is to be served so."""
    prices: Path | None = None
    out: Path | None = None
    as_json: bool = False
    plots: bool = True
    workers: int = 0


@dataclass(slots=True)
class Candidate:
    """A device with a degree of tensor parallelism, and what was found out about it."""

    device: str
    tp: int
    config: Config
    """With one replica."""
    unfit: str = ""
    """Why it cannot run at all."""
    failure: str = ""
    """Why a run of it ended without a result."""
    alone: Summary | None = None
    search: Fewest | None = None
    probes: dict[int, Summary] = field(default_factory=dict)
    """Summaries by the number of replicas; of several seeds that with the least attainment."""
    attainments: dict[int, list[float]] = field(default_factory=dict)
    """By the number of replicas, of every seed in turn."""

    @property
    def name(self) -> str:
        """Such as `a100-80g, tp 4`."""
        return f"{self.device}, tp {self.tp}"

    @property
    def replicas(self) -> int | None:
        """The fewest replicas that keep the targets; None if no number tried does."""
        return self.search.found if self.search else None

    @property
    def gpus(self) -> int | None:
        """The GPUs of these replicas."""
        return None if self.replicas is None else self.replicas * self.tp

    @property
    def summary(self) -> Summary | None:
        """Of the run with the fewest replicas that keep the targets."""
        return None if self.replicas is None else self.probes[self.replicas]


@dataclass(slots=True)
class Plan:
    """What was asked for and all that was found."""

    config: Config
    wish: PlanWish
    prices: Prices
    candidates: list[Candidate]

    def found(self) -> list[Candidate]:
        """Candidates that keep the targets, the fewest GPUs first and of these the cheapest; one
        without a price comes last of these.
        """

        def rank(each: Candidate) -> tuple[int, float]:
            price = self.per_hour(each)
            return each.gpus or 0, math.inf if price is None else price

        return sorted((each for each in self.candidates if each.gpus is not None), key=rank)

    def per_hour(self, candidate: Candidate) -> float | None:
        """What its GPUs cost an hour; None without a price."""
        price = self.prices.devices.get(candidate.device)
        if price is None or candidate.gpus is None:
            return None
        return price.per_gpu_hour * candidate.gpus

    def per_million(self, candidate: Candidate, key: str) -> float | None:
        """What a million tokens cost, by the rate `key` of its summary."""
        if candidate.summary is None or candidate.gpus is None:
            return None
        rate = candidate.summary[key]
        return self.prices.per_million(candidate.device, candidate.gpus, rate)
