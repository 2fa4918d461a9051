"""What the scheduler of vLLM's V1 engine checks of its settings, and keeps and asks in one step."""

from __future__ import annotations

from dataclasses import dataclass, field

from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.sequence import Sequence


@dataclass(slots=True)
class Step:
    """What was decided for the running requests."""

    budget_tokens: int
    growth: int = 0
    """Blocks that the decodes of this step take."""
    scheduled: dict[Sequence, int] = field(default_factory=dict)
    """Tokens of those that a walk has served."""
    preempted: bool = False


def left_tokens(seq: Sequence) -> int:
    """Tokens of its prefill that a sequence has not computed."""
    return seq.prefill_tokens - seq.computed_tokens


def limit_tokens(seq: Sequence, max_model_len: int) -> int:
    """Tokens of its answer that a sequence may get."""
    return min(seq.request.max_tokens, max(1, max_model_len - seq.request.prompt_tokens))


def lowest(seq: Sequence) -> tuple[float, ...]:
    """The first victim by priority has the largest of these; the first in line where equal."""
    return seq.rank[:2]


def hopeless(draft: Draft, seq: Sequence, max_model_len: int) -> str | None:
    """The rule by which a request can never run, if there is one."""
    if seq.request.prompt_tokens >= max_model_len:
        return "prompt_too_long"  # the release wants room for a token of answer
    if draft.blocks_for(seq.prefill_tokens) > draft.pool.size:
        return "exceeds_kv_capacity"
    return None


def check_policy(policy: str, threshold_tokens: int) -> None:
    """Refuse settings that mean nothing (ConfigError)."""
    if policy not in ("fcfs", "priority"):
        raise ConfigError(f"scheduler.policy: expected fcfs or priority, got {policy!r}")
    if threshold_tokens < 0:
        raise ConfigError(
            f"scheduler.long_prefill_token_threshold: expected 0 or more, got {threshold_tokens}"
        )


def check_whole_prompts(max_num_batched_tokens: int, max_model_len: int) -> None:
    """Refuse a budget that does not hold every prompt (ConfigError)."""
    if max_num_batched_tokens < max_model_len:
        raise ConfigError(
            "scheduler.max_num_batched_tokens: expected at least max_model_len "
            f"({max_model_len}) without chunked prefill, got {max_num_batched_tokens}"
        )
