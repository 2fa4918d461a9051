"""Settings of `vllm`, and which of the two modes they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from superinfer.costs.capacity import LargestStep
from superinfer.draft import Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import step_within
from superinfer.schedulers.vllm.chunked import Chunked
from superinfer.schedulers.vllm.limits import limits_of
from superinfer.schedulers.vllm.prefill_first import PrefillFirst
from superinfer.sequence import Sequence

CHUNKED_BUDGET_TOKENS: Final = 512
AUTO_CHUNK_ABOVE_TOKENS: Final = 32768
LEAST_BUDGET_TOKENS: Final = 2048
"""Of prefill first."""


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
    _mode: PrefillFirst | Chunked = field(init=False, repr=False)

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """Its dummy batch (`profile_run` in vllm/worker/model_runner.py at v0.6.0): the whole
        budget, among `max_num_seqs` sequences that are all sampled.
        """
        budget = self._budget_tokens(max_model_len, prefix_caching)
        step = step_within(budget, self.max_num_seqs)
        by_length = self.max_num_batched_tokens is None and budget == max_model_len
        return replace(step, tokens_by="run.max_model_len") if by_length else step

    def bind(self, machine: Machine) -> None:
        """Settle the defaults that depend on the model."""
        self.copies_per_block = 2 * machine.layers  # one K and one V copy per layer
        self.chunked = self._chunks(machine.max_model_len, machine.prefix_caching)
        budget = self._budget_tokens(machine.max_model_len, machine.prefix_caching)
        limits = limits_of(machine, self.chunked, self.max_num_seqs, budget, self.watermark)
        mode = Chunked if self.chunked else PrefillFirst
        self._mode = mode(limits, self.preemption)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue at the back."""
        self._mode.waiting.append(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """One iteration of the real scheduler, or a slice of identical ones."""
        self._mode.plan(draft)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: copies are `before_step` here."""

    def resumed(self, seq: Sequence) -> None:
        """Never called: copies are `before_step` here."""

    def ended(self, seq: Sequence) -> None:
        """Forget a sequence; in the waiting queues it is passed over when its turn comes."""
        self._mode.ended(seq)

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None

    # -- inside ---------------------------------------------------------------------------------

    def _chunks(self, max_model_len: int, prefix_caching: bool) -> bool:
        if self.chunked is not None:
            return self.chunked
        return max_model_len > AUTO_CHUNK_ABOVE_TOKENS and not prefix_caching

    def _budget_tokens(self, max_model_len: int, prefix_caching: bool) -> int:
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        if self._chunks(max_model_len, prefix_caching):
            return CHUNKED_BUDGET_TOKENS
        return max(max_model_len, LEAST_BUDGET_TOKENS)
