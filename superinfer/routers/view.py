"""What a router may know of a replica.

Most of it a gateway knows by itself: what it sent, whose first token passed it, who ended. The rest
is what an engine reports of its batch, its memory and its cached prefixes, as of its latest
decision. Everything is kept up to date when a request comes, begins or ends, so a question costs
the same at every batch size; one about a prompt's prefix grows with that prompt. Who remembers
answers is told when they may be others (`on_change`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

from superinfer.costs.base import Chunk, CostModel, SliceLine
from superinfer.engine import Engine
from superinfer.memory.index.keys import Key, request_keys
from superinfer.request import SLO, Request
from superinfer.schedulers.rotating.lengths import MEDIAN, LengthEstimator


class _Sent(NamedTuple):
    """A request under way."""

    prompt_tokens: int
    new_tokens: int
    """Of them, those that were not cached when it was sent."""
    answer_tokens: int
    """As expected when it was sent."""
    hurried: bool


def hurried(slo: SLO) -> bool:
    """True for a request with a bound on a latency; a floor of tokens/s alone is no hurry."""
    return not (slo.ttft_s is None and slo.tpot_s is None and slo.e2el_s is None)


class ReplicaView:
    """One replica from outside."""

    __slots__ = (
        "_engine",
        "_lengths",
        "_paces",
        "_sent",
        "_waiting",
        "hurried_prompt_tokens",
        "hurried_requests",
        "index",
        "on_change",
        "outstanding_tokens",
        "patient_prompt_tokens",
        "waiting_prompt_tokens",
    )

    def __init__(self, index: int, engine: Engine, lengths: LengthEstimator) -> None:
        """`lengths` is what the gateway has learned of answers, on all replicas."""
        self.index = index
        self.on_change: Callable[[int], None] | None = None
        """Called with `index` when what is known of this replica may be another thing now; not when
        answers of any replica change how long the next ones are expected to be.
        """
        self.outstanding_tokens = 0
        """Prompt tokens of requests without a first token, and expected answers of all."""
        self.hurried_requests = 0
        """Requests under way that have a bound on a latency."""
        self.hurried_prompt_tokens = 0
        """Prompt tokens of those that have no first token yet, without what was cached."""
        self.patient_prompt_tokens = 0
        """The same of the requests without such a bound."""
        self.waiting_prompt_tokens = 0
        """Prompt tokens of all requests without a first token, cached or not."""
        self._engine = engine
        self._lengths = lengths
        self._sent: dict[int, _Sent] = {}
        self._waiting: set[int] = set()
        self._paces: list[tuple[float, int]] = []

    # -- what passed the gateway ----------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Requests under way."""
        return len(self._sent)

    def tightest_tpot_s(self) -> float | None:
        """The shortest TPOT target of a request under way; None where nobody has one."""
        paces = self._paces
        while paces and paces[0][1] not in self._sent:
            heapq.heappop(paces)
        return paces[0][0] if paces else None

    def expected_answer_tokens(self, request: Request) -> int:
        """Median of what requests of its tenant and class were answered so far."""
        return self._lengths.tokens_left(request, 0, MEDIAN)

    # -- what the engine reports ----------------------------------------------------------------

    @property
    def decodes(self) -> int:
        """Sequences in the decode batch."""
        return self._engine.batch.size

    @property
    def context_tokens(self) -> int:
        """Sum of their contexts."""
        return self._engine.batch.context_tokens

    @property
    def believed(self) -> CostModel:
        """What predicts the times of its steps."""
        return self._engine.believed

    @property
    def free_kv_tokens(self) -> int:
        """Tokens for which there is room beside the requests that are on the device."""
        return self._engine.pool.available * self._engine.block_tokens

    @property
    def caches_prefixes(self) -> bool:
        """True if something of a prompt may be cached here."""
        return self._engine.prefix is not None

    def cached_tokens(self, request: Request, keys: tuple[Key, ...] | None = None) -> int:
        """Prompt tokens that need not be computed here: what is cached, but for the last token.
        Who asks many replicas gives the request's `keys`.
        """
        engine = self._engine
        if engine.prefix is None:
            return 0
        limit = (request.prompt_tokens - 1) // engine.block_tokens
        keys = request_keys(request) if keys is None else keys
        blocks, _ = engine.prefix.match(request, keys, limit)
        return blocks * engine.block_tokens

    # -- predictions ----------------------------------------------------------------------------

    def first_token_s(self, request: Request, tokens_ahead: int, chunk_tokens: int) -> float:
        """Seconds until a request has its first token if so many prompt tokens are computed before
        its own, `chunk_tokens` a step beside the present batch; what is cached is not computed.
        """
        own = request.prompt_tokens - self.cached_tokens(request)
        return self.chunk_s(chunk_tokens) * max(1.0, (tokens_ahead + own) / chunk_tokens)

    def saved_s(self, request: Request, chunk_tokens: int) -> float:
        """Seconds of prefill, for all who are here, that what is cached of its prompt saves."""
        cached = self.cached_tokens(request)
        return self.chunk_s(chunk_tokens) * cached / chunk_tokens if cached else 0.0

    def decode_step_s(self, request: Request) -> float:
        """Seconds of a step of the present batch with this request in it."""
        batch, cost = self._engine.batch, self._engine.believed
        size, context = batch.size + 1, batch.context_tokens + request.prompt_tokens
        return cost.step_s((), size, context) + cost.host_s(size)

    def decode_line(self, prompt_tokens: int) -> SliceLine:
        """The same for a request with so long a prompt, and how it grows by as many tokens as the
        batch then has sequences.
        """
        batch, cost = self._engine.batch, self._engine.believed
        size = batch.size + 1
        line = cost.slice_line((), size, batch.context_tokens + prompt_tokens)
        return SliceLine(line.first_s + cost.host_s(size), line.growth_s, line.steps)

    def chunk_s(self, chunk_tokens: int) -> float:
        """Seconds of a step with a chunk of a prompt beside the present batch."""
        batch, cost = self._engine.batch, self._engine.believed
        chunk = [Chunk(chunk_tokens, 0)]
        return cost.step_s(chunk, batch.size, batch.context_tokens) + cost.host_s(batch.size + 1)

    # -- what the driver tells ------------------------------------------------------------------

    def sent(self, request: Request) -> None:
        """The replica takes a request."""
        sent = _Sent(
            request.prompt_tokens,
            request.prompt_tokens - self.cached_tokens(request),
            self.expected_answer_tokens(request),
            hurried(request.slo),
        )
        self._sent[request.index] = sent
        self._waiting.add(request.index)
        self.outstanding_tokens += sent.prompt_tokens + sent.answer_tokens
        self._count_waiting(sent, 1)
        if sent.hurried:
            self.hurried_requests += 1
        if request.slo.tpot_s is not None:
            heapq.heappush(self._paces, (request.slo.tpot_s, request.index))
        self.changed()

    def began(self, request: Request) -> None:
        """Its first token has come; telling it again, as after a preemption, changes nothing."""
        if request.index in self._waiting:
            self._waiting.discard(request.index)
            sent = self._sent[request.index]
            self.outstanding_tokens -= sent.prompt_tokens
            self._count_waiting(sent, -1)
            self.changed()

    def ended(self, request: Request, output_tokens: int) -> None:
        """It ended, in whatever state."""
        self.began(request)
        sent = self._sent.pop(request.index)
        self.outstanding_tokens -= sent.answer_tokens
        if sent.hurried:
            self.hurried_requests -= 1
        if output_tokens:
            self._lengths.learn(request, output_tokens)
        self.changed()

    def changed(self) -> None:
        """What the engine reports may be another: it has decided, or steps are over."""
        if self.on_change is not None:
            self.on_change(self.index)

    # -- inside ---------------------------------------------------------------------------------

    def _count_waiting(self, sent: _Sent, sign: int) -> None:
        self.waiting_prompt_tokens += sign * sent.prompt_tokens
        if sent.hurried:
            self.hurried_prompt_tokens += sign * sent.new_tokens
        else:
            self.patient_prompt_tokens += sign * sent.new_tokens
