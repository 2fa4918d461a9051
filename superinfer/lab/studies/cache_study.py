"""Eviction policies alone on the prompts of a trace: hits, without any timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from superinfer.costs import Chunk, CostModel
from superinfer.errors import ConfigError
from superinfer.lab.config.policies import imported
from superinfer.lab.config.policy_faults import faults_named
from superinfer.memory.orders import ORDERS, Surroundings, build_order
from superinfer.memory.replay import CacheReplay
from superinfer.records.recorder import notes_of
from superinfer.request import Request
from superinfer.settings import did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

FLOOR, BOUND = "lru", "belady"
"""The two ends of the gap."""
CHUNK_TOKENS = 2048
"""Prefill is timed in chunks of so many tokens."""


@dataclass(slots=True, frozen=True)
class Outcome:
    """One policy at one capacity."""

    policy: str
    capacity_blocks: int
    hit_rate: float
    """Leading blocks that were cached, of all blocks of the counted prompts."""
    gap_closed: float | None
    """Share of the way from `lru` to `belady`; null where these are equal."""
    prefill_seconds_saved: float
    cpu_us_per_block: float
    """Host time of the whole replay, in microseconds for each prompt block."""
    notes: tuple[str, ...] = ()
    """What the policy has to say."""


class Replay(NamedTuple):
    """All prompts through one policy."""

    hits: list[int]
    cpu_s: float
    notes: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class CacheStudy:
    """Prompts, and from which of them on hits are counted."""

    requests: Sequence[Request]
    first_counted: int
    saved_s: Callable[[int], float]
    """Seconds that it takes to prefill so many tokens of a prompt from its beginning."""
    weights: str | None = None

    def outcomes(self, policies: Sequence[str], capacities: Sequence[int]) -> list[Outcome]:
        """Every policy at every capacity, in the order given."""
        found = []
        for capacity in capacities:
            ends = {name: self._replay(name, capacity) for name in (FLOOR, BOUND)}
            for name in policies:
                replay = ends.get(name) or self._replay(name, capacity)
                found.append(self._outcome(name, capacity, replay, ends))
        return found

    def blocks(self) -> int:
        """Blocks of the counted prompts."""
        return sum(len(request.hash_ids) for request in self.requests[self.first_counted :])

    def _outcome(
        self, policy: str, capacity: int, replay: Replay, ends: Mapping[str, Replay]
    ) -> Outcome:
        rate = self._rate(replay.hits)
        floor, bound = self._rate(ends[FLOOR].hits), self._rate(ends[BOUND].hits)
        closed = (rate - floor) / (bound - floor) if bound > floor else None
        blocks = sum(len(request.hash_ids) for request in self.requests)
        cpu_us = 1e6 * replay.cpu_s / blocks
        saved_s = self._saved(replay.hits)
        return Outcome(policy, capacity, rate, closed, saved_s, cpu_us, replay.notes)

    def _replay(self, policy: str, capacity: int) -> Replay:
        requests = self.requests
        surroundings = Surroundings(capacity, requests[0].hash_block_tokens, requests, self.weights)
        with faults_named({"policies": policy}):
            order = build_order(policy, surroundings)
            began = time.process_time()
            hits = CacheReplay(capacity, surroundings.block_tokens, order).hits(requests)
            cpu_s = time.process_time() - began
            return Replay(hits, cpu_s, tuple(notes_of(order)))

    def _rate(self, hits: Sequence[int]) -> float:
        return sum(hits[self.first_counted :]) / self.blocks()

    def _saved(self, hits: Sequence[int]) -> float:
        counted = zip(self.requests[self.first_counted :], hits[self.first_counted :], strict=True)
        return sum(
            self.saved_s(min(count * request.hash_block_tokens, request.prompt_tokens))
            for request, count in counted
            if count
        )


def cache_study(
    requests: Sequence[Request], share: float, cost: CostModel, weights: str | None = None
) -> CacheStudy:
    """A study that counts hits after `share` of the requests."""
    requests = [request for request in requests if request.hash_ids]
    sizes = sorted({request.hash_block_tokens for request in requests})
    if len(sizes) != 1:
        found = ", ".join(map(str, sizes)) or "none"
        expected = "expected requests with hash_ids of one block size"
        raise ConfigError(f"cache-study: {expected}, got {found}")
    for index, request in enumerate(requests):
        request.index = index
    first = int(len(requests) * share)
    longest = max(request.prompt_tokens for request in requests)
    return CacheStudy(requests, first, prefill_table(cost, longest), weights)


def prefill_table(cost: CostModel, longest_tokens: int) -> Callable[[int], float]:
    """Seconds to prefill the beginning of a prompt, alone and in chunks, by its tokens."""
    starts = range(0, longest_tokens, CHUNK_TOKENS)
    chunks_s = [cost.step_s([Chunk(CHUNK_TOKENS, start)], 0, 0) for start in starts]
    ends = np.arange(len(chunks_s) + 1) * CHUNK_TOKENS
    total_s = np.concatenate([[0.0], np.cumsum(chunks_s)])
    return lambda tokens: float(np.interp(tokens, ends, total_s))


def check_policies(names: Sequence[str]) -> None:
    """Refuse names that nobody knows, and classes that are no orders."""
    expected = f"expected package.module:Class or some of {', '.join(ORDERS)}"
    for name in names:
        if ":" in name:
            _check_outside(name)
        elif name not in ORDERS:
            raise ConfigError(f"--policies: {expected}, got {name!r}{did_you_mean(name, ORDERS)}")
    if not names:
        raise ConfigError(f"--policies: {expected}")


def _check_outside(name: str) -> None:
    cls = imported(f"--policies: {name!r}", name)
    missing = [each for each in ("retain", "unused", "victim") if not hasattr(cls, each)]
    if missing:
        raise ConfigError(f"--policies: {name!r}: expected an order with {', '.join(missing)}")


def study_json(study: CacheStudy, trace: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes as `--json` prints them."""
    return {
        "trace": trace,
        "block_tokens": study.requests[0].hash_block_tokens,
        "requests": len(study.requests),
        "counted_requests": len(study.requests) - study.first_counted,
        "counted_blocks": study.blocks(),
        "results": [asdict(outcome) for outcome in outcomes],
    }


def study_table(outcomes: Sequence[Outcome]) -> Table:
    """The outcomes as a table for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("capacity", "policy", "hit rate", "gap closed", "prefill s saved", "us/block"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in outcomes:
        closed = "-" if row.gap_closed is None else f"{row.gap_closed:.3f}"
        table.add_row(
            f"{row.capacity_blocks:,}",
            row.policy,
            f"{row.hit_rate:.4f}",
            closed,
            f"{row.prefill_seconds_saved:,.1f}",
            f"{row.cpu_us_per_block:.1f}",
        )
    return table
