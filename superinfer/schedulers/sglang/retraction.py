"""Sending running requests back to the queue.

Source: `retract_decode` in `managers/schedule_batch.py` at v0.4.6; v0.3.2 does the same. The radix
cache keeps what it holds of them as long as the room that is made does not need it; all else of
their cache is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from superinfer.draft import Draft
from superinfer.sequence import Sequence


def retract(
    draft: Draft, block_tokens: int, steps_ahead: int
) -> tuple[list[Sequence], list[Sequence]]:
    """Drop requests until the others have room for `steps_ahead` steps; one at least, not the last.

    Fewest output tokens first, of these the longest prompt, of these the last of the running batch.
    The room is made at once: cached tokens make way, also those that the victims leave. Returns the
    victims in this order, and the survivors.
    """
    rest = sorted(draft.batch.members, key=_key(draft), reverse=True)
    victims: list[Sequence] = []
    while len(rest) > 1 and (not victims or _short(draft, block_tokens, steps_ahead * len(rest))):
        victims.append(rest.pop())
        draft.preempt(victims[-1], "recompute")
    draft.clear(-(-steps_ahead * len(rest) // block_tokens))
    return victims, rest


def _key(draft: Draft) -> Callable[[Sequence], tuple[float, ...]]:
    output_tokens = draft.batch.output_tokens

    def key(seq: Sequence) -> tuple[float, ...]:
        return (output_tokens(seq), -seq.request.prompt_tokens, -seq.rank[0])

    return key


def _short(draft: Draft, block_tokens: int, tokens: int) -> bool:
    """True while so many tokens lack room, or (with large blocks) the next step does."""
    return draft.available * block_tokens < tokens or draft.available < draft.batch.next_growth()
