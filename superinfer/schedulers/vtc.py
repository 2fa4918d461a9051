"""`vtc`: the least-served tenant first, by Virtual Token Counters.

Source: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv 2401.00588),
algorithm 2, and its artifact (Ying1123/VTC-artifact, slora/server/router/vtc_req_queue.py
@14c19b70). A tenant's counter grows by 1 per prompt token when a request is admitted and by 2
per output token (the artifact's `input_price` and `output_price`). While there is room, the next
request is the oldest of the waiting tenant with the lowest counter: work-conserving, no tenant
is held back for another that has nothing to run. A tenant that had nothing waiting is lifted
when it returns: to the lowest counter of those that wait or, where nobody does, to that of the
tenant whose queue emptied last, so that idle time earns no credit. (The artifact leaves out the
second rule; the paper has it.)

Memory: the artifact admits only what fits if every running answer grows to its declared limit,
and so never preempts. With the declared lengths known, the largest need is at one of the ends to
come: order the requests by tokens left, longest first; then it is the largest sum of the first i
lengths plus i times the i-th rest. Here each request may waste part of a block on top of it. A
request that would not fit even alone is let in once it is alone. `reserve_declared = false`
admits by the blocks of the prompt alone, like `fcfs`; then the latest arrival gives way, as the
memory policy says.

Left out: tenant weights (all are equal), counters by profiled cost and by predicted lengths,
adapters of S-LoRA, and its prefill steps for which decodes wait: prefill runs in chunks beside
the decodes, as in `fcfs`. While the request whose turn it is does not fit, nobody else is tried
before somebody arrives, ends or moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mypy_extensions import mypyc_attr

from superinfer.draft import Draft
from superinfer.heaps import GrowingKeys
from superinfer.schedulers.base import Machine
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.parts import RankedQueue, check_not_negative
from superinfer.schedulers.tracking import TrackingScheduler
from superinfer.sequence import Sequence, State

_DECODING: Final = State.DECODING


class TokenCounters:
    """Weighted tokens per tenant. Streams count by the steps since they joined the batch."""

    def __init__(self, output_weight: float) -> None:
        self.step = 0
        """Step of the decode batch up to which is counted."""
        self._output_weight = output_weight
        self._served: dict[str, float] = {}
        self._streams: dict[str, int] = {}
        self._join_steps: dict[str, int] = {}
        """Sum of the step numbers at which a tenant's streams joined."""
        self.waiting = GrowingKeys()
        """The tenants that wait, told of each whose service falls: with a stream go the steps that
        were counted for it, until they are added as tokens."""

    def __getitem__(self, tenant: str) -> float:
        """Service that a tenant got so far."""
        steps = self.step * self._streams.get(tenant, 0) - self._join_steps.get(tenant, 0)
        return self._served.get(tenant, 0.0) + self._output_weight * steps

    def add(self, tenant: str, service: float) -> None:
        """Count service that was given at once."""
        self._served[tenant] = self._served.get(tenant, 0.0) + service

    def add_output(self, tenant: str, tokens: int) -> None:
        """Count output tokens that no stream counts."""
        self.add(tenant, self._output_weight * tokens)

    def lift(self, tenant: str, least: float) -> None:
        """Start a tenant that was idle no lower than `least`."""
        self.add(tenant, max(0.0, least - self[tenant]))

    def stream(self, tenant: str, join_step: int, change: int) -> None:
        """A stream that joined at `join_step` begins (1) or is over (-1)."""
        self._streams[tenant] = self._streams.get(tenant, 0) + change
        self._join_steps[tenant] = self._join_steps.get(tenant, 0) + change * join_step
        self.waiting.touch(tenant)


class TenantQueues(RankedQueue):
    """One queue per tenant, the oldest first; the head is that of the least-served tenant."""

    __slots__ = ("_counters", "_emptied", "_queues", "_turn")

    def __init__(self, counters: TokenCounters) -> None:
        super().__init__(State.WAITING)
        self._counters = counters
        self._queues: dict[str, RankedQueue] = {}
        """Only tenants with something waiting, as far as is known."""
        self._turn = ""
        self._emptied: str | None = None
        """The tenant whose queue emptied last."""

    def push(self, seq: Sequence) -> None:
        """Queue it with its tenant."""
        tenant = seq.request.tenant
        if tenant not in self._queues:
            self._queues[tenant] = RankedQueue(State.WAITING)
        self._queues[tenant].push(seq)
        self._counters.waiting.touch(tenant)

    def arrive(self, seq: Sequence) -> None:
        """Queue a new request; its tenant is lifted if it had nothing waiting."""
        tenant = seq.request.tenant
        if self.next_of(tenant) is None:
            least = self._counters.waiting.lowest(self._place)
            if least is not None:
                self._counters.lift(tenant, least[0][0])
            elif self._emptied is not None:
                self._counters.lift(tenant, self._counters[self._emptied])
        self.push(seq)

    def head(self) -> Sequence | None:
        """The oldest request of the waiting tenant with the lowest counter."""
        least = self._counters.waiting.lowest(self._place)
        self._turn = "" if least is None else least[1]
        return None if least is None else self.next_of(self._turn)

    def pop(self) -> None:
        """Remove the head."""
        self._queues[self._turn].pop()
        self.next_of(self._turn)

    def next_of(self, tenant: str) -> Sequence | None:
        """The oldest that a tenant has waiting; a tenant that has nothing is forgotten."""
        queue = self._queues.get(tenant)
        head = None if queue is None else queue.head()
        if queue is not None and head is None:
            del self._queues[tenant]
            self._emptied = tenant
        return head

    def _place(self, tenant: str) -> tuple[float, tuple[float, ...]] | None:
        """By what a tenant was served, of equals the older request; None if it has none."""
        head = self.next_of(tenant)
        return None if head is None else (self._counters[tenant], head.rank)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class VtcScheduler(TrackingScheduler):
    """Virtual Token Counters. Budget, places and watermark are those of `fcfs`."""

    input_weight: float = 1.0
    """Service per prompt token (paper, section 3.1: 1)."""
    output_weight: float = 2.0
    """Service per output token (paper, section 3.1: 2)."""
    reserve_declared: bool = True
    """Admit only what fits if all running answers become as long as declared (the artifact)."""
    name: str = field(default_factory=lambda: "vtc", init=False)
    service: TokenCounters = field(init=False, repr=False)
    _queues: TenantQueues = field(init=False, repr=False)
    """The same object as `waiting`."""
    _arrived: list[Sequence] = field(default_factory=list, init=False, repr=False)
    """To be queued at the next decision: counters are known only then."""
    _counted: dict[Sequence, int] = field(default_factory=dict, init=False, repr=False)
    """Output tokens counted for, not those of a stream under way; who is in here has paid for
    its prompt."""
    _stale: bool = field(default_factory=lambda: True, init=False)
    """True if somebody arrived, left or moved since the queue was found blocked."""

    def __post_init__(self) -> None:
        FcfsScheduler.__post_init__(self)
        self.service = TokenCounters(self.output_weight)
        self.waiting = self._queues = TenantQueues(self.service)

    # -- protocol -------------------------------------------------------------------------------

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_not_negative("input_weight", self.input_weight)
        check_not_negative("output_weight", self.output_weight)
        FcfsScheduler.bind(self, machine)

    def submit(self, seq: Sequence, now: float) -> None:
        """Take note; the next decision queues it."""
        seq.rank = self.rank(seq)
        self._arrived.append(seq)
        self._stale = True

    def plan(self, draft: Draft, now: float) -> None:
        """Bring the counters up to date, then as `fcfs`."""
        self.service.step = draft.batch.step
        self.observe(draft)
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            for seq in arrived:
                if seq.state is State.WAITING:
                    self._queues.arrive(seq)
        FcfsScheduler.plan(self, draft, now)

    def swapped_out(self, seq: Sequence) -> None:
        """It may come back now."""
        FcfsScheduler.swapped_out(self, seq)
        self._stale = True

    def resumed(self, seq: Sequence) -> None:
        """It is resident again."""
        TrackingScheduler.resumed(self, seq)
        self._stale = True

    def ended(self, seq: Sequence) -> None:
        """Count its last tokens and forget it."""
        TrackingScheduler.ended(self, seq)
        self._queues.next_of(seq.request.tenant)  # its queue may have emptied
        counted = self._counted.pop(seq, seq.output_tokens)
        self.service.add_output(seq.request.tenant, seq.output_tokens - counted)
        self._stale = True

    def preempt(self, draft: Draft, victim: Sequence) -> None:
        """Take a running sequence off the device."""
        FcfsScheduler.preempt(self, draft, victim)
        self._stale = True

    # -- service --------------------------------------------------------------------------------

    def began(self, draft: Draft, seq: Sequence) -> None:
        """Its stream counts from here on; what it gave before (a first token) is counted now."""
        tenant = seq.request.tenant
        self.service.add_output(tenant, seq.output_tokens - self._counted[seq])
        self._counted[seq] = seq.output_tokens
        self.service.stream(tenant, seq.join_step, 1)

    def stopped(self, seq: Sequence) -> None:
        """The tokens of its stream become a plain number."""
        tenant = seq.request.tenant
        self.service.stream(tenant, seq.join_step, -1)
        if seq.state is _DECODING:  # else it has ended, and `ended` counts
            steps = self.service.step - seq.join_step
            self.service.add_output(tenant, steps)
            self._counted[seq] += steps

    def _add(self, seq: Sequence) -> None:
        TrackingScheduler._add(self, seq)
        if seq not in self._counted:
            self._counted[seq] = 0
            tokens = self.input_weight * seq.request.prompt_tokens
            self.service.add(seq.request.tenant, tokens)

    # -- admission ------------------------------------------------------------------------------

    def _fill_with_prefills(self, draft: Draft, admit: bool) -> None:
        """While the head is known not to fit, only unfinished prefills."""
        tried = admit and self._stale
        FcfsScheduler._fill_with_prefills(self, draft, tried)
        if tried and not (draft.chunks or draft.changes):
            self._stale = False

    def _fit(self, draft: Draft, seq: Sequence) -> bool:
        reserves = self.reserve_declared and seq.state is State.WAITING and len(self.running) > 0
        if reserves and self._declared_peak(draft, seq) > self._capacity_tokens(draft):
            return False
        return FcfsScheduler._fit(self, draft, seq)

    def _capacity_tokens(self, draft: Draft) -> int:
        """Tokens that surely fit: each of the requests may leave part of a block empty."""
        blocks = draft.pool.total - self._keep_free - len(self.running) - 1
        return blocks * self.machine.block_tokens

    def _declared_peak(self, draft: Draft, seq: Sequence) -> int:
        """Most tokens that the running ones and `seq` hold at a time if all go to their limits."""
        sizes = [(self._left(draft, one), self._held(draft, one)) for one in [*self.running, seq]]
        sizes.sort(reverse=True)
        peak = held = 0
        for together, (left, tokens) in enumerate(sizes, 1):
            held += tokens
            peak = max(peak, held + together * left)
        return peak

    def _held(self, draft: Draft, seq: Sequence) -> int:
        """Tokens of prompt and answer so far."""
        if seq.state is _DECODING:
            return draft.batch.length(seq)
        return max(seq.prefill_tokens, seq.computed_tokens + 1)

    def _left(self, draft: Draft, seq: Sequence) -> int:
        """Tokens until the declared end."""
        request = seq.request
        room = self.machine.max_model_len - request.prompt_tokens
        given = draft.batch.output_tokens(seq) if seq.state is _DECODING else seq.output_tokens
        return max(0, min(request.max_tokens, room) - given)
