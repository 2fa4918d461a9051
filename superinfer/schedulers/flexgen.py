"""`flexgen`: FlexGen's offline schedule, one padded block of requests after the other.

Source: FMInference/FlexLLMGen, flexllmgen/flex_opt.py (`OptLM.generate`, the generation loops and
the options of the command line), flexllmgen/apps/helm_run.py (`get_batches`) and
flexllmgen/pytorch_backend.py (`init_cache_one_gpu_batch`); arXiv 2303.06865, section 4. What a step
costs with tensors on CPU and disk is `superinfer/costs/flexgen.py`.

A block has `gpu_batch_size * num_gpu_batches` places. Every prompt is padded to the longest of the
block and every answer to the longest declared, cache included (`prompt + answer - 1` tokens a
place). One step computes all prompts, each further step a token of every place. Who has ended keeps
its place, and computes on; tokens come when they come, but the next block starts only when the
whole padded block is over. The plan tells the device this padded work (`Draft.pad`), so any cost
model charges it; once everybody has ended, the rest of the block is time that passes.

Requests are taken in order of arrival. A block starts as soon as anybody waits: the real system has
its whole work list before it starts, and fills the places of a last, short block with rows of
padding (`get_batches`), which is what happens here to any block that starts short. Requests join as
long as the padded cache of all places fits the memory; who does not fit starts the next block, and
who would not fit a block alone is rejected (`exceeds_kv_capacity`), where the real one would run
out of memory.

Left out: truncation to a given prompt length and rounding it up to 256 (`get_batches`); sorting by
length; blocks with different generation arguments; `--attn-sparsity`, `--sep-layer`,
`--pin-weight`, `--overlap false`; several GPUs. With prefix caching shared blocks save memory and
no work.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from mypy_extensions import mypyc_attr

from superinfer.costs.base import Chunk, CostModel
from superinfer.costs.flexgen_placement import Placement, shares_of
from superinfer.draft import MAX_STEPS, Draft
from superinfer.errors import ConfigError
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import check_positive
from superinfer.sequence import Sequence, State


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class FlexGenScheduler:
    """Static blocks; the defaults are those of `flex_opt.py` and `cost_model.py`."""

    gpu_batch_size: int = 4
    """Requests that the GPU computes at once."""
    num_gpu_batches: int = 1
    """Such batches in a block; each layer's weights are loaded once for all of them."""
    percent: tuple[float, ...] = (100.0, 0.0, 100.0, 0.0, 100.0, 0.0)
    """Of weights, KV cache and activations, each on GPU and CPU; the disk has the rest (none of the
    activations)."""
    placement: Literal["given", "auto"] = "given"
    """auto: search `percent` for blocks of the next two lengths."""
    auto_prompt_tokens: int = 512
    auto_answer_tokens: int = 32
    cpu_attention: bool = False
    """Attend on the CPU to the cache that is not on the GPU (`--cpu-cache-compute`)."""
    compress_weight: bool = False
    """Weights in 4 bits, in groups of 64 values."""
    compress_cache: bool = False
    cpu_memory_gib: float = 200.0
    """For weights, cache and activations, beside `run.host_memory_gib` (not used here)."""
    disk_gib: float = 1500.0
    disk_gb_per_s: float | None = None
    """Read speed of the disk in 1e9 bytes/s; absent: that of FlexGen's T4 machine."""
    early_stop: bool = False
    """End a block once everybody has ended: the loop for a single GPU batch does, if it is given a
    stop token."""
    name: str = field(default_factory=lambda: "flexgen", init=False)
    block_tokens: int = field(default_factory=lambda: 1, init=False)
    """Its cache is one tensor, without blocks."""
    copies_per_block: int = field(default_factory=lambda: 1, init=False)

    waiting: deque[Sequence] = field(default_factory=deque, init=False)
    _members: dict[Sequence, None] = field(default_factory=dict, init=False)
    """Who of the block has not ended."""
    _unfilled: list[Sequence] = field(default_factory=list, init=False)
    """Members whose prompts are not computed: all of a new block, or none."""
    _open: bool = field(default_factory=bool, init=False)
    """True from a block's start until it is known when it ends."""
    _end_s: float = field(default_factory=float, init=False)
    """When the latest block ends, once everybody in it has."""
    _first_step: int = field(default_factory=int, init=False)
    """Step of the decode batch with which the block began."""
    _prompt_tokens: int = field(default_factory=int, init=False)
    _answer_tokens: int = field(default_factory=int, init=False)
    _machine: Machine = field(init=False)

    @property
    def places(self) -> int:
        """Requests of a block."""
        return self.gpu_batch_size * self.num_gpu_batches

    # -- protocol -------------------------------------------------------------------------------

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        self.offloading()
        self._machine = machine

    def offloading(self) -> Placement:
        """Where tensors are kept, for the cost model; ConfigError for settings that cannot be."""
        self._check()
        weights, cache, activations = shares_of(self.percent)
        searched = (self.auto_prompt_tokens, self.auto_answer_tokens)
        return Placement(
            self.gpu_batch_size,
            self.num_gpu_batches,
            weights,
            cache,
            activations,
            self.cpu_attention,
            self.compress_weight,
            self.compress_cache,
            self.cpu_memory_gib * 2**30,
            self.disk_gib * 2**30,
            None if self.disk_gb_per_s is None else self.disk_gb_per_s * 1e9,
            searched if self.placement == "auto" else None,
        )

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue at the back."""
        self.waiting.append(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """Go on with the block; when it is over, start the next."""
        if self._open and not self._members:
            self._close(draft, now)
        if not self._open and now >= self._end_s:
            self._start(draft)
        if self._unfilled:
            self._prefill(draft)
        elif self._members:
            self._decode(draft)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: nobody is moved."""

    def resumed(self, seq: Sequence) -> None:
        """A cached prefix has come from the host: the block's prefill may be able to start."""

    def ended(self, seq: Sequence) -> None:
        """Its place stays taken. In the queue it is passed over when its turn comes."""
        self._members.pop(seq, None)
        if seq in self._unfilled:
            self._unfilled.remove(seq)
            self._open = bool(self._unfilled)  # a block of which nothing was computed is over

    def next_wakeup(self, now: float) -> float | None:
        """The end of the block, if anybody waits for it."""
        return self._end_s if self._head() is not None and self._end_s > now else None

    # -- inside ---------------------------------------------------------------------------------

    def _check(self) -> None:
        for name in ("gpu_batch_size", "num_gpu_batches", "auto_prompt_tokens"):
            check_positive(name, getattr(self, name))
        check_positive("auto_answer_tokens", self.auto_answer_tokens)
        if self.disk_gb_per_s is not None:
            check_positive("disk_gb_per_s", self.disk_gb_per_s)
        if self.early_stop and self.num_gpu_batches > 1:
            expected = "only the loop of a single GPU batch stops early: expected num_gpu_batches 1"
            raise ConfigError(f"scheduler.early_stop: {expected}, got {self.num_gpu_batches}")

    def _head(self) -> Sequence | None:
        """Whose turn it is."""
        waiting = self.waiting
        while waiting and waiting[0].state is State.ENDED:
            waiting.popleft()
        return waiting[0] if waiting else None

    def _answer_limit(self, seq: Sequence) -> int:
        """Tokens that the answer can have."""
        request = seq.request
        room = max(1, self._machine.max_model_len - request.prompt_tokens)
        return min(request.max_tokens, room)

    def _start(self, draft: Draft) -> None:
        """Take in requests in order, as many as there are places and the memory holds padded."""
        prompt = answer = 0
        while len(self._members) < self.places and (seq := self._head()) is not None:
            longer = max(prompt, seq.prefill_tokens)
            more = max(answer, self._answer_limit(seq))
            rule = self._does_not_fit(draft, seq, longer, more)
            if rule and not self._members:
                self.waiting.popleft()
                draft.reject(seq, rule)
                continue
            if rule or not draft.try_admit(seq):
                break
            self.waiting.popleft()
            self._members[seq] = None
            prompt, answer = longer, more
        if self._members:
            self._open = True
            self._unfilled = list(self._members)
            self._first_step = draft.batch.step
            self._prompt_tokens, self._answer_tokens = prompt, answer

    def _does_not_fit(self, draft: Draft, seq: Sequence, prompt: int, answer: int) -> str | None:
        """The rule by which a request cannot be in a block of such lengths, if there is one."""
        if seq.prefill_tokens > self._machine.max_model_len:
            return "prompt_too_long"
        if self.places * draft.blocks_for(prompt + answer - 1) > draft.pool.size:
            return "exceeds_kv_capacity"
        return None

    def _prefill(self, draft: Draft) -> None:
        """All prompts in one step, once the cached parts of them that the host keeps are there."""
        if any(seq.state is State.MOVING_IN for seq in self._unfilled):
            return
        for seq in self._unfilled:
            draft.prefill(seq, seq.prefill_tokens - seq.computed_tokens)
        draft.pad([Chunk(self._prompt_tokens, 0)] * self.places, 0, 0)
        self._unfilled = []

    def _decode(self, draft: Draft) -> None:
        """A slice up to the padded length; with lag 1 all may be done but the last step's end."""
        left = self._steps_left(draft)
        if left and draft.batch.size:
            done = draft.batch.step - self._first_step
            draft.decode(min(left, MAX_STEPS))
            draft.pad((), self.places, self.places * (self._prompt_tokens + done + 1))

    def _steps_left(self, draft: Draft) -> int:
        return self._answer_tokens - 1 - (draft.batch.step - self._first_step)

    def _close(self, draft: Draft, now: float) -> None:
        """Everybody has ended: find when the padded block has."""
        left = 0 if self.early_stop else self._steps_left(draft)
        if left and draft.ahead:
            return  # a last step is on the device, and its end not known
        context = self.places * (self._prompt_tokens + self._answer_tokens - left)
        self._end_s = now + decodes_s(self._machine, self.places, context, left)
        self._open = False


def decodes_s(machine: Machine, decodes: int, context_tokens: int, steps: int) -> float:
    """Seconds of so many decode steps in a row, the first with this total context."""
    cost: CostModel = machine.cost
    host_s, total_s = cost.host_s(decodes), 0.0
    while steps > 0:
        line = cost.slice_line((), decodes, context_tokens)
        device_s, count = line.first_s, int(min(line.steps, steps))
        for _ in range(count):
            total_s += max(host_s, device_s) if machine.lag else host_s + device_s
            device_s += line.growth_s
        steps -= count
        context_tokens += count * decodes
    return total_s
