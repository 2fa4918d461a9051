"""The scheduler class: both stages, and the draft that they fill."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mypy_extensions import mypyc_attr

from superinfer.costs.capacity import LargestStep
from superinfer.draft import MAX_STEPS, Draft
from superinfer.errors import ConfigError
from superinfer.schedulers.base import Machine
from superinfer.schedulers.tensorrt_llm.capacity import Capacity, chunk_after_reuse
from superinfer.schedulers.tensorrt_llm.micro_batch import (
    Share,
    equal_progress,
    first_come_first_served,
    whole_prompts,
)
from superinfer.schedulers.tensorrt_llm.queues import Queues, is_context
from superinfer.sequence import Sequence, State

TOO_LONG = "prompt_exceeds_max_input_len"
"""`LlmRequest::validate`: "Prompt length exceeds maximum input length"."""


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class TensorRtLlmScheduler:
    """In-flight batching in order of arrival; the defaults are those of `BuildConfig`."""

    capacity_policy: Literal["guaranteed_no_evict", "max_utilization", "static_batch"] = (
        "guaranteed_no_evict"
    )
    context_chunking: Literal["off", "first_come_first_served", "equal_progress"] = "off"
    max_batch_size: int = 2048
    max_num_tokens: int = 8192
    tokens_per_block: int = 32
    """Block size, unless `run.block_tokens` gives another."""
    free_gpu_memory_fraction: float = 0.9
    """Share for KV blocks of the device memory that weights and activations leave free; it stands
    in place of `run.gpu_memory_utilization`."""
    name: str = field(default_factory=lambda: "tensorrt_llm", init=False)
    goes_by_priority: bool = field(default_factory=lambda: True, init=False)
    block_tokens: int = field(default_factory=lambda: 32, init=False)
    copies_per_block: int = field(default_factory=lambda: 1, init=False)
    """Blocks of all layers lie together in one pool."""

    queues: Queues = field(default_factory=Queues, init=False)
    _refused: list[Sequence] = field(default_factory=list, init=False)
    """New requests to be turned away."""
    _parked: list[Sequence] = field(default_factory=list, init=False)
    """Generating requests that got no token in the latest step."""
    _capacity: Capacity = field(init=False)
    _max_input_len: int = field(default_factory=int, init=False)
    _unit: int = field(default_factory=int, init=False)
    """Chunks end at multiples of it: the block size."""

    def __post_init__(self) -> None:
        if self.tokens_per_block < 1:
            raise ConfigError(
                f"scheduler.tokens_per_block: expected at least 1, got {self.tokens_per_block}"
            )
        if not 0 < self.free_gpu_memory_fraction <= 1:
            raise ConfigError(
                "scheduler.free_gpu_memory_fraction: expected above 0 and at most 1, got "
                f"{self.free_gpu_memory_fraction}"
            )
        self.block_tokens = self.tokens_per_block

    # -- protocol -------------------------------------------------------------------------------

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """What engine and buffers are built for (docs/source/reference/memory.md)."""
        return LargestStep(
            self.max_num_tokens,
            self.max_batch_size,
            tokens_by="scheduler.max_num_tokens",
            logits_by="scheduler.max_batch_size",
        )

    def largest_prefill(self, max_model_len: int) -> int:
        """Where prompts are not cut, one that was paused comes back whole with its answer so far,
        and is charged for no more than the longest input (`whole_prompts`).
        """
        uncut = self.context_chunking == "off"
        return max_model_len if uncut and self.capacity_policy == "max_utilization" else 0

    def bind(self, machine: Machine) -> None:
        """Settle the longest sequence and input (`TrtGptModel`)."""
        if self.max_batch_size < 1:
            raise ConfigError(
                f"scheduler.max_batch_size: expected at least 1, got {self.max_batch_size}"
            )
        if self.max_num_tokens < self.max_batch_size:
            raise ConfigError(
                "scheduler.max_num_tokens: expected at least max_batch_size "
                f"({self.max_batch_size}), got {self.max_num_tokens}"
            )
        self._unit = machine.block_tokens
        chunked = self.context_chunking != "off"
        if chunked and self.max_num_tokens < self._unit:
            raise ConfigError(
                "scheduler.max_num_tokens: expected at least a block "
                f"({self._unit}) with chunked contexts, got {self.max_num_tokens}"
            )
        max_seq_len = min(machine.max_model_len, machine.total_blocks * self._unit)
        self._max_input_len = max_seq_len - 1
        if not chunked:
            self._max_input_len = min(max_seq_len - 1, self.max_num_tokens)
        self._capacity = Capacity(
            self.queues,
            self.max_batch_size,
            machine.total_blocks,
            self._unit,
            max_seq_len,
            machine.prefix_caching,
        )

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue by priority and arrival, or refuse."""
        if seq.prefill_tokens > self._max_input_len:
            self._refused.append(seq)
            return
        request = seq.request
        seq.rank = (request.priority, request.arrival_s, request.index)
        self.queues.waiting.add(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """One iteration of the real scheduler, or a slice of identical ones."""
        while self._refused:
            draft.reject(self._refused.pop(), TOO_LONG)
        while self._parked:
            draft.unpark(self._parked.pop())
        short = draft.batch.next_growth() > draft.available
        if self.capacity_policy != "max_utilization":
            if short:
                self._capacity.fail_outgrown(draft)
            self._run(draft, self._capacity.guaranteed(draft, self._static))
        elif short or not self.queues.in_turn:
            self._run_in_list_order(draft, self._capacity.walk(draft))
        else:
            self._run(draft, self._capacity.utilised(draft))

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: a pause drops the cache."""

    def resumed(self, seq: Sequence) -> None:
        """Never called: what is found on the host is copied before the step."""

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        self._capacity.ended(seq)
        for queue in (self._parked, self._refused):
            if seq in queue:
                queue.remove(seq)

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _static(self) -> bool:
        return self.capacity_policy == "static_batch"

    def _run(self, draft: Draft, contexts: Iterable[Sequence]) -> None:
        """All decodes, and what the rest of the tokens computes of `contexts`.

        Without chunks everything can only change when somebody comes or ends: the memory that the
        waiting ones find gets less, and the tokens stay the same.
        """
        shares: list[Share] = []
        if not self.queues.decode_only:
            shares = self._shares(contexts, self.max_num_tokens - draft.batch.size)
        if not (shares or draft.batch.size) and len(self.queues.prefilling):
            shares = self._shares(self.queues.prefilling, self.max_num_tokens)
        self._compute(draft, shares)
        if draft.batch.size:
            draft.decode(1 if shares else MAX_STEPS)

    def _run_in_list_order(self, draft: Draft, fitting: list[Sequence]) -> None:
        """Contexts may come before decodes here and take the tokens of a step from them."""
        if self.context_chunking == "off":
            shares = self._shares(fitting, self.max_num_tokens)
            self._park_all_but({seq for seq, _ in shares}, draft)
        else:
            contexts = filter(is_context, fitting)
            shares = self._shares(contexts, self.max_num_tokens - draft.batch.size)
        self._compute(draft, [share for share in shares if is_context(share[0])])
        if draft.batch.size:
            draft.decode(1)

    def _shares(self, fitting: Iterable[Sequence], tokens: int) -> list[Share]:
        if self.context_chunking == "off":
            return whole_prompts(fitting, tokens, self._max_input_len)
        if self.context_chunking == "equal_progress":
            return equal_progress(fitting, tokens, self._unit)
        return first_come_first_served(fitting, tokens, self._unit)

    def _compute(self, draft: Draft, shares: list[Share]) -> None:
        """Admit the contexts that are new, and give each its chunk."""
        for seq, share in shares:
            tokens = share
            if seq.state is State.WAITING:
                admitted = draft.try_admit(seq)
                assert admitted, "the first stage has made sure that it fits"
                self._capacity.started(seq)
                tokens = chunk_after_reuse(seq, share, self._unit)
            draft.prefill(seq, tokens)
            if seq.computed_tokens + tokens == seq.prefill_tokens:
                self.queues.prefilling.discard(seq)

    def _park_all_but(self, chosen: set[Sequence], draft: Draft) -> None:
        for seq in list(draft.batch.members):
            if seq not in chosen:
                draft.park(seq)
                self._parked.append(seq)
