"""Prefix index: a compressed radix tree over chained content ids, cut at the block size.

An edge is a run of blocks, stored as the content ids that cover them, so a prompt of nine thousand
blocks costs only its few hash ids. The key of a block is the id that covers its last token; ids are
chained (each stands for all content up to its end), so equal keys mean equal prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from superinfer.memory.index.keys import Key
from superinfer.memory.index.node import Node
from superinfer.request import Request

if TYPE_CHECKING:
    from superinfer.placement import Placement


class RadixTree:
    """What is cached of prompts, one root for each namespace and granularity of content ids."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.placement: Placement | None = None
        """Who gives places to its blocks, if anybody does."""
        self._roots: dict[tuple[str, int], Node] = {}

    def root(self, request: Request) -> Node:
        """Root of the request's namespace (and hash granularity)."""
        key = (request.namespace, request.hash_block_tokens)
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Node(None, (), 0, 0, request.hash_block_tokens)
        return root

    def nodes(self) -> Iterator[Node]:
        """Every node that holds blocks, parents first."""
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            if node.parent is not None:
                yield node
            stack.extend(node.children.values())

    def find(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> Node | None:
        """Deepest node of the longest cached prefix of at most `limit_blocks` blocks, if any.

        An edge is cut where the prefix ends inside it.
        """
        node = self.root(request)
        while node.stop < limit_blocks:
            child, matched = self.descend(node, keys, limit_blocks)
            if child is None or child.bits < request.slo_class.min_kv_bits:
                break
            if matched < child.stop:
                node = self.cut(child, matched)
                break
            node = child
        return node if node.parent is not None else None

    def block_name(self, request: Request, keys: tuple[Key, ...], block: int) -> object:
        """A name that two prompts have in common for a block if they are equal up to its end; they
        may differ in it only if they also differ in the rest of the content id.
        """
        hash_tokens = request.hash_block_tokens
        key = keys[self._key_index(block, hash_tokens)]
        return (request.namespace, hash_tokens, block, key)

    def cut(self, node: Node, stop: int) -> Node:
        """Make two of an edge, at block `stop`; `node` is the lower one. Returns the upper."""
        parent = node.parent
        assert parent is not None and node.start < stop < node.stop
        keys = self.keys_within(node, node.start, stop)
        upper = Node(parent, keys, node.start, stop, node.hash_tokens)
        upper.refs, upper.hits, upper.priority = node.refs, node.hits, node.priority
        upper.note, upper.last_access_s = node.note, node.last_access_s
        upper.on_device, upper.on_host = node.on_device, node.on_host
        upper.loading = node.loading
        upper.bits, upper.floor_bits = node.bits, node.floor_bits
        upper.device_children = int(node.on_device)
        parent.children[keys[0]] = upper
        node.keys = self.keys_within(node, stop, node.stop)
        node.start = stop
        node.parent = upper
        upper.children[node.keys[0]] = node
        if self.placement is not None:
            self.placement.split(upper, node)
        return upper

    def descend(
        self, node: Node, keys: tuple[Key, ...], limit_blocks: int
    ) -> tuple[Node | None, int]:
        """The child that continues the prompt after `node`, and up to which block it matches."""
        index = self._key_index(node.stop, node.hash_tokens)
        if index >= len(keys):
            return None, node.stop
        child = node.children.get(keys[index])
        if child is None:
            return None, node.stop
        wanted = keys[index : index + len(child.keys)]
        if wanted == child.keys:
            return child, min(child.stop, limit_blocks)
        same = next(i for i, key in enumerate(child.keys) if i >= len(wanted) or key != wanted[i])
        covered = (index + same) * node.hash_tokens // self.block_tokens
        matched = min(covered, child.stop, limit_blocks)
        return (child, matched) if matched > node.stop else (None, node.stop)

    # -- content ids of blocks ------------------------------------------------------------------

    def _key_index(self, block: int, hash_tokens: int) -> int:
        """Which content id covers the last token of a block."""
        return ((block + 1) * self.block_tokens - 1) // hash_tokens

    def keys_of(
        self, keys: tuple[Key, ...], start: int, stop: int, hash_tokens: int
    ) -> tuple[Key, ...]:
        """The ids that cover blocks `[start, stop)` of a prompt with these keys."""
        first = self._key_index(start, hash_tokens)
        return keys[first : self._key_index(stop - 1, hash_tokens) + 1]

    def keys_within(self, node: Node, start: int, stop: int) -> tuple[Key, ...]:
        """The part of an edge's ids that covers its blocks `[start, stop)`."""
        if node.answer:
            return node.keys
        base = self._key_index(node.start, node.hash_tokens)
        first = self._key_index(start, node.hash_tokens) - base
        return node.keys[first : self._key_index(stop - 1, node.hash_tokens) - base + 1]
