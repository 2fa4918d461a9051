"""Names of the content of prompts, by which equal beginnings are found.

Content ids are chained: each stands for all content up to its end, so equal ids mean equal
prefixes, and an id belongs to one place in its prompts.
"""

from __future__ import annotations

from typing import Final

from superinfer.request import Request

Key = object

ANSWER: Final = "answer"
"""First part of the keys of generated text."""


def request_keys(request: Request) -> tuple[Key, ...]:
    """Ids of the prompt's hash blocks; a partial last one matches only at equal length."""
    partial = request.prompt_tokens % request.hash_block_tokens
    if not partial or not request.hash_ids:
        return request.hash_ids
    return (*request.hash_ids[:-1], (request.hash_ids[-1], partial))


def is_answer(key: Key) -> bool:
    """Whether it is one of generated text."""
    return isinstance(key, tuple) and key[0] == ANSWER
