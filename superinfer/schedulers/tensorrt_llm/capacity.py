"""The first stage: whose KV cache fits (`CapacityScheduler`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from superinfer.draft import Draft
from superinfer.schedulers.tensorrt_llm.queues import Queues, in_order, remaining_tokens
from superinfer.sequence import Sequence, State

OUTGROWN = "max_seq_len_reached"


@dataclass(slots=True)
class SkipForReuse:
    """Whether to put a context off for an iteration: the first block that it would have to compute
    is being computed by one before it, so it could be found.
    """

    draft: Draft
    _contributed: set[object] = field(default_factory=set)

    @classmethod
    def beside(cls, draft: Draft, prefilling: Iterator[Sequence]) -> SkipForReuse:
        """Contexts that have started cannot be put off: their next blocks count from the first."""
        skip = cls(draft)
        for seq in prefilling:
            skip._contributed.add(draft.first_new_block(seq))
        return skip

    def __call__(self, seq: Sequence) -> bool:
        """Ask for the next one in the list; if it is not put off, its block counts for the rest.

        Asked twice for the same one, the answer is True, as in the real scheduler when a pause was
        necessary in between.
        """
        if seq.state is not State.WAITING:
            return False
        block = self.draft.first_new_block(seq)
        if block is None:
            return False
        if block in self._contributed:
            return True
        self._contributed.add(block)
        return False


@dataclass(slots=True)
class Capacity:
    """What the policies have in common: the queues, and how long a request can get."""

    queues: Queues
    max_batch_size: int
    total_blocks: int
    block_tokens: int
    max_seq_len: int
    """Of the model, or what all device blocks hold."""
    reuse: bool
    reserved_blocks: int = 0
    """What the running requests may come to hold, shared blocks counted for each."""

    def blocks_to_completion(self, seq: Sequence) -> int:
        """Blocks that a request may come to hold in all, by its declared length."""
        request = seq.request
        tokens = min(request.prompt_tokens + request.max_tokens, self.max_seq_len)
        return -(-tokens // self.block_tokens)

    def started(self, seq: Sequence) -> None:
        """It holds blocks now."""
        self.queues.start(seq)
        self.reserved_blocks += self.blocks_to_completion(seq)

    def paused(self, seq: Sequence) -> None:
        """It holds none any more, and keeps its place in the list."""
        self.queues.pause(seq)
        self.reserved_blocks -= self.blocks_to_completion(seq)

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        if self.queues.remove(seq):
            self.reserved_blocks -= self.blocks_to_completion(seq)

    def skip(self, draft: Draft) -> SkipForReuse | None:
        """The rule of reuse where there is any."""
        if not self.reuse:
            return None
        return SkipForReuse.beside(draft, iter(self.queues.prefilling))

    # -- GUARANTEED_NO_EVICT and STATIC_BATCH ---------------------------------------------------

    def guaranteed(self, draft: Draft, static: bool) -> Iterator[Sequence]:
        """Contexts in order while all that they may come to hold fits beside what the others may;
        the first that does not fit ends the search. With `static`, none beside a decode.
        """
        if static and draft.batch.size:
            return
        skip = None if static else self.skip(draft)
        prefilling = list(self.queues.prefilling)
        places = self.max_batch_size - draft.batch.size
        # What running contexts may still take is subtracted at their turn.
        free = self.total_blocks - self.reserved_blocks + draft.saved_by_sharing
        free += sum(self._to_come(seq) for seq in prefilling)
        for seq in in_order(prefilling, self.queues.waiting):
            if skip is not None and skip(seq):
                continue
            free -= self._to_come(seq)
            if not places or free < 0:
                return
            places -= 1
            yield seq

    def _to_come(self, seq: Sequence) -> int:
        """Blocks that a context may still take."""
        blocks = self.blocks_to_completion(seq)
        if seq.state is State.PREFILLING:
            blocks -= -(-seq.prefill_tokens // self.block_tokens)
        return blocks

    def fail_outgrown(self, draft: Draft) -> None:
        """End those that would need more than all blocks: their reservation stopped there."""
        for seq in list(draft.batch.members):
            if self._outgrown(draft, seq):
                draft.fail(seq, OUTGROWN)

    def _outgrown(self, draft: Draft, seq: Sequence) -> bool:
        """True if the next token has no place even in an empty memory."""
        decodes = seq.state is State.DECODING
        return decodes and draft.batch.length(seq) > self.total_blocks * self.block_tokens

    # -- MAX_UTILIZATION ------------------------------------------------------------------------

    def utilised(self, draft: Draft) -> Iterator[Sequence]:
        """Waiting contexts whose prompts fit, where all that run do and come first in the list."""
        skip, places = self.skip(draft), self.max_batch_size - len(self.queues.running)
        yield from self.queues.prefilling
        free = draft.available - draft.batch.next_growth()
        for seq in self.queues.waiting:
            if skip is not None and skip(seq):
                continue
            free -= draft.blocks_for(seq.prefill_tokens)
            if not places or free < 0:
                return
            places -= 1
            yield seq

    def walk(self, draft: Draft) -> list[Sequence]:
        """The whole list, one by one: who does not fit lets the last one that has started pause,
        itself maybe, until it fits or nobody behind it is left to pause.
        """
        fitting, paused = self._walk(draft)
        for seq in paused:
            self.paused(seq)
        return fitting

    def _walk(self, draft: Draft) -> tuple[list[Sequence], list[Sequence]]:
        skip = self.skip(draft)
        started = list(self.queues.running)
        order = in_order(started[:], self.queues.waiting)
        fitting: list[Sequence] = []
        paused: list[Sequence] = []
        taken = 0
        seq, end = next(order, None), None
        while seq is not None and seq is not end:
            if (skip is not None and skip(seq)) or self._fails(draft, seq):
                seq = next(order, None)
                continue
            blocks = self._next_blocks(draft, seq)
            if len(fitting) < self.max_batch_size and taken + blocks <= draft.available:
                taken += blocks
                fitting.append(seq)
                seq = next(order, None)
                continue
            while started and started[-1].state not in (State.PREFILLING, State.DECODING):
                started.pop()  # it ended
            if not started or started[-1].rank < seq.rank:
                break
            end = started.pop()
            if self._fails(draft, end):
                continue  # paused, it could never start again
            draft.preempt(end, "recompute")
            paused.append(end)
        return fitting, paused

    def _fails(self, draft: Draft, seq: Sequence) -> bool:
        if not self._outgrown(draft, seq):
            return False
        draft.fail(seq, OUTGROWN)
        return True

    def _next_blocks(self, draft: Draft, seq: Sequence) -> int:
        """Blocks that a request takes if it runs in this step."""
        if seq.state is State.WAITING:
            return draft.blocks_for(seq.prefill_tokens)
        return int(draft.grows(seq))


def chunk_after_reuse(seq: Sequence, tokens: int, block_tokens: int) -> int:
    """The chunk of a context that was just admitted: as long as was decided before its cached
    prefix was known, counted from there, and up to the end of a block if it is not the last
    (`LlmRequest::setPrepopulatedPromptLen`).
    """
    stop = seq.computed_tokens + tokens
    if stop < seq.prefill_tokens:
        return stop // block_tokens * block_tokens - seq.computed_tokens
    return remaining_tokens(seq)
