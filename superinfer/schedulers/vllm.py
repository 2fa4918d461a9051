"""`vllm`: vLLM v0.6.0, both of its modes.

Source: vllm-project/vllm tag v0.6.0 (commit 32e7db25), `vllm/core/scheduler.py`,
`vllm/core/block_manager_v1.py`, `vllm/core/evictor_v1.py`, `vllm/engine/arg_utils.py`,
`vllm/config.py`. Modelled: the prefill-first mode and the chunked mode with their queue orders,
watermark, both preemption modes, prefix caching of block manager V1, the automatic switch to
chunked prefill. The memory policy that belongs to it is `lru`; `lag = 1` stands for asynchronous
output processing.

Left out: LoRA, beam and parallel sampling, multi-step scheduling, speculative decoding; sharing of
a prompt's blocks by requests of the same step, before they are computed; finding a preempted
request's own answer blocks again; turning a hopeless head of the queue away in a chunked step that
has no token left (it happens in the next one that has). Out of host blocks aborts the real engine;
here it fails the victim alone (`host_memory_full`). Where the real engine would try again for
ever, the request ends by a rule of its own: `prefill_fills_memory` (a prompt of several chunks
that takes every block and leaves no watermark) and `swap_in_never_fits` (its blocks, a spare one
and the watermark exceed the memory, or the rest of its prompt exceeds the token budget).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import check_limits
from superinfer.sequence import RESIDENT, Sequence, State

CHUNKED_BUDGET_TOKENS: Final = 512
AUTO_CHUNK_ABOVE_TOKENS: Final = 32768
_DECODING: Final = State.DECODING  # reading a member off its class is slow
_ENDED: Final = State.ENDED


def _head(queue: deque[Sequence]) -> Sequence | None:
    """First of a queue; those that ended while they were queued are dropped on the way."""
    while queue:
        seq = queue[0]
        if seq.state is not _ENDED:
            return seq
        queue.popleft()
    return None


class _Iteration:
    """What one pass over the running sequences decided."""

    __slots__ = (
        "budget_tokens",
        "continued",
        "decodes",
        "disturbed",
        "growth",
        "preempted",
        "served",
        "skipped",
        "unfinished",
    )

    def __init__(self, budget_tokens: int, growth: int = 0, decodes: int = 0) -> None:
        self.budget_tokens = budget_tokens
        self.growth = growth
        """Blocks that the decodes of this step take."""
        self.decodes = decodes
        self.served: list[Sequence] = []
        """Of the decodes, those that were looked at one by one."""
        self.continued: list[Sequence] = []
        """Prefills that got another chunk."""
        self.unfinished: list[Sequence] = []
        """Of these, the ones that need more."""
        self.skipped: list[Sequence] = []
        """Running sequences for which no token was left."""
        self.preempted: list[Sequence] = []
        """Victims whose cache was dropped, in the order of preemption."""
        self.disturbed = False
        """True if anybody was preempted, by either way."""


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class VllmScheduler:
    """First come, first served; the defaults are those of v0.6.0's engine arguments."""

    chunked: bool | None = None
    """Absent: on by itself when `max_model_len` exceeds 32768 and prefix caching is off."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    """Absent: 512 when chunked, else the larger of `max_model_len` and 2048."""
    watermark: float = 0.01
    """Share of the blocks that admission and swap-in leave free."""
    preemption: Literal["recompute", "swap"] = "recompute"
    name: str = field(default_factory=lambda: "vllm", init=False)
    block_tokens: int = field(default_factory=lambda: 16, init=False)
    copies_per_block: int = field(default_factory=lambda: 2, init=False)

    waiting: deque[Sequence] = field(default_factory=deque, init=False)
    running: OrderedDict[Sequence, None] = field(default_factory=OrderedDict, init=False)
    """Resident sequences in the order of service; the last is the first victim."""
    swapped: deque[Sequence] = field(default_factory=deque, init=False)
    _front: Sequence | None = field(default_factory=lambda: None, init=False)
    """An unfinished prefill near the front of `running` (admitted by the last iteration)."""
    _back: list[Sequence] = field(default_factory=list, init=False)
    """Unfinished prefills at the end of `running`."""
    _parked: list[Sequence] = field(default_factory=list, init=False)
    _irregular: bool = field(default_factory=bool, init=False)
    """True after an iteration that skipped a prefill: `_front` and `_back` do not hold."""
    _machine: Machine = field(init=False)
    _budget_tokens: int = field(default_factory=int, init=False)
    _prompt_limit: int = field(default_factory=int, init=False)
    _keep_free: int = field(default_factory=int, init=False)
    _longest_prompt: int = field(default_factory=int, init=False)
    """Tokens that can ever be admitted at once."""

    # -- protocol -------------------------------------------------------------------------------

    def bind(self, machine: Machine) -> None:
        """Settle the defaults that depend on the model."""
        self._machine = machine
        self.copies_per_block = 2 * machine.layers  # one K and one V copy per layer
        if self.chunked is None:
            long_context = machine.max_model_len > AUTO_CHUNK_ABOVE_TOKENS
            self.chunked = long_context and not machine.prefix_caching
        self._budget_tokens = self._budget(machine)
        self._check_budget()
        self._prompt_limit = machine.max_model_len
        if not self.chunked:
            self._prompt_limit = min(machine.max_model_len, self._budget_tokens)
        self._keep_free = int(self.watermark * machine.total_blocks)
        memory_tokens = (machine.total_blocks - self._keep_free) * machine.block_tokens
        self._longest_prompt = min(self._prompt_limit, memory_tokens)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue at the back."""
        self.waiting.append(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """One iteration of the real scheduler, or a slice of identical ones."""
        if self.chunked:
            self._plan_chunked(draft)
        else:
            self._plan_prefill_first(draft)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: copies are `before_step` here."""

    def resumed(self, seq: Sequence) -> None:
        """Never called: copies are `before_step` here."""

    def ended(self, seq: Sequence) -> None:
        """Forget a sequence; in the waiting queues it is passed over when its turn comes."""
        self.running.pop(seq, None)
        if seq is self._front:
            self._front = None
        elif seq in self._back:
            self._back.remove(seq)
        if seq in self._parked:
            self._parked.remove(seq)

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None

    # -- prefill first --------------------------------------------------------------------------

    def _plan_prefill_first(self, draft: Draft) -> None:
        if _head(self.swapped) is None and self._admit_whole(draft):
            return
        growth = draft.batch.next_growth()
        roomy = growth < draft.available
        if roomy:
            iteration = _Iteration(self._budget_tokens, growth, draft.batch.size)
        else:
            iteration = self._walk(draft)
        if self.swapped and not iteration.disturbed:
            self._swap_in(draft, iteration)
        self.waiting.extendleft(iteration.preempted)
        if draft.batch.size:
            self._decode(draft, steady=roomy and not draft.before_step)

    def _admit_whole(self, draft: Draft) -> bool:
        """Prefill from the head of the queue, whole prompts only, strictly in order."""
        budget = self._budget_tokens
        while (seq := _head(self.waiting)) is not None:
            tokens = seq.prefill_tokens
            if tokens > self._longest_prompt:
                self._reject(draft, seq)
                continue
            if tokens > budget or len(self.running) >= self.max_num_seqs:
                break
            if not self._allocate(draft, seq, self._keep_free):
                break
            self.waiting.popleft()
            self.running[seq] = None
            draft.prefill(seq, tokens)
            budget -= tokens
        return bool(draft.chunks)

    # -- chunked --------------------------------------------------------------------------------

    def _plan_chunked(self, draft: Draft) -> None:
        if self._only_decodes() and draft.decode(spare_blocks=1):
            return
        if len(self._back) == 1 and self._one_prefill_takes_the_rest(draft):
            return
        if self._parked:
            for seq in self._parked:
                draft.unpark(seq)
            self._parked.clear()
        iteration = self._serve_running(draft)
        if self.swapped and not iteration.disturbed:
            self._swap_in(draft, iteration)
        if self.waiting and iteration.budget_tokens:
            self._admit_chunks(draft, iteration)
        if iteration.preempted:
            self.waiting.extendleft(iteration.preempted)
        skipped = iteration.skipped
        self._irregular = any(seq.state is not _DECODING for seq in skipped) if skipped else False
        if iteration.decodes:
            if skipped:
                self._park(draft, skipped)
            changing = draft.chunks or draft.before_step or iteration.disturbed or self._parked
            self._decode(draft, not changing)

    def _one_prefill_takes_the_rest(self, draft: Draft) -> bool:
        """The long middle of a prompt, as a short cut: every decode gets its token, the one
        prefill under way takes all that is left of the budget, so nobody else can come in.
        """
        seq, batch = self._back[0], draft.batch
        left, wanted = self._budget_tokens - batch.size, seq.prefill_tokens - seq.computed_tokens
        alone = self._front is None and not (self._irregular or self._parked or self.swapped)
        roomy = batch.next_growth() < draft.available
        if not (alone and roomy and 0 < left < wanted) or self._machine.prefix_caching:
            return False
        steps = (wanted - 1) // left
        draft.prefill(seq, left, steps=steps)
        if batch.size:
            draft.decode(steps, spare_blocks=1)
        return True

    def _only_decodes(self) -> bool:
        """True when every running sequence decodes and nobody wants to join them."""
        if self.waiting or self._front is not None or self._back:
            return False
        return not (self.swapped or self._parked or self._irregular)

    def _park(self, draft: Draft, skipped: list[Sequence]) -> None:
        """Decodes that got no token stand aside for this step."""
        for seq in skipped:
            if seq.state is State.DECODING:
                draft.park(seq)
                self._parked.append(seq)

    def _serve_running(self, draft: Draft) -> _Iteration:
        """A token for each decode and chunks for unfinished prefills, in running order."""
        batch = draft.batch
        growth, decodes = batch.next_growth(), batch.size
        if self._irregular or draft.available <= growth:
            return self._walk(draft)
        chunks = self._chunks_beside(decodes)
        if chunks is None:
            return self._walk(draft)
        iteration = _Iteration(self._budget_tokens - decodes, growth, decodes)
        if chunks:
            for seq, tokens in chunks:
                self._continue(draft, seq, tokens, iteration)
                self.running.move_to_end(seq)
            self._front, self._back = None, iteration.unfinished
        return iteration

    def _chunks_beside(self, decodes: int) -> list[tuple[Sequence, int]] | None:
        """Chunks of the unfinished prefills if nobody has to be skipped, else None."""
        chunks: list[tuple[Sequence, int]] = []
        front, left = self._front, self._budget_tokens - decodes
        if front is None and not self._back:
            return chunks if left >= 0 else None
        if front is not None:
            tokens = self._tokens(front, self._budget_tokens - self._decodes_ahead_of(front))
            if tokens < 1:
                return None
            chunks.append((front, tokens))
            left -= tokens
        for seq in self._back:
            tokens = self._tokens(seq, left)
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

    def _admit_chunks(self, draft: Draft, iteration: _Iteration) -> None:
        """New requests share what is left of the budget; they go to the front of `running`."""
        admitted: list[Sequence] = []
        places = self.max_num_seqs - len(self.running) + len(iteration.skipped)
        keep_free = self._keep_free + iteration.growth
        while (seq := _head(self.waiting)) is not None:
            if seq.prefill_tokens > self._longest_prompt:
                self._reject(draft, seq)
                continue
            tokens = self._tokens(seq, iteration.budget_tokens)
            if not tokens or len(admitted) >= places:
                break
            if not self._allocate(draft, seq, keep_free):
                break
            self.waiting.popleft()
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

    # -- shared ---------------------------------------------------------------------------------

    def _walk(self, draft: Draft) -> _Iteration:
        """Serve the running sequences one by one, preempting from the tail when memory is short.

        A sequence needs one free block at its turn even when its last block still has room.
        """
        iteration = _Iteration(self._budget_tokens)
        order = list(self.running)
        turn, end = 0, len(order)
        while turn < end:
            seq = order[turn]
            tokens = self._tokens(seq, iteration.budget_tokens)
            if not tokens:
                break
            turn += 1
            while draft.available - iteration.growth < 1 and seq.state in RESIDENT:
                victim = order[end - 1]  # `seq` itself when nobody is left behind it
                end = max(end - 1, turn)
                self._preempt(draft, victim, iteration)
            if seq.state in RESIDENT:
                self._serve(draft, seq, tokens, iteration)
        iteration.skipped = order[turn:end]
        self._front, self._back = None, iteration.unfinished
        self.running = OrderedDict.fromkeys(
            iteration.skipped + iteration.served + iteration.continued
        )
        return iteration

    def _decode(self, draft: Draft, steady: bool) -> None:
        """A step, or a slice of them while nothing changes: before each, every running sequence
        must find a free block at its turn, hence the spare one.
        """
        if not (steady and draft.decode(spare_blocks=1)):
            draft.decode(1)

    def _serve(self, draft: Draft, seq: Sequence, tokens: int, iteration: _Iteration) -> None:
        """Give a running sequence its tokens, out of the budget of the iteration."""
        if seq.state is State.PREFILLING:
            self._continue(draft, seq, tokens, iteration)
            return
        iteration.budget_tokens -= 1
        iteration.decodes += 1
        iteration.growth += draft.batch.grows(seq)
        iteration.served.append(seq)

    def _continue(self, draft: Draft, seq: Sequence, tokens: int, iteration: _Iteration) -> None:
        draft.prefill(seq, tokens)
        iteration.budget_tokens -= tokens
        iteration.continued.append(seq)
        if seq.computed_tokens + tokens < seq.prefill_tokens:
            iteration.unfinished.append(seq)

    def _tokens(self, seq: Sequence, budget: int) -> int:
        """Tokens that a sequence would get: one for a decode, a chunk for a prefill."""
        if seq.state is _DECODING:
            return min(1, budget)
        wanted = seq.prefill_tokens - seq.computed_tokens
        if wanted <= budget:
            return wanted
        if not self._machine.prefix_caching:
            return budget
        return budget // self._machine.block_tokens * self._machine.block_tokens

    def _preempt(self, draft: Draft, victim: Sequence, iteration: _Iteration) -> None:
        iteration.disturbed = True
        self.running.pop(victim, None)
        if self._starts_over_for_ever(draft, victim):
            draft.fail(victim, "prefill_fills_memory")
            return
        draft.preempt(victim, self.preemption)
        if victim.state is State.WAITING:
            iteration.preempted.append(victim)
        elif victim.state is State.SWAPPED:
            self.swapped.append(victim)

    def _swap_in(self, draft: Draft, iteration: _Iteration) -> None:
        """Bring swapped sequences back in order, each with a spare block for its next token."""
        while (seq := _head(self.swapped)) is not None:
            if len(self.running) - len(iteration.skipped) >= self.max_num_seqs:
                break
            tokens = max(1, seq.prefill_tokens - seq.computed_tokens)
            if rule := self._never_back(draft, seq, tokens):
                self.swapped.popleft()
                draft.reject(seq, rule)
                continue
            keep_free = self._keep_free + iteration.growth + 1
            if tokens > iteration.budget_tokens:
                break
            if not draft.try_swap_in(seq, keep_free=keep_free, timing="before_step"):
                break
            self.swapped.popleft()
            self.running[seq] = None
            self._serve(draft, seq, tokens, iteration)

    def _starts_over_for_ever(self, draft: Draft, victim: Sequence) -> bool:
        """A prompt of several chunks that takes all blocks leaves no spare one for its second."""
        return (
            victim.state is State.PREFILLING
            and victim.prefill_tokens > self._budget_tokens
            and draft.blocks_for(victim.prefill_tokens) == draft.pool.total
        )

    def _never_back(self, draft: Draft, seq: Sequence, tokens: int) -> str | None:
        """The rule by which a swapped sequence can never return, if there is one."""
        blocks = draft.blocks_for(max(seq.computed_tokens, seq.prefill_tokens)) + 1
        if blocks > draft.pool.size:
            return "sequence_exceeds_kv_capacity"
        # The real engine waits for ever in these two cases.
        if blocks + self._keep_free > draft.pool.size or tokens > self._budget_tokens:
            return "swap_in_never_fits"
        return None

    def _reject(self, draft: Draft, seq: Sequence) -> None:
        """Turn away the head of the queue, which can never run, by v0.6.0's two rules."""
        too_long = seq.prefill_tokens > self._prompt_limit
        self.waiting.popleft()
        draft.reject(seq, "prompt_too_long" if too_long else "prompt_exceeds_kv_capacity")

    def _allocate(self, draft: Draft, seq: Sequence, keep_free: int) -> bool:
        return draft.try_admit(seq, keep_free=keep_free, whole_need=True, charge_cached=True)

    def _budget(self, machine: Machine) -> int:
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        return CHUNKED_BUDGET_TOKENS if self.chunked else max(machine.max_model_len, 2048)

    def _check_budget(self) -> None:
        budget, block = self._budget_tokens, self._machine.block_tokens
        check_limits(self.max_num_seqs, budget, self.watermark)
        if self.chunked and self._machine.prefix_caching and budget % block:
            raise ConfigError(
                "scheduler.max_num_batched_tokens: expected a multiple of the block size "
                f"({block}) with prefix caching, got {budget}"
            )
