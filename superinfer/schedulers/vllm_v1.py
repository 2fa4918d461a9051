"""`vllm_v1`: the V1 engine of current vLLM, as of release 0.33.0.

Source: vLLM 0.33.0, `vllm/v1/core/sched/scheduler.py`, `async_scheduler.py` and `request_queue.py`
beside it, `vllm/v1/core/kv_cache_manager.py`, `vllm/config/scheduler.py`. There is one token budget
a step: running requests come first, in the order in which they came in, each with one token or a
chunk of its prompt, then waiting ones. A request gets blocks chunk by chunk, but comes in only if
its whole prompt fits. When a running request cannot get a block, the last of the running ones is
preempted (by priority: the one with the largest priority and arrival), loses all its blocks and
goes to the front of the queue; a step that preempted lets nobody in. Priority orders the queue and
chooses victims; it never preempts to let somebody in. All this is held against the real scheduler
step by step: `tests/schedulers/golden`, and live with `make oracle`.

The memory policy that belongs to it is `vllm_v1`, with `prefix_caching`, which the release has on.
`lag = 1` is asynchronous scheduling: a request that stops at its `max_tokens` gets no step too
many, one that stops by itself gets one. Of `total_blocks` one is the release's null block, which
holds nothing (`null_blocks`); the watermark is a share of all of them.

Defaults: those of `vllm serve` on an A100 or a GPU of less than 70 GiB
(`vllm/engine/arg_utils.py`): 256 sequences and 2048 tokens a step. The release takes 1024 and 8192
on an H100 or H200, and 1024 and 16384 from 160 GiB on.

With the memory policy's `offload` (and `lag = 0`: with a KV connector asynchronous scheduling
preempts and frees later) a waiting request whose prefix goes on in the host's memory takes its
blocks and waits for the load, and those behind it are looked at. Once landed it comes before all
others that wait (`kv_holding_waiting` there). It is let in only if prompts that are being computed
or loaded keep the blocks they lack. Without it `host_memory_gib` means nothing: V1 never swaps.

Left out: speculative decoding, LoRA, multimodal inputs, structured output, pooling models, sliding
windows and other hybrid caches, `prefill_schedule_interval`, `max_num_active_seqs`, the limits of
the API server's queue, pipeline and data parallelism, all other KV connectors. The release starts
only if one request of `max_model_len` fits the memory; here a request that cannot fit ends by the
rule `exceeds_kv_capacity`. It refuses prompts that leave no room for an answer: `prompt_too_long`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import check_limits
from superinfer.schedulers.vllm_v1_queue import WaitingQueue
from superinfer.schedulers.vllm_v1_step import (
    Step,
    check_policy,
    check_whole_prompts,
    hopeless,
    left_tokens,
    limit_tokens,
    lowest,
)
from superinfer.sequence import Sequence, State

_DECODING: Final = State.DECODING  # reading a member off its class is slow
_PREFILLING: Final = State.PREFILLING


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class VllmV1Scheduler:
    """One budget for prefill and decode, running requests first."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    policy: Literal["fcfs", "priority"] = "fcfs"
    chunked: bool = True
    """The release's `enable_chunked_prefill`."""
    long_prefill_token_threshold: int = 0
    """Longest chunk while there is more than one request; 0: no limit."""
    long_prefill_token_threshold_adaptive: bool = False
    """The threshold is at least an even share of the budget among all requests."""
    scheduler_reserve_full_isl: bool = True
    """Off: a request comes in as soon as its first chunk fits."""
    watermark: float = 0.0
    """Share of the blocks that admission leaves free while others run."""
    name: str = field(default_factory=lambda: "vllm_v1", init=False)
    block_tokens: int = field(default_factory=lambda: 16, init=False)
    copies_per_block: int = field(default_factory=lambda: 1, init=False)
    null_blocks: int = field(default_factory=lambda: 1, init=False)
    """Blocks of the pool that hold nothing."""
    loads_prefixes: bool = field(default_factory=lambda: True, init=False)
    """It asks an offload tier what the host has."""

    waiting: WaitingQueue = field(init=False)
    loading: WaitingQueue = field(init=False)
    """Those that have not run since their prefix was loaded, or is being loaded."""
    running: OrderedDict[Sequence, None] = field(default_factory=OrderedDict, init=False)
    prefilling: dict[Sequence, None] = field(default_factory=dict, init=False)
    """Those of `running` with prompt left to compute, in the same order."""
    _starved: list[Sequence] = field(default_factory=list, init=False)
    """Decodes for which the last step had no token."""
    _limits: list[tuple[int, int, Sequence]] = field(default_factory=list, init=False)
    """A heap: at which step of the batch a member has all the tokens that it may get."""
    _machine: Machine = field(init=False)
    _watermark_blocks: int = field(default_factory=int, init=False)

    # -- protocol -------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        self.waiting = WaitingQueue(self.policy == "priority")
        self.loading = WaitingQueue(self.policy == "priority")

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_limits(self.max_num_seqs, self.max_num_batched_tokens, self.watermark)
        check_policy(self.policy, self.long_prefill_token_threshold)
        if not self.chunked:
            check_whole_prompts(self.max_num_batched_tokens, machine.max_model_len)
        self._machine = machine
        self._watermark_blocks = int(self.watermark * machine.total_blocks)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue at the back, or by priority."""
        request = seq.request
        seq.rank = (request.priority, request.arrival_s, request.index)
        self.waiting.add(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """One step, or a slice of them in which nobody can come in and nothing but decodes runs."""
        self._sort_out_decodes(draft)
        step = self._serve_running(draft)
        if (self.waiting or self.loading) and not step.preempted:
            if draft.batch.size:
                draft.decode(1)  # their blocks are gone before the waiting ones look for theirs
            self._admit(draft, step)
        if draft.batch.size:
            steady = not (draft.chunks or step.preempted or self._starved)
            draft.decode(self._steps_to_limit(draft) if steady else 1)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: nothing is copied."""

    def resumed(self, seq: Sequence) -> None:
        """A load has landed: `plan` sees it by the state of the sequence."""

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        if seq in self.running:
            self._remove(seq)
            if seq in self._starved:
                self._starved.remove(seq)
        else:
            self.waiting.discard(seq)
            self.loading.discard(seq)

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None

    # -- decodes --------------------------------------------------------------------------------

    def _sort_out_decodes(self, draft: Draft) -> None:
        """Bring back those that were left out; with lag 1 leave out those whose last token is under
        way: they keep their place until it has come.
        """
        for seq in self._starved:
            draft.unpark(seq)
        self._starved.clear()
        batch, longest = draft.batch, self._machine.max_model_len
        for seq in batch.joined:
            left = limit_tokens(seq, longest) - seq.output_tokens
            heapq.heappush(self._limits, (seq.join_step + left, seq.request.index, seq))
        while self._limits and self._limits[0][0] <= batch.step:
            seq = heapq.heappop(self._limits)[2]
            if seq.state is _DECODING and batch.output_tokens(seq) >= limit_tokens(seq, longest):
                draft.park(seq)

    def _steps_to_limit(self, draft: Draft) -> int:
        """Steps until a member may have all its tokens."""
        if not self._limits:
            return MAX_STEPS
        return min(MAX_STEPS, max(1, self._limits[0][0] - draft.batch.step))

    # -- running requests -----------------------------------------------------------------------

    def _serve_running(self, draft: Draft) -> Step:
        """A token for each decode and chunks for unfinished prompts, in running order."""
        batch = draft.batch
        decodes, growth = batch.size, batch.next_growth()
        chunks = self._chunks_beside(decodes)
        if chunks is None:
            return self._walk(draft)
        blocks = growth
        for seq, tokens in chunks:
            blocks += draft.chunk_blocks(seq, tokens)
        if blocks > draft.available:
            return self._walk(draft)
        step = Step(self.max_num_batched_tokens - decodes, growth)
        for seq, tokens in chunks:
            self._chunk(draft, seq, tokens)
            step.budget_tokens -= tokens
        return step

    def _chunks_beside(self, decodes: int) -> list[tuple[Sequence, int]] | None:
        """Chunks of the unfinished prompts, or None where it matters who is served first."""
        left = self.max_num_batched_tokens - decodes
        if not self.prefilling:
            return [] if left >= 0 else None
        longest = self._longest_chunk()
        chunks = [(seq, min(left_tokens(seq), longest)) for seq in self.prefilling]
        if sum(tokens for _, tokens in chunks) <= left:
            return chunks
        if len(chunks) == 1 and left > 0 and next(reversed(self.running)) is chunks[0][0]:
            return [(chunks[0][0], left)]
        return None

    def _walk(self, draft: Draft) -> Step:
        """Serve the running requests one by one, preempting where memory is short."""
        step = Step(self.max_num_batched_tokens)
        longest, turn = self._longest_chunk(), 0
        order = list(self.running)
        while turn < len(order) and step.budget_tokens > 0:
            seq = order[turn]
            if seq.state is State.PARKED:
                turn += 1
                continue
            tokens = 1
            if seq.state is _PREFILLING:
                tokens = min(left_tokens(seq), longest, step.budget_tokens)
            turn -= self._make_room(draft, seq, tokens, step, order, turn)
            if seq.state is State.WAITING:
                continue  # it gave way itself
            self._serve(draft, seq, tokens, step)
            turn += 1
        for seq in order[turn:]:
            if seq.state is _DECODING:
                draft.park(seq)
                self._starved.append(seq)
        return step

    def _make_room(
        self,
        draft: Draft,
        seq: Sequence,
        tokens: int,
        step: Step,
        order: list[Sequence],
        turn: int,
    ) -> int:
        """Preempt until `seq` finds its blocks or has gone; returns how far its turn moves up."""
        moved = 0
        if seq.state is _PREFILLING:
            need = draft.chunk_blocks(seq, tokens)
        else:
            need = int(draft.grows(seq))
        while need > draft.available - step.growth and seq.state is not State.WAITING:
            victim = order[-1]
            if self.policy == "priority":
                victim = max(order, key=lowest)
            place = order.index(victim) if victim is not order[-1] else len(order) - 1
            del order[place]
            moved += place < turn - moved
            self._preempt(draft, victim, step)
        return moved

    def _preempt(self, draft: Draft, victim: Sequence, step: Step) -> None:
        """Take a running request's blocks away, also if this step has served it already."""
        draft.settle(victim, step.growth)  # empty blocks that it gives back come too late for these
        tokens = step.scheduled.pop(victim, 0)
        step.budget_tokens += tokens
        if tokens and victim.state is _PREFILLING:
            draft.withdraw(victim)
        elif tokens:
            step.growth -= draft.grows(victim)
        self._remove(victim)
        draft.preempt(victim, "recompute", scheduled_tokens=tokens)
        self.waiting.put_back(victim)
        step.preempted = True

    def _serve(self, draft: Draft, seq: Sequence, tokens: int, step: Step) -> None:
        step.budget_tokens -= tokens
        step.scheduled[seq] = tokens
        if seq.state is _PREFILLING:
            self._chunk(draft, seq, tokens)
        else:
            step.growth += draft.grows(seq)

    def _chunk(self, draft: Draft, seq: Sequence, tokens: int) -> None:
        if tokens == left_tokens(seq):
            del self.prefilling[seq]
        draft.prefill(seq, tokens)

    def _longest_chunk(self) -> int:
        """The threshold spares the others; a request that is alone may take the whole budget."""
        threshold = self.long_prefill_token_threshold
        requests = len(self.running) + len(self.waiting) + len(self.loading)
        if not threshold or requests < 2:
            return self.max_num_batched_tokens
        if self.long_prefill_token_threshold_adaptive:
            return max(threshold, self.max_num_batched_tokens // requests)
        return threshold

    def _remove(self, seq: Sequence) -> None:
        del self.running[seq]
        self.prefilling.pop(seq, None)

    # -- waiting requests -----------------------------------------------------------------------

    def _admit(self, draft: Draft, step: Step) -> None:
        """Let in from the head of the queue, strictly in order, while tokens and blocks last; those
        whose prefix was loaded come first, and who waits for copies is passed over.
        """
        if self.loading and not self._admit_loaded(draft, step):
            return
        longest, queue = self._longest_chunk(), self.waiting
        while step.budget_tokens > 0 and len(self.running) < self.max_num_seqs:
            seq = queue.head()
            if seq is None:
                break
            if rule := hopeless(draft, seq, self._machine.max_model_len):
                queue.discard(seq)
                draft.reject(seq, rule)
                continue
            on_host = draft.host_prefix(seq)
            if on_host is None:
                queue.pass_over(seq)
                continue
            if on_host:
                if not self._try_load(draft, seq, on_host, step):
                    break
                continue
            tokens = self._try_admit(draft, seq, min(longest, step.budget_tokens), step)
            if not tokens:
                break
            step.budget_tokens -= tokens
        queue.end_pass()

    def _admit_loaded(self, draft: Draft, step: Step) -> bool:
        """Let in those whose prefix has landed; False if one of them has to wait on, and with it
        everybody else.
        """
        longest, queue, fits = self._longest_chunk(), self.loading, True
        while step.budget_tokens > 0 and len(self.running) < self.max_num_seqs:
            seq = queue.head()
            if seq is None:
                break
            if seq.state is State.MOVING_IN:
                queue.pass_over(seq)
                continue
            draft.adopt(seq)
            tokens = min(left_tokens(seq), longest)
            fits = self.chunked or tokens <= step.budget_tokens
            tokens = min(tokens, step.budget_tokens)
            need = draft.chunk_blocks(
                seq, left_tokens(seq) if self.scheduler_reserve_full_isl else tokens
            )
            if not fits or draft.available - need < self._keep_free(step):
                fits = False
                break
            queue.discard(seq)
            self._start(draft, seq, tokens)
            step.budget_tokens -= tokens
        queue.end_pass()
        return fits

    def _try_load(self, draft: Draft, seq: Sequence, blocks: int, step: Step) -> bool:
        """Load so many blocks of the head's prefix, if they fit."""
        lacking = chain(self.prefilling, self.loading)
        if not draft.try_load(
            seq,
            blocks,
            keep_free=self._keep_free(step),
            reserved_blocks=sum(draft.chunk_blocks(other, left_tokens(other)) for other in lacking),
            fit_all=self.scheduler_reserve_full_isl,
        ):
            return False
        self.waiting.discard(seq)
        self.loading.add(seq)
        return True

    def _try_admit(self, draft: Draft, seq: Sequence, most: int, step: Step) -> int:
        """Admit the head with a first chunk of at most `most` tokens; returns its tokens."""
        mark = draft.mark()
        if not draft.try_admit(
            seq,
            keep_free=self._keep_free(step),
            chunk_tokens=most,
            fit_all=self.scheduler_reserve_full_isl,
        ):
            return 0
        if not self.chunked and min(left_tokens(seq), self._longest_chunk()) > most:
            draft.rollback(mark)
            return 0
        self.waiting.discard(seq)
        tokens = min(left_tokens(seq), most)
        self._start(draft, seq, tokens)
        return tokens

    def _start(self, draft: Draft, seq: Sequence, tokens: int) -> None:
        """It runs from now on, this step with a first chunk."""
        self.running[seq] = self.prefilling[seq] = None
        self._chunk(draft, seq, tokens)

    def _keep_free(self, step: Step) -> int:
        """Blocks that an admission must leave: the watermark, while others run, and what this
        step's decodes take.
        """
        return (self._watermark_blocks if self.running else 0) + step.growth
