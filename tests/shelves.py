"""Indexes of cached blocks that tests fill by hand, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import BLOCK, request

from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.request import Request


def block_prompt(index: int, *ids: int, arrival_s: float = 0.0, **more: Any) -> Request:
    """One content id a block, and a token behind the last full block."""
    return request(
        index,
        BLOCK * len(ids) + 1,
        0,
        arrival_s,
        hash_ids=(*ids, 0),
        hash_block_tokens=BLOCK,
        **more,
    )


def reclaimed(index: PrefixIndex, names: Mapping[Node, str], blocks: int) -> list[tuple[str, int]]:
    """Names of the edges that lose blocks to a reclaim, one after the other, and how many."""
    taken: list[tuple[str, int]] = []
    for node, count in index.reclaim(blocks):
        name = names.get(node, "stem")
        before = taken.pop()[1] if taken and taken[-1][0] == name else 0
        taken.append((name, before + count))
    return taken
