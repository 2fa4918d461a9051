"""The mode with chunked prefill: decodes first, then chunks out of one budget of tokens.

Most iterations are like the one before, so sequences are only looked at one by one where memory is
short or somebody was skipped. Otherwise it is enough to know which prefills are under way, and
that they stand near the front of the running sequences or at their end.
"""

from __future__ import annotations

from typing import Final, Literal

from superinfer.draft import Draft
from superinfer.schedulers.vllm.iteration import Iteration
from superinfer.schedulers.vllm.limits import Limits
from superinfer.schedulers.vllm.mode import Mode
from superinfer.sequence import Sequence, State

_DECODING: Final = State.DECODING  # reading a member off its class is slow


class Chunked(Mode):
    """Running sequences share the budget in their order; new requests get what is left."""

    def __init__(self, limits: Limits, preemption: Literal["recompute", "swap"]) -> None:
        super().__init__(limits, preemption)
        self._front: Sequence | None = None
        """An unfinished prefill near the front of `running` (admitted by the last iteration)."""
        self._back: list[Sequence] = []
        """Unfinished prefills at the end of `running`."""
        self._irregular = False
        """True after an iteration that skipped a prefill: `_front` and `_back` do not hold."""
        self._parked: list[Sequence] = []
        """Decodes for which the last iteration had no token."""

    def ended(self, seq: Sequence) -> None:
        """Forget a sequence; in the waiting queues it is passed over when its turn comes."""
        Mode.ended(self, seq)
        if seq is self._front:
            self._front = None
        elif seq in self._back:
            self._back.remove(seq)
        if seq in self._parked:
            self._parked.remove(seq)

    def plan(self, draft: Draft) -> None:
        """One iteration, or a slice of identical ones."""
        if self._only_decodes() and draft.decode(spare_blocks=1):
            return
        if len(self._back) == 1 and self._one_prefill_takes_the_rest(draft):
            return
        for seq in self._parked:
            draft.unpark(seq)
        self._parked.clear()
        iteration = self._serve_running(draft)
        if self.swapped and not iteration.disturbed:
            self.swap_in(draft, iteration)
        if self.waiting and iteration.budget_tokens:
            self._admit_chunks(draft, iteration)
        self.waiting.extendleft(iteration.preempted)
        self._irregular = any(seq.state is not _DECODING for seq in iteration.skipped)
        if iteration.decodes:
            self._park(draft, iteration.skipped)
            changing = draft.chunks or draft.before_step or iteration.disturbed or self._parked
            self.decode(draft, not changing)

    # -- slices of many steps -------------------------------------------------------------------

    def _only_decodes(self) -> bool:
        """True when every running sequence decodes and nobody wants to join them."""
        if self.waiting or self._front is not None or self._back:
            return False
        return not (self.swapped or self._parked or self._irregular)

    def _one_prefill_takes_the_rest(self, draft: Draft) -> bool:
        """The long middle of a prompt, as a short cut: every decode gets its token, the one
        prefill under way takes all that is left of the budget, so nobody else can come in.
        """
        seq, batch, limits = self._back[0], draft.batch, self.limits
        left, wanted = limits.budget_tokens - batch.size, seq.prefill_tokens - seq.computed_tokens
        alone = self._front is None and not (self._irregular or self._parked or self.swapped)
        roomy = batch.next_growth() < draft.available
        if not (alone and roomy and 0 < left < wanted) or limits.prefix_caching:
            return False
        steps = (wanted - 1) // left
        draft.prefill(seq, left, steps=steps)
        if batch.size:
            draft.decode(steps, spare_blocks=1)
        return True

    # -- running sequences ----------------------------------------------------------------------

    def _serve_running(self, draft: Draft) -> Iteration:
        """A token for each decode and chunks for unfinished prefills, in running order."""
        batch = draft.batch
        growth, decodes = batch.next_growth(), batch.size
        roomy = not self._irregular and growth < draft.available
        chunks = self._chunks_beside(decodes) if roomy else None
        if chunks is None:
            iteration = self.walk(draft)
            self._front, self._back = None, iteration.unfinished
            return iteration
        iteration = Iteration(self.limits.budget_tokens - decodes, growth, decodes)
        if chunks:
            for seq, tokens in chunks:
                self.go_on(draft, seq, tokens, iteration)
                self.running.move_to_end(seq)
            self._front, self._back = None, iteration.unfinished
        return iteration

    def _chunks_beside(self, decodes: int) -> list[tuple[Sequence, int]] | None:
        """Chunks of the unfinished prefills if nobody has to be skipped, else None."""
        chunks: list[tuple[Sequence, int]] = []
        front, left = self._front, self.limits.budget_tokens - decodes
        if front is not None:
            ahead = self._decodes_ahead_of(front)
            tokens = self.next_tokens(front, self.limits.budget_tokens - ahead)
            if tokens < 1:
                return None
            chunks.append((front, tokens))
            left -= tokens
        for seq in self._back:
            tokens = self.next_tokens(seq, left)
            if tokens < 1:
                return None
            chunks.append((seq, tokens))
            left -= tokens
        return chunks if left >= 0 else None

    def _decodes_ahead_of(self, front: Sequence) -> int:
        """How many running sequences are served before `front`."""
        place = 0
        for seq in self.running:
            if seq is front:
                break
            place += 1
        return place

    def _park(self, draft: Draft, skipped: list[Sequence]) -> None:
        """Decodes that got no token stand aside for this step."""
        for seq in skipped:
            if seq.state is State.DECODING:
                draft.park(seq)
                self._parked.append(seq)

    # -- waiting requests -----------------------------------------------------------------------

    def _admit_chunks(self, draft: Draft, iteration: Iteration) -> None:
        """New requests share what is left of the budget; they go to the front of `running`."""
        admitted: list[Sequence] = []
        places = self.limits.max_num_seqs - len(self.running) + len(iteration.skipped)
        keep_free = self.limits.keep_free_blocks + iteration.growth
        while (seq := self.next_waiting(draft)) is not None:
            tokens = self.next_tokens(seq, iteration.budget_tokens)
            if not tokens or len(admitted) >= places:
                break
            if not self.admit(draft, seq, keep_free):
                break
            admitted.append(seq)
            draft.prefill(seq, tokens)
            iteration.budget_tokens -= tokens
            if tokens < seq.prefill_tokens:
                self._front = seq
        if admitted:
            self._put_in_front(admitted, iteration.skipped)

    def _put_in_front(self, admitted: list[Sequence], skipped: list[Sequence]) -> None:
        """Next iteration serves those skipped first, then the new ones, then the rest."""
        running = self.running
        for queue in (admitted, skipped):
            for seq in reversed(queue):
                running[seq] = None
                running.move_to_end(seq, last=False)
