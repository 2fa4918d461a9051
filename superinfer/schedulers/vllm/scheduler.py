"""Settings of `vllm`, and which of the two modes they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from superinfer.draft import Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.vllm.chunked import Chunked
from superinfer.schedulers.vllm.limits import limits_of
from superinfer.schedulers.vllm.prefill_first import PrefillFirst
from superinfer.sequence import Sequence

CHUNKED_BUDGET_TOKENS: Final = 512
AUTO_CHUNK_ABOVE_TOKENS: Final = 32768


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

    def bind(self, machine: Machine) -> None:
        """Settle the defaults that depend on the model."""
        self.copies_per_block = 2 * machine.layers  # one K and one V copy per layer
        if self.chunked is None:
            long_context = machine.max_model_len > AUTO_CHUNK_ABOVE_TOKENS
            self.chunked = long_context and not machine.prefix_caching
        budget = self.max_num_batched_tokens
        if budget is None:
            budget = CHUNKED_BUDGET_TOKENS if self.chunked else max(machine.max_model_len, 2048)
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
