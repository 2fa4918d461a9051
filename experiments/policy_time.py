"""Host time of the memory policy `slo_aware`: `python -m experiments.policy_time`.

What share of the simulated time of a run the policy's own work takes on this machine: history,
reuse model, values, queues, pins, host tier and guard, everything that the engine asks it. The runs
are simulated; the time of the policy is measured, in CPU seconds of this machine.

* standard: the workload of `experiments.bench`, whose 512 prompt tokens have content ids here: a
  system prompt of 256 tokens, one of four, and 256 tokens of their own;
* M: the bundled scenario M with its sessions and system prompts;
* mooncake: a tenth of the conversations of Mooncake's trace (`experiments.memory_policies`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments.bench import OUTPUT_TOKENS, PROMPT_TOKENS, RATE_PER_S, machine
from experiments.memory_policies import configured, conversations, mooncake
from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.lab.config import Config, load_config
from superinfer.memory.blocks.slabs import NO_SMALL, Small
from superinfer.memory.index.node import Node
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.request import Request
from traces.workload import Workload

_T = TypeVar("_T")

BAR = 0.01
"""Of the simulated time."""
MEMORY = f"{__name__}:TimedMemory"
SYSTEM_PROMPTS, ID_TOKENS = 4, 256


@dataclass
class Spent:
    """CPU seconds and calls of a policy."""

    seconds: float = 0.0
    calls: int = 0

    def time(self, work: Callable[[], _T]) -> _T:
        """Do it, and count how long it took."""
        started = time.process_time()
        found = work()
        self.seconds += time.process_time() - started
        self.calls += 1
        return found


SPENT = Spent()
"""Of the run under way: a policy is built from its settings alone."""


@dataclass
class TimedMemory(SloAwareMemory):
    """`slo_aware` with a stopwatch around everything that is asked of it."""

    name: str = field(default_factory=lambda: "slo_aware, timed", init=False)

    def retain(self, node: Node, request: Request) -> None:
        """Timed."""
        SPENT.time(lambda: SloAwareMemory.retain(self, node, request))

    def unused(self, node: Node) -> None:
        """Timed."""
        SPENT.time(lambda: SloAwareMemory.unused(self, node))

    def victim(self, blocks: int) -> tuple[Node, int]:
        """Timed."""
        return SPENT.time(lambda: SloAwareMemory.victim(self, blocks))

    def keep(self, node: Node) -> bool:
        """Timed."""
        return SPENT.time(lambda: SloAwareMemory.keep(self, node))

    def shrinks(self, node: Node) -> tuple[int, int, int] | None:
        """Timed."""
        return SPENT.time(lambda: SloAwareMemory.shrinks(self, node))

    def host_unused(self, node: Node) -> None:
        """Timed."""
        SPENT.time(lambda: SloAwareMemory.host_unused(self, node))

    def host_victim(self, blocks: int) -> tuple[Node, int] | None:
        """Timed."""
        return SPENT.time(lambda: SloAwareMemory.host_victim(self, blocks))

    def loads(self, start_blocks: int, stop_blocks: int, small: Small = NO_SMALL) -> bool:
        """Timed."""
        return SPENT.time(lambda: SloAwareMemory.loads(self, start_blocks, stop_blocks, small))


@dataclass(slots=True)
class Share:
    """One workload under one scheduler."""

    workload: str
    scheduler: str
    requests: int
    hit_rate: float
    simulated_s: float
    policy_s: float
    calls: int
    share: float
    """Of the simulated time."""
    us_per_request: float

    def line(self) -> str:
        """The figures for a person."""
        verdict = "met" if self.share < BAR else "missed"
        return (
            f"{self.workload:10} {self.scheduler:9} {self.requests:>7,} requests, hit rate "
            f"{self.hit_rate:.3f}: {self.policy_s:7.2f} s of {self.simulated_s:,.0f} s simulated: "
            f"{100 * self.share:.3f} % ({verdict}), {self.us_per_request:,.0f} us a request"
        )


def standard(requests: int) -> Workload:
    """The standard workload with content ids."""
    random = np.random.default_rng(0)
    arrivals_s = np.cumsum(random.exponential(1 / RATE_PER_S, requests)).tolist()
    systems = random.integers(SYSTEM_PROMPTS, size=requests).tolist()
    return Workload(
        [
            Request(
                f"r{i}",
                arrival_s,
                PROMPT_TOKENS,
                1024,
                hash_ids=(system, SYSTEM_PROMPTS + i),
                hash_block_tokens=ID_TOKENS,
                index=i,
            )
            for i, (arrival_s, system) in enumerate(zip(arrivals_s, systems, strict=True))
        ],
        [OUTPUT_TOKENS] * requests,
        "standard",
    )


def cases(requests: int) -> Iterator[tuple[str, str, Config, Workload]]:
    """Name, scheduler, configuration and workload."""
    policy = ("run.prefix_caching=true", f"run.memory={MEMORY}")
    for scheduler in ("rotating", "vllm"):
        chosen = (*policy, f"run.scheduler={scheduler}")
        yield "standard", scheduler, load_config(None, chosen), standard(requests)
        named = load_config(Path("scenario-m"), chosen)
        yield "M", scheduler, named, load_workload(named)
        if (trace := mooncake()).exists():
            config = configured(trace, *chosen)
            yield "mooncake", scheduler, config, conversations(load_workload(config), 0)


def measure(name: str, scheduler: str, config: Config, workload: Workload) -> Share:
    """One run."""
    SPENT.seconds, SPENT.calls = 0.0, 0
    record = run_simulation(config, workload).record
    submitted = len(record.table.requests)
    simulated_s = float(np.nanmax(record.table.finish_s))
    return Share(
        workload=name,
        scheduler=scheduler,
        requests=submitted,
        hit_rate=record.prefix_hit_tokens / max(1, record.prefix_query_tokens),
        simulated_s=simulated_s,
        policy_s=SPENT.seconds,
        calls=SPENT.calls,
        share=SPENT.seconds / simulated_s,
        us_per_request=1e6 * SPENT.seconds / submitted,
    )


def main() -> None:
    """Measure every case and print it (or write JSON)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=10_000, help="of the standard workload")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for case in cases(options.requests):
        share = measure(*case)
        print(share.line(), flush=True)
        found.append(asdict(share))
    if options.json:
        figures = {"machine": machine(), "bar": BAR, "cases": found}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
