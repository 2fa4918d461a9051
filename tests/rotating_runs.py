"""What the tests of `rotating` share: a small scheduler, requests with targets, and all waits."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field
from typing import Any

from harness import FakeCost, make_engine, request
from property.exact_runs import token_times

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.costs import Chunk
from superinfer.engine import Engine
from superinfer.request import SLO, Request, SLOClass
from superinfer.schedulers.rotating import RotatingScheduler
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.sequence import Sequence


def rotating(**settings: Any) -> RotatingScheduler:
    """Few places, no watermark, chunks of any size."""
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 16)
    settings.setdefault("tile_tokens", 0)
    return RotatingScheduler(**settings)


def promised(**targets: Any) -> dict[str, Any]:
    """More fields of a request: its targets, and how its class is treated."""
    names = ("weight", "max_stall_s", "delivery")
    treatment = {name: targets.pop(name) for name in names if name in targets}
    slo = SLO(**targets)
    return {"slo": slo, "slo_class": SLOClass("promised", slo, **treatment)}


@dataclass
class DearAgain(FakeCost):
    """A chunk of more than 16 tokens takes a second for each: no chunk of a small scheduler is so
    long, but what a copy to the host is weighed against is.
    """

    def step_s(self, chunks: abc.Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        longest = max((chunk.tokens for chunk in chunks), default=0)
        return float(longest) if longest > 16 else super().step_s(chunks, decodes, context_tokens)


@dataclass
class Run:
    """A finished simulation."""

    engine: Engine
    scheduler: RotatingScheduler
    requests: list[Request]
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.record = self.engine.recorder.build(self.engine)

    def tokens(self, row: int) -> list[float]:
        """When each token of a request came."""
        return token_times(self.record, row)

    def kinds(self, kind: str) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if event[1] == kind]


def run(
    scheduler: RotatingScheduler,
    requests: list[Request],
    output_tokens: list[int],
    blocks: int,
    **engine: Any,
) -> Run:
    """Simulate a workload to its end."""
    events: list[Any] = []
    engine.setdefault("cost", FakeCost())
    engine.setdefault("host_blocks", 1 << 16)
    core = make_engine(scheduler, blocks, sink=events.append, **engine)
    simulate(core, requests, Oracle(output_tokens))
    return Run(core, scheduler, requests, events)


def arriving(index: int, arrival_s: float, prompt: int, **more: Any) -> Request:
    """A request by time."""
    return request(index, prompt, 0, arrival_s, **more)


def job_with(index: int, prompt: int, max_tokens: int = 16, **targets: Any) -> Job:
    """What the scheduler keeps of a request that came at 0 s with these targets."""
    made = arriving(index, 0.0, prompt, max_tokens=max_tokens, **promised(**targets))
    return job_of(Sequence(made), NoLengths())


def told(lengths: dict[str, int], **settings: Any) -> RotatingScheduler:
    """A scheduler that knows how long each answer will be, by name."""
    scheduler = rotating(lengths="oracle", **settings)
    scheduler.tell_lengths(lambda request: lengths[request.request_id])
    return scheduler
