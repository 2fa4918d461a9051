"""The running requests: a token for each decode, chunks for unfinished prompts."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final

from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.vllm_v1.limits import Limits
from superinfer.schedulers.vllm_v1.step import Step, left_tokens
from superinfer.schedulers.vllm_v1.walk import Walk
from superinfer.sequence import Sequence, State

_DECODING: Final = State.DECODING  # reading a member off its class is slow
_PREFILLING: Final = State.PREFILLING


class Running:
    """Requests in the order in which they came in, which is that of service."""

    def __init__(self, limits: Limits, by_priority: bool) -> None:
        self.limits = limits
        self.by_priority = by_priority
        """Whether priority chooses victims."""
        self.members: OrderedDict[Sequence, None] = OrderedDict()
        self.prefilling: dict[Sequence, None] = {}
        """Those with prompt left to compute, in the same order."""
        self._starved: list[Sequence] = []
        """Decodes for which the last step had no token."""
        self._complete: list[tuple[int, int, Sequence]] = []
        """A heap: at which step of the batch a member has all the tokens that it may get."""

    # -- who comes and goes ---------------------------------------------------------------------

    def start(self, draft: Draft, seq: Sequence, tokens: int) -> None:
        """It runs from now on, this step with a first chunk."""
        self.members[seq] = self.prefilling[seq] = None
        self._chunk(draft, seq, tokens)

    def remove(self, seq: Sequence) -> None:
        """It was preempted."""
        del self.members[seq]
        self.prefilling.pop(seq, None)

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        self.remove(seq)
        if seq in self._starved:
            self._starved.remove(seq)

    # -- decodes --------------------------------------------------------------------------------

    def sort_out_decodes(self, draft: Draft) -> None:
        """Bring back those that were left out; with lag 1 leave out those whose last token is under
        way: they keep their place until it has come.
        """
        for seq in self._starved:
            draft.unpark(seq)
        self._starved.clear()
        batch, limits = draft.batch, self.limits
        for seq in batch.joined:
            left = limits.answer_tokens(seq) - seq.output_tokens
            heapq.heappush(self._complete, (seq.join_step + left, seq.request.index, seq))
        while self._complete and self._complete[0][0] <= batch.step:
            seq = heapq.heappop(self._complete)[2]
            if seq.state is _DECODING and batch.output_tokens(seq) >= limits.answer_tokens(seq):
                draft.park(seq)

    def decode(self, draft: Draft, step: Step) -> None:
        """A token for each, or a slice of steps if nothing else happens in this one."""
        steady = not (draft.chunks or step.preempted or self._starved)
        draft.decode(self._steps_to_limit(draft) if steady else 1)

    def _steps_to_limit(self, draft: Draft) -> int:
        """Steps until a member may have all its tokens."""
        if not self._complete:
            return MAX_STEPS
        return min(MAX_STEPS, max(1, self._complete[0][0] - draft.batch.step))

    # -- a step ---------------------------------------------------------------------------------

    def serve(self, draft: Draft, longest_chunk: int) -> Step:
        """A token for each decode and chunks for unfinished prompts, in running order."""
        batch = draft.batch
        decodes, growth = batch.size, batch.next_growth()
        chunks = self._chunks_beside(decodes, longest_chunk)
        if chunks is None:
            return self._walk(draft, longest_chunk)
        blocks = growth
        for seq, tokens in chunks:
            blocks += draft.chunk_blocks(seq, tokens)
        if blocks > draft.available:
            return self._walk(draft, longest_chunk)
        step = Step(self.limits.budget_tokens - decodes, growth)
        for seq, tokens in chunks:
            self._chunk(draft, seq, tokens)
            step.budget_tokens -= tokens
        return step

    def _chunks_beside(self, decodes: int, longest_chunk: int) -> list[tuple[Sequence, int]] | None:
        """Chunks of the unfinished prompts, or None where it matters who is served first."""
        left = self.limits.budget_tokens - decodes
        if not self.prefilling:
            return [] if left >= 0 else None
        chunks = [(seq, min(left_tokens(seq), longest_chunk)) for seq in self.prefilling]
        if sum(tokens for _, tokens in chunks) <= left:
            return chunks
        if len(chunks) == 1 and left > 0 and next(reversed(self.members)) is chunks[0][0]:
            return [(chunks[0][0], left)]
        return None

    def _walk(self, draft: Draft, longest_chunk: int) -> Step:
        """Serve the running requests one by one, preempting where memory is short."""
        walk = Walk(draft, list(self.members), self.limits.budget_tokens, self.by_priority)
        step = walk.run(longest_chunk)
        for victim in step.preempted:
            self.remove(victim)
        for seq, tokens in step.scheduled.items():
            if seq.state is _PREFILLING and tokens == left_tokens(seq):
                del self.prefilling[seq]
        for seq in walk.rest():
            if seq.state is _DECODING:
                draft.park(seq)
                self._starved.append(seq)
        return step

    def _chunk(self, draft: Draft, seq: Sequence, tokens: int) -> None:
        if tokens == left_tokens(seq):
            del self.prefilling[seq]
        draft.prefill(seq, tokens)
