"""The limits of a step and of a prompt, from the settings and the machine."""

from __future__ import annotations

from dataclasses import dataclass

from superinfer.errors import ConfigError
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import check_limits


@dataclass(slots=True, frozen=True)
class Limits:
    """What both modes keep to."""

    max_num_seqs: int
    budget_tokens: int
    """Of a step."""
    prompt_tokens: int
    """Longest prompt that is accepted."""
    admitted_tokens: int
    """Longest prompt that ever finds its blocks."""
    keep_free_blocks: int
    """The watermark: left free by admission and swap-in."""
    chunk_unit_tokens: int
    """Chunks but the last of a prompt are multiples of it."""
    prefix_caching: bool


def limits_of(
    machine: Machine, chunked: bool, max_num_seqs: int, budget_tokens: int, watermark: float
) -> Limits:
    """ConfigError for settings with which nothing could ever run."""
    check_limits(max_num_seqs, budget_tokens, watermark)
    unit_tokens = machine.block_tokens if machine.prefix_caching else 1
    if chunked and budget_tokens % unit_tokens:
        raise ConfigError(
            "scheduler.max_num_batched_tokens: expected a multiple of the block size "
            f"({unit_tokens}) with prefix caching, got {budget_tokens}"
        )
    prompt_tokens = machine.max_model_len
    if not chunked:
        prompt_tokens = min(prompt_tokens, budget_tokens)
    keep_free = int(watermark * machine.total_blocks)
    memory_tokens = (machine.total_blocks - keep_free) * machine.block_tokens
    return Limits(
        max_num_seqs,
        budget_tokens,
        prompt_tokens,
        min(prompt_tokens, memory_tokens),
        keep_free,
        unit_tokens,
        machine.prefix_caching,
    )
