"""What the settings and the machine allow in a step, and of a request."""

from __future__ import annotations

from dataclasses import dataclass

from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.sequence import Sequence


@dataclass(slots=True, frozen=True)
class Limits:
    """Settings of the scheduler under the names that they have there, and what follows of them."""

    max_num_seqs: int
    budget_tokens: int
    """Of a step."""
    chunked: bool
    threshold_tokens: int
    """`long_prefill_token_threshold`."""
    adaptive: bool
    """`long_prefill_token_threshold_adaptive`."""
    fit_all: bool
    """`scheduler_reserve_full_isl`."""
    watermark_blocks: int
    max_model_len: int

    def longest_chunk(self, requests: int) -> int:
        """Tokens of a chunk while there are so many requests. The threshold spares the others; one
        that is alone may take the whole budget.
        """
        threshold = self.threshold_tokens
        if not threshold or requests < 2:
            return self.budget_tokens
        return max(threshold, self.budget_tokens // requests) if self.adaptive else threshold

    def answer_tokens(self, seq: Sequence) -> int:
        """Tokens of its answer that a sequence may get."""
        request = seq.request
        return min(request.max_tokens, max(1, self.max_model_len - request.prompt_tokens))

    def hopeless(self, draft: Draft, seq: Sequence) -> str | None:
        """The rule by which a request can never run, if there is one."""
        if seq.request.prompt_tokens >= self.max_model_len:
            return "prompt_too_long"  # the release wants room for a token of answer
        if draft.blocks_for(seq.prefill_tokens) > draft.pool.size:
            return "exceeds_kv_capacity"
        return None

    def check(self) -> None:
        """Refuse settings that mean nothing, or leave no room for long prompts (ConfigError)."""
        if self.threshold_tokens < 0:
            raise ConfigError(
                "scheduler.long_prefill_token_threshold: expected 0 or more, "
                f"got {self.threshold_tokens}"
            )
        if not self.chunked and self.budget_tokens < self.max_model_len:
            raise ConfigError(
                "scheduler.max_num_batched_tokens: expected at least max_model_len "
                f"({self.max_model_len}) without chunked prefill, got {self.budget_tokens}"
            )
