"""`andes`: under memory pressure, serve whose quality of experience gains most per block.

Source: Liu et al., "Andes: Defining and Enhancing Quality-of-Experience in LLM-Based Text
Streaming Services" (arXiv 2404.16283), and its public code (AmberLJC/vllm-0.6.1,
vllm/core/andes_scheduler.py and vllm/core/andes_utils/{knapsack_solver,qoe_tracker}.py, commits
05d91ae3 and 07a81f93).

* A reader expects the first token after the TTFT target and the next ones at the TPOT target.
  Quality is 1 less the share of the expected text that is missing `horizon_s` from now, squared:
  the area between both delivery curves over the area under the expected one, both taken as
  triangles. It is 1 for a stream that is ahead of its reader and served fast enough, and for a
  request whose first token is not due within the horizon.
* The gain of a request is its quality if served from now on less its quality if not, times 1.5
  if it is running (so that a swap of places has to pay).
* Every 10 steps, if at least 90 % of the blocks are taken and somebody waits, a knapsack is
  filled greedily by gain per block, until it is 90 % full and the next one does not fit. Running
  requests outside it are preempted, waiting ones inside it come in. At other times requests come
  in in order of their queueing, new ones and those on the host alike, and nobody is preempted
  for them.
* Preemptions are capped at `preemptions_per_request` on average over all requests so far (the
  paper caps how often a request is preempted; commented out in the public code).

Memory: vLLM's. A preempted request drops its cache and starts over, the public code's default,
or is swapped out with `preemption = "swap"`, for which the paper has room on the host. Where
decodes find no block the running request that came in last gives way and returns to the front of
its queue. Steps are those of vLLM without chunks: one that prefills has no decodes.

Left out: the exact solver, the variant for the least quality, and the client's token buffer. The
time per token when served is predicted for the present batch (a constant 50 ms in the public
code). A long prompt is cut at the token budget rather than refused; in the public code a swapped
request that finds no budget is dropped, here it waits. Who swaps in and who prefills may share a
plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from superinfer.draft import MAX_STEPS, Draft
from superinfer.errors import ConfigError
from superinfer.schedulers.base import Machine
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.parts import (
    RankedList,
    RankedQueue,
    check_not_negative,
    check_positive,
)
from superinfer.sequence import Sequence, State

FULL: Final = 0.9
"""A knapsack filled to this share is left when the next one does not fit (public code)."""
INERTIA: Final = 1.5
"""Factor on the gain of who is running (public code)."""
_NEVER: Final = (State.MOVING_IN, State.MOVING_OUT)


class OpenQueue(RankedQueue):
    """A queue in which everybody can be seen and taken out from anywhere."""

    __slots__ = ("_items",)

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._items = RankedList()

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._items)

    def push(self, seq: Sequence) -> None:
        """Queue by rank."""
        self._items.add(seq)

    def head(self) -> Sequence | None:
        """The sequence whose turn it is."""
        return self._items.first() if len(self._items) else None

    def pop(self) -> None:
        """Remove the head."""
        self._items.discard(self._items.first())

    def discard(self, seq: Sequence) -> None:
        """Remove whoever it is, if it is there."""
        self._items.discard(seq)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class AndesScheduler(FcfsScheduler):
    """Quality of experience per block. Places and watermark are those of `fcfs`."""

    max_num_batched_tokens: int = 8192
    """Prompt tokens of a step that prefills (vLLM's default: the model's length, at least 2048)."""
    preemption: Literal["recompute", "swap"] = "recompute"
    """Fate of a preempted request's cache (public code: recompute)."""
    interval_steps: int = 10
    """Steps between two knapsacks (public code)."""
    pressure: float = 0.9
    """Share of the blocks in use from which on a knapsack is filled (public code)."""
    horizon_s: float = 50.0
    """How far ahead quality is predicted (public code)."""
    preemptions_per_request: float = 1.0
    """Cap on the mean over all requests so far. Ours: the paper has the cap, the code no value."""
    default_ttft_s: float = 1.0
    """Expected first token of a request without such a target. Ours."""
    default_tpot_s: float = 0.2
    """Expected time per token of a request without such a target: about reading speed, 5
    tokens/s. Ours."""
    name: str = field(default_factory=lambda: "andes", init=False)
    block_tokens: int = field(default_factory=lambda: 16, init=False)
    _open_waiting: OpenQueue = field(init=False, repr=False)
    _open_swapped: OpenQueue = field(init=False, repr=False)
    """The same objects as `waiting` and `swapped`."""
    _ticket: int = field(default_factory=int, init=False)
    _submitted: int = field(default_factory=int, init=False)
    _preempted: int = field(default_factory=int, init=False)
    _prefill_steps: int = field(default_factory=int, init=False)
    """Steps without decodes, which the decode batch does not count."""

    def __post_init__(self) -> None:
        self.waiting = self._open_waiting = OpenQueue(State.WAITING)
        self.swapped = self._open_swapped = OpenQueue(State.SWAPPED)

    # -- protocol -------------------------------------------------------------------------------

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        if self.interval_steps < 1:
            raise ConfigError(
                f"scheduler.interval_steps: expected at least 1, got {self.interval_steps}"
            )
        if not 0 <= self.pressure <= 1:
            raise ConfigError(f"scheduler.pressure: expected from 0 to 1, got {self.pressure:g}")
        for name in ("horizon_s", "default_ttft_s", "default_tpot_s"):
            check_positive(name, getattr(self, name))
        check_not_negative("preemptions_per_request", self.preemptions_per_request)
        FcfsScheduler.bind(self, machine)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue behind all others."""
        self._submitted += 1
        FcfsScheduler.submit(self, seq, now)

    def rank(self, seq: Sequence) -> tuple[float, ...]:
        """By the moment of queueing."""
        self._ticket += 1
        return (float(self._ticket),)

    def plan(self, draft: Draft, now: float) -> None:
        """The knapsack if it is time, then prefills alone or else all decodes."""
        disturbed = self._make_room_for_growth(draft)
        if self._somebody_waits and not disturbed and self._under_pressure(draft):
            self._swap_places(draft)
        if self.prefilling or not disturbed:
            self._fill_with_prefills(draft, admit=not disturbed)
        if draft.chunks:
            self._prefill_steps += 1
        elif draft.batch.size:
            draft.decode(self.steps(draft) if not (disturbed or draft.changes) else 1)

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        self._open_waiting.discard(seq)
        self._open_swapped.discard(seq)
        FcfsScheduler.ended(self, seq)

    def prefill_budget(self, draft: Draft) -> int:
        """Steps that prefill have no decodes."""
        return self.max_num_batched_tokens

    def decode_tokens(self) -> int:
        """None: it gets no token beside prompts."""
        return 0

    def preempt(self, draft: Draft, victim: Sequence) -> None:
        """Take a running sequence off the device for want of blocks; it keeps its turn."""
        self._remove(victim)
        self._take_off(draft, victim)

    # -- the knapsack ---------------------------------------------------------------------------

    @property
    def _somebody_waits(self) -> bool:
        return self.waiting.head() is not None or self.swapped.head() is not None

    def steps(self, draft: Draft) -> int:
        """Steps until the next knapsack, which no one needs unless somebody waits."""
        if not self._somebody_waits:
            return MAX_STEPS
        return self.interval_steps - self._step(draft) % self.interval_steps

    def _step(self, draft: Draft) -> int:
        return draft.batch.step + self._prefill_steps

    def _under_pressure(self, draft: Draft) -> bool:
        """True every so many steps while few blocks are free, not counting one for each decode."""
        if self._step(draft) % self.interval_steps:
            return False
        free = max(0, draft.available - draft.batch.size)
        return draft.pool.total - free >= self.pressure * draft.pool.total

    def _swap_places(self, draft: Draft) -> None:
        """Preempt those outside the knapsack and take in those inside it."""
        picked = self._knapsack(draft)
        for seq in [seq for seq in self.running if seq.state not in _NEVER and seq not in picked]:
            if self._preempted < self.preemptions_per_request * self._submitted:
                self._preempted += 1
                self._evict(draft, seq)
        for seq in picked:
            if seq.state is State.WAITING or seq.state is State.SWAPPED:
                self._take_in_from_anywhere(draft, seq)

    def _evict(self, draft: Draft, victim: Sequence) -> None:
        """Off the device and to the end of the queue."""
        self._remove(victim)
        victim.rank = self.rank(victim)
        self._take_off(draft, victim)

    def _take_off(self, draft: Draft, victim: Sequence) -> None:
        swaps = self.preemption == "swap" and draft.host_fits(victim)
        draft.preempt(victim, "swap" if swaps else "recompute")
        self.queue_up(victim)

    def _take_in_from_anywhere(self, draft: Draft, seq: Sequence) -> None:
        queue = self._open_waiting if seq.state is State.WAITING else self._open_swapped
        if len(self.running) < self.max_num_seqs and self._fit(draft, seq):
            queue.discard(seq)
            self._add(seq)

    def _knapsack(self, draft: Draft) -> dict[Sequence, None]:
        """Who is to be on the device, best gain per block first; greedy, as in the public code."""
        step_s = self._step_s(draft)
        items: list[tuple[float, tuple[float, ...], int, Sequence]] = []
        for group in (self.running, self._open_waiting, self._open_swapped):
            for seq in group:
                blocks = draft.blocks_for(self._held_tokens(draft, seq) + 1)
                gain = self._gain(draft, seq, step_s) / blocks
                items.append((-gain, seq.rank, blocks, seq))
        items.sort(key=itemgetter(0, 1))
        capacity = draft.pool.total - self._keep_free
        picked: dict[Sequence, None] = {}
        used = 0
        for _, _, blocks, seq in items:
            if used + blocks <= capacity and len(picked) < self.max_num_seqs:
                picked[seq] = None
                used += blocks
            elif used >= FULL * capacity:
                break
        return picked

    def _step_s(self, draft: Draft) -> float:
        """Seconds per token of who is served, beside the present decodes."""
        cost, batch = self.machine.cost, draft.batch
        size = max(1, batch.size)
        return cost.step_s((), size, max(1, batch.context_tokens)) + cost.host_s(size)

    def _held_tokens(self, draft: Draft, seq: Sequence) -> int:
        if seq.state is State.DECODING:
            return draft.batch.length(seq)
        return max(seq.prefill_tokens, seq.computed_tokens + 1)

    def _gain(self, draft: Draft, seq: Sequence, step_s: float) -> float:
        """Quality if served less quality if not."""
        slo, running = seq.request.slo, seq.state is State.DECODING
        ttft_s = self.default_ttft_s if slo.ttft_s is None else slo.ttft_s
        tpot_s = self.default_tpot_s if slo.tpot_s is None else slo.tpot_s
        elapsed_s = draft.now - seq.request.arrival_s
        given = draft.batch.output_tokens(seq) if running else seq.output_tokens
        expected = max(1.0, (elapsed_s + self.horizon_s - ttft_s) / tpot_s)
        served = _quality(given + self.horizon_s / step_s, expected)
        if given:
            unserved = _quality(given, expected)
        else:
            unserved = float(elapsed_s + self.horizon_s <= ttft_s)
        resident = running or seq.state is State.PREFILLING
        return (served - unserved) * (INERTIA if resident else 1.0)


def _quality(given: float, expected: float) -> float:
    """1 less the square of the missing share."""
    missing = max(0.0, expected - given) / expected
    return 1.0 - missing * missing
