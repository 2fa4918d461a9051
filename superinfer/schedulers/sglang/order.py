"""Orders of the waiting queue. Source: `managers/schedule_policy.py` at v0.4.6 (`SchedulePolicy`).

All are stable sorts of the queue itself: what they decide stays when the order is not worked out
anew. The order `random` is left out, for the core draws nothing at random.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from superinfer.draft import Draft
from superinfer.memory.index.node import Node
from superinfer.schedulers.sglang.rules import IN_BATCH_TOKENS
from superinfer.sequence import Sequence

Found = dict[Sequence, Node | None]
"""Deepest node of the cached prefix of every waiting request."""


def stops(node: Node | None) -> tuple[int, int]:
    """Blocks of a cached prefix, and how many of them are on the device."""
    if node is None:
        return 0, 0
    here = next((step for step in node.path() if step.on_device), None)
    return node.stop, 0 if here is None else here.stop


def look_up(draft: Draft, waiting: list[Sequence]) -> Found:
    """Match everybody against the cache, which counts as a use of what they find."""
    return {seq: draft.find_prefix(seq, touch=True) for seq in waiting}


def by_longest_prefix(
    waiting: list[Sequence], found: Found, block_tokens: int, in_batch: bool
) -> None:
    """LPM: longest cached prefix on the device first. With `in_batch`, whoever shares a prefix that
    is not cached with an earlier request comes last, so that the earlier one computes it for all.
    """
    cached = {seq: stops(node)[1] * block_tokens for seq, node in found.items()}
    put_off = _sharing(waiting, cached) if in_batch else set()
    waiting.sort(key=lambda seq: math.inf if seq in put_off else -cached[seq])


def by_longest_output(waiting: list[Sequence], limit: Callable[[Sequence], int]) -> None:
    """LOF: the highest limit of output tokens first."""
    waiting.sort(key=limit, reverse=True)


def by_depth_first_weight(waiting: list[Sequence], found: Found) -> None:
    """DFS-weight: a walk of the tree that visits the child with most waiting requests first;
    requests come after those of all longer prefixes.
    """
    ending: dict[Node | None, list[Sequence]] = defaultdict(list)
    weight: dict[Node, int] = defaultdict(int)
    for seq in waiting:
        node = found[seq]
        ending[node].append(seq)
        for step in node.path() if node is not None else ():
            weight[step] += 1
    waiting[:] = _walk(_children(weight), ending)


def _children(weight: dict[Node, int]) -> dict[Node | None, list[Node]]:
    """Nodes on somebody's path by their parent (None: a root), heaviest first; of equal ones the
    one that has been in the tree for longer.
    """
    children: dict[Node | None, list[Node]] = defaultdict(list)
    for node in weight:
        parent = node.parent
        assert parent is not None
        children[parent if parent.parent is not None else None].append(node)
    for siblings in children.values():
        if len(siblings) > 1:
            siblings.sort(key=_places(siblings).__getitem__)
            siblings.sort(key=lambda node: -weight[node])
    return children


def _places(siblings: list[Node]) -> dict[Node, int]:
    """Places of nodes among the children of their parents."""
    parents = dict.fromkeys(node.parent for node in siblings)
    among = [child for parent in parents if parent for child in parent.children.values()]
    return {node: place for place, node in enumerate(among)}


def _walk(
    children: dict[Node | None, list[Node]], ending: dict[Node | None, list[Sequence]]
) -> list[Sequence]:
    """Requests in the order of a depth-first walk, those of a node after those below it."""
    ordered: list[Sequence] = []
    stack: list[tuple[Node | None, bool]] = [(None, False)]
    while stack:
        node, below_done = stack.pop()
        if below_done:
            ordered += ending[node]
            continue
        stack.append((node, True))
        stack += [(child, False) for child in reversed(children[node])]
    return ordered


def _sharing(waiting: list[Sequence], cached: dict[Sequence, int]) -> set[Sequence]:
    """Requests with little cached that share enough with an earlier one of the same kind.

    Content ids are chained, so the id that covers the last of the first 32 tokens tells.
    """
    sharing: set[Sequence] = set()
    seen: set[tuple[str, int, object]] = set()
    for seq in waiting:
        request = seq.request
        place = -(-IN_BATCH_TOKENS // request.hash_block_tokens) - 1
        keys = seq.keys or ()
        if cached[seq] > IN_BATCH_TOKENS or place >= len(keys):
            continue
        if request.prompt_tokens < IN_BATCH_TOKENS:
            continue
        mark = (request.namespace, request.hash_block_tokens, keys[place])
        if mark in seen:
            sharing.add(seq)
        seen.add(mark)
    return sharing
