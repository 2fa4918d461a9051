"""`qoserve`: chunks sized by slack, a blend of deadline and remaining work, and eager relegation.

Source: Goel et al., "Niyama: Breaking the Silos of LLM Inference Serving" (arXiv 2503.22562),
published later as QoServe; no code was public when this was written, so all of it is rebuilt
from the text.

* Deadlines. Token n of an interactive request (one with a TTFT or TPOT target) is due at arrival
  + TTFT + (n - 1) x TPOT; without a TTFT target the first token's own time starts the count. A
  request with a target for the whole answer alone is due at arrival + that target. Who is
  promised nothing is due after `best_effort_e2el_s`: every request of the paper has a class with
  a deadline.
* Dynamic chunks. Every decode runs in every step; the prefill beside them is the largest with
  which the step ends before the next token of any stream is due. A stream that is ahead of its
  timeline so lends its slack to prefills. One that is behind is served at its pace: hurrying
  cannot undo a miss.
* Hybrid order of prefills. Lowest first: deadline + alpha x remaining work in tokens. The work
  is the rest of the prompt and, where the whole answer is due, also its expected length: mean
  plus two standard deviations of the class's answers so far. alpha 0 is earliest deadline first,
  a large one is shortest remaining work first. A running prefill gives way at the end of a chunk
  and keeps its cache (selective preemption); decodes are never displaced by prefills.
* Eager relegation. A request whose first token (or answer) is sure to be late, because its
  prefill alone (of the whole prompt, cached or not) would end after the deadline, goes behind
  all others, in the same order among its like.

Memory: the paper builds on Sarathi-Serve and says nothing of its own. Blocks of a prompt are
taken at admission, and when decodes need blocks that are not there the last in order gives way,
relegated ones first, as the memory policy says.

Left out: alpha that follows the load; relegating requests of low importance in place of others;
the learned predictor of step times (the cost model predicts here); streams with a target for the
whole answer alone do not bound chunks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import inf, sqrt

from mypy_extensions import mypyc_attr

from superinfer.costs.base import Chunk
from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.heaps import FEWEST, sweep
from superinfer.schedulers.base import Machine
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.pacing import ChunkSizer
from superinfer.schedulers.parts import check_not_negative, check_positive, deadline_s
from superinfer.schedulers.tracking import TrackingScheduler
from superinfer.sequence import Sequence


class AnswerLengths:
    """Mean and spread of the answers of each class that have ended."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int, int]] = {}

    def learn(self, class_name: str, tokens: int) -> None:
        """An answer had so many tokens."""
        count, total, squares = self._sums.get(class_name, (0, 0, 0))
        self._sums[class_name] = (count + 1, total + tokens, squares + tokens * tokens)

    def cautious(self, class_name: str, most: int) -> float:
        """Mean plus two standard deviations, at most `most`; `most` while nothing is known."""
        count, total, squares = self._sums.get(class_name, (0, 0, 0))
        if not count:
            return float(most)
        mean = total / count
        return min(mean + 2 * sqrt(max(0.0, squares / count - mean * mean)), float(most))


class Timelines:
    """When the next token of any stream is due, per pace; streams move on by a step at a time."""

    def __init__(self) -> None:
        self._by_pace: dict[float, list[tuple[float, int, Sequence]]] = {}
        """Heaps of (due time of the next token less pace times step, ticket, stream)."""
        self._tickets: dict[Sequence, int] = {}
        self._last_ticket = 0
        self._tidy_at = FEWEST
        """Ticket with which entries of streams that are over are looked for."""

    def add(self, seq: Sequence, pace_s: float, next_due_s: float, step: int) -> None:
        """A stream whose next token, in the step after `step` steps, is due at `next_due_s`."""
        self._last_ticket += 1
        if self._last_ticket > self._tidy_at:
            self._forget()
        self._tickets[seq] = self._last_ticket
        heap = self._by_pace.setdefault(pace_s, [])
        heapq.heappush(heap, (next_due_s - step * pace_s, self._last_ticket, seq))

    def discard(self, seq: Sequence) -> None:
        """A stream is over; it may have had no timeline."""
        self._tickets.pop(seq, None)

    def budget_s(self, now: float, step: int) -> float:
        """Seconds that the next step may take: until the first token is due, never less than a
        pace allows; inf where no stream has one.
        """
        budget_s = inf
        for pace_s in list(self._by_pace):
            heap = self._by_pace[pace_s]
            while heap and self._tickets.get(heap[0][2]) != heap[0][1]:
                heapq.heappop(heap)
            if heap:
                budget_s = min(budget_s, max(pace_s, heap[0][0] + step * pace_s - now))
            else:
                del self._by_pace[pace_s]
        return budget_s

    def _forget(self) -> None:
        """Drop entries of streams that are over: of streams ahead of their pace the later ones are
        before them, so that they would never come to the top.
        """
        for heap in self._by_pace.values():
            sweep(heap, self._holds)
        self._tidy_at = self._last_ticket + max(FEWEST, len(self._tickets))

    def _holds(self, entry: tuple[float, int, Sequence]) -> bool:
        return self._tickets.get(entry[2]) == entry[1]


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class QoServeScheduler(TrackingScheduler):
    """Niyama's three mechanisms. Places and watermark are those of `fcfs`."""

    max_num_batched_tokens: int = 2048
    """Most tokens of a step, decodes included (Sarathi-Serve's relaxed value)."""
    alpha_ms_per_token: float = 1.0
    """Milliseconds of deadline that a token of remaining work is worth. The paper tunes it per
    deployment and gives no value; 1 makes 1,000 tokens of prompt equal to a second."""
    pace_margin: float = 0.95
    """Share of the slack that a step may use: room for the error of the prediction. Ours, as in
    `priority` and `rotating`."""
    relegation: bool = True
    """Sure misses go behind all others. Off: they stay where their deadline puts them."""
    best_effort_e2el_s: float = 1800.0
    """Deadline of requests that are promised nothing. Ours: half an hour, as for a batch job."""
    tile_tokens: int = 0
    """Rows of a tile of a matrix product, which chunks fill (pacing.py); 0: multiples of 64."""
    name: str = field(default_factory=lambda: "qoserve", init=False)
    lengths: AnswerLengths = field(default_factory=AnswerLengths, init=False, repr=False)
    _timelines: Timelines = field(default_factory=Timelines, init=False, repr=False)
    _sizer: ChunkSizer = field(init=False, repr=False)
    _now: float = field(default_factory=float, init=False)
    _chunked: set[Sequence] = field(default_factory=set, init=False, repr=False)
    """Had a chunk in the latest plan."""
    _relegated: list[Sequence] = field(default_factory=list, init=False, repr=False)
    """To be noted in the plan under way."""
    _late_from_s: dict[Sequence, float] = field(default_factory=dict, init=False, repr=False)
    """When a request without a token becomes a sure miss, for those that are not relegated."""

    # -- protocol -------------------------------------------------------------------------------

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_not_negative("alpha_ms_per_token", self.alpha_ms_per_token)
        check_positive("best_effort_e2el_s", self.best_effort_e2el_s)
        check_not_negative("tile_tokens", self.tile_tokens)
        if not 0 < self.pace_margin <= 1:
            raise ConfigError(
                f"scheduler.pace_margin: expected above 0 and at most 1, got {self.pace_margin:g}"
            )
        FcfsScheduler.bind(self, machine)
        self._sizer = ChunkSizer(machine.cost, self.tile_tokens)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue by the blend, and note when it can no longer be in time."""
        self._late_from_s[seq] = self._due_s(seq) - self._prefill_alone_s(seq)
        FcfsScheduler.submit(self, seq, now)

    def plan(self, draft: Draft, now: float) -> None:
        """Sort the running prefills anew, then as `fcfs` in the order of ranks."""
        self._now = now
        self.observe(draft)
        if self.prefilling:
            self._sort_prefills()
        self._chunked.clear()
        FcfsScheduler.plan(self, draft, now)
        for seq in self._relegated:
            draft.note("relegate", seq)
        self._relegated.clear()

    def ended(self, seq: Sequence) -> None:
        """Forget it and learn from its length."""
        TrackingScheduler.ended(self, seq)
        self._late_from_s.pop(seq, None)
        if seq.outcome == "finished":
            self.lengths.learn(seq.request.slo_class.name, seq.output_tokens)

    def until_s(self, now: float) -> float:
        """When the head of the queue, which does not fit, becomes a sure miss."""
        head = FcfsScheduler._head(self) if self.relegation else None
        if head is None:
            return inf
        late_from_s = self._late_from_s.get(head, inf)
        return late_from_s if late_from_s > now else inf

    def next_wakeup(self, now: float) -> float | None:
        """When the head of the queue becomes a sure miss, for an idle driver."""
        time_s = self.until_s(now)
        return None if time_s == inf else time_s

    # -- order ----------------------------------------------------------------------------------

    def rank(self, seq: Sequence) -> tuple[float, ...]:
        """Relegated or not, then deadline and remaining work, then arrival."""
        relegated = self.relegation and seq not in self._late_from_s and not seq.output_tokens
        work_s = self.alpha_ms_per_token / 1e3 * self._tokens_left(seq)
        return (float(relegated), self._due_s(seq) + work_s, *FcfsScheduler.rank(self, seq))

    def _due_s(self, seq: Sequence) -> float:
        due_s = deadline_s(seq.request)
        return due_s if due_s < inf else seq.request.arrival_s + self.best_effort_e2el_s

    def _tokens_left(self, seq: Sequence) -> float:
        request = seq.request
        left = float(seq.prefill_tokens - seq.computed_tokens)
        if request.slo.ttft_s is not None or request.slo.tpot_s is not None:
            return left
        answer = self.lengths.cautious(request.slo_class.name, request.max_tokens)
        return left + max(0.0, answer - seq.output_tokens)

    # -- relegation -----------------------------------------------------------------------------

    def _prefill_alone_s(self, seq: Sequence) -> float:
        """Seconds that the rest of its prefill takes at the very least."""
        left, computed = seq.prefill_tokens - seq.computed_tokens, seq.computed_tokens
        return self.machine.cost.step_s([Chunk(left, computed)], 0, 0)

    def _is_late(self, seq: Sequence) -> bool:
        return not seq.output_tokens and self._late_from_s.get(seq, inf) <= self._now

    def _relegate(self, seq: Sequence) -> None:
        """Put a request behind all others."""
        del self._late_from_s[seq]
        self._relegated.append(seq)
        self.rank_again(seq)

    def _sort_prefills(self) -> None:
        """Chunks leave less work; some have become sure misses."""
        for seq in list(self.prefilling):
            if seq in self._chunked and seq in self._late_from_s:
                self._late_from_s[seq] = self._due_s(seq) - self._prefill_alone_s(seq)
            if self.relegation and self._is_late(seq):
                self._relegate(seq)
            elif seq in self._chunked:
                self.rank_again(seq)

    def _head(self) -> Sequence | None:
        """The next to come in; sure misses are relegated on the way."""
        head = FcfsScheduler._head(self)
        while self.relegation and head is not None and self._is_late(head):
            self.queue_of(head).pop()
            self._relegate(head)
            head = FcfsScheduler._head(self)
        return head

    # -- chunks ---------------------------------------------------------------------------------

    def prefill_budget(self, draft: Draft) -> int:
        """The most prefill with which every stream has its next token in time."""
        budget = FcfsScheduler.prefill_budget(self, draft)
        cap_s = self._timelines.budget_s(self._now, draft.batch.step)
        if cap_s == inf or budget < 1:
            return budget
        first = next(iter(self.prefilling), None)
        context = first.computed_tokens if first is not None else 0
        cap_s *= self.pace_margin
        return min(budget, self._sizer.tokens_under(cap_s, draft.batch, context, budget))

    def _prefill(self, draft: Draft, seq: Sequence, budget: int) -> int:
        self._chunked.add(seq)
        return TrackingScheduler._prefill(self, draft, seq, budget)

    # -- timelines ------------------------------------------------------------------------------

    def began(self, draft: Draft, seq: Sequence) -> None:
        """Its next token is due by its timeline."""
        self._late_from_s.pop(seq, None)
        slo, first_s = seq.request.slo, seq.first_token_s
        if slo.tpot_s is None:
            return
        if slo.ttft_s is not None:
            first_due_s = seq.request.arrival_s + slo.ttft_s
        else:
            first_due_s = self._now if first_s is None else first_s
        next_due_s = first_due_s + seq.output_tokens * slo.tpot_s
        self._timelines.add(seq, slo.tpot_s, next_due_s, seq.join_step)

    def stopped(self, seq: Sequence) -> None:
        """It has no next token to wait for."""
        self._timelines.discard(seq)
