"""The second stage: tokens for those whose memory fits (`MicroBatchScheduler`)."""

from __future__ import annotations

from collections.abc import Iterable

from superinfer.schedulers.tensorrt_llm.queues import is_context, remaining_tokens
from superinfer.sequence import Sequence

Share = tuple[Sequence, int]
"""A request and the tokens it gets: one for a decode."""


def whole_prompts(fitting: Iterable[Sequence], tokens: int, longest: int) -> list[Share]:
    """No chunks: in order, up to the first one for which `tokens` are too few.

    A prompt that grew beyond the `longest` input by what was generated before a pause is charged
    no more than that.
    """
    shares = []
    for seq in fitting:
        wanted = min(remaining_tokens(seq), longest) if is_context(seq) else 1
        if wanted > tokens:
            break
        tokens -= wanted
        shares.append((seq, remaining_tokens(seq) if is_context(seq) else 1))
    return shares


def first_come_first_served(contexts: Iterable[Sequence], tokens: int, unit: int) -> list[Share]:
    """Each as much as is left; what is no whole prompt is cut to a multiple of `unit`."""
    shares = []
    for seq in contexts:
        wanted = remaining_tokens(seq)
        chunk = wanted if wanted <= tokens else tokens // unit * unit
        if chunk:
            shares.append((seq, chunk))
            tokens -= chunk
        if not tokens:
            break
    return shares


def equal_progress(contexts: Iterable[Sequence], tokens: int, unit: int) -> list[Share]:
    """One `unit` more for each in turn while there are tokens; an increment that is too large for
    what is left is passed over.
    """
    chunks = dict.fromkeys(contexts, 0)
    granted = 1
    while tokens and granted:
        granted = 0
        for seq, chunk in chunks.items():
            more = min(unit, remaining_tokens(seq) - chunk)
            if more <= tokens:
                chunks[seq] += more
                granted += more
                tokens -= more
    return [(seq, chunk) for seq, chunk in chunks.items() if chunk]
