"""Prefix index: a compressed radix tree over chained content ids, cut at the block size.

An edge is a run of blocks, stored as the content ids that cover them, so a prompt of nine thousand
blocks costs only its few hash ids. The key of a block is the id that covers its last token; ids are
chained (each stands for all content up to its end), so equal keys mean equal prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from superinfer.memory.pool import BlockPool
from superinfer.request import Request

if TYPE_CHECKING:
    from superinfer.memory.base import LeafOrder

Key = object


def request_keys(request: Request) -> tuple[Key, ...]:
    """Ids of the prompt's hash blocks; a partial last one matches only at equal length."""
    partial = request.prompt_tokens % request.hash_block_tokens
    if not partial or not request.hash_ids:
        return request.hash_ids
    return (*request.hash_ids[:-1], (request.hash_ids[-1], partial))


class Node:
    """Blocks `[start, stop)` of every prompt that begins with the path to here."""

    __slots__ = (
        "children",
        "hash_tokens",
        "keys",
        "last_access_s",
        "parent",
        "refs",
        "start",
        "stop",
    )

    def __init__(
        self,
        parent: Node | None,
        keys: tuple[Key, ...],
        start: int,
        stop: int,
        hash_tokens: int,
    ) -> None:
        self.parent = parent
        self.hash_tokens = hash_tokens
        self.keys = keys
        self.start = start
        self.stop = stop
        self.children: dict[Key, Node] = {}
        self.refs = 0
        """Live sequences whose path goes through this node."""
        self.last_access_s = 0.0

    @property
    def blocks(self) -> int:
        """Blocks of this edge alone."""
        return self.stop - self.start

    @property
    def reclaimable(self) -> bool:
        """True if no live sequence and no longer prefix needs it."""
        return not self.refs and not self.children and self.parent is not None

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, the root excluded."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class PrefixIndex:
    """The tree of one replica. It keeps the pool's `cached` and `referenced` counts."""

    def __init__(self, pool: BlockPool, block_tokens: int, policy: LeafOrder) -> None:
        self.pool = pool
        self.block_tokens = block_tokens
        self.policy = policy
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

    def match(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> tuple[int, int]:
        """Blocks of the longest cached prefix, and how many of them no live sequence holds."""
        node, unreferenced = self.root(request), 0
        while node.stop < limit_blocks:
            child, matched = self._step(node, keys, limit_blocks)
            if child is None:
                break
            if not child.refs:
                unreferenced += matched - child.start
            if matched < child.stop:
                return matched, unreferenced
            node = child
        return node.stop, unreferenced

    def acquire(
        self, request: Request, keys: tuple[Key, ...], limit_blocks: int
    ) -> tuple[Node | None, int]:
        """Lock the longest cached prefix of at most `limit_blocks` blocks.

        Returns its deepest node and its length in blocks (`None, 0` on a miss).
        """
        node = self.root(request)
        while node.stop < limit_blocks:
            child, matched = self._step(node, keys, limit_blocks)
            if child is None:
                break
            if matched < child.stop:
                node = self._split(child, matched)
                break
            node = child
        if node.parent is None:
            return None, 0
        self._lock(node, None)
        return node, node.stop

    def release(self, node: Node, now: float) -> None:
        """Unlock a path that was in use until `now`."""
        for step in node.path():
            step.last_access_s = now
        self.unlock(node)

    def unlock(self, node: Node) -> None:
        """Unlock a path; blocks that nobody holds any more stay as cached ones."""
        for step in node.path():
            step.refs -= 1
            if not step.refs:
                self.pool.referenced -= step.blocks
                self.pool.cached += step.blocks
                if not step.children:
                    self.policy.unused(step)

    def relock(self, node: Node) -> None:
        """Undo a `release` of the same path."""
        self._lock(node, None)

    def insert(
        self,
        request: Request,
        keys: tuple[Key, ...],
        node: Node | None,
        stop_blocks: int,
    ) -> tuple[Node | None, int]:
        """Turn private blocks of a sequence, from `node` up to `stop_blocks`, into shared ones.

        The sequence holds the path to `node` locked and ends with the returned node locked. The
        returned number counts its private blocks that became part of the tree or were duplicates of
        blocks already there.
        """
        top = node if node is not None else self.root(request)
        start = top.stop
        if stop_blocks <= start:
            return node, 0
        current = top
        while current.stop < stop_blocks:
            child, matched = self._step(current, keys, stop_blocks)
            if child is not None:
                current = self._split(child, matched) if matched < child.stop else child
            elif current is node and node.refs == 1 and not node.children:
                self._extend(node, keys, stop_blocks)
                return node, stop_blocks - start
            else:
                current = self._add(current, keys, stop_blocks)
        # Blocks of the sequence become the tree's (new nodes) or are given back (duplicates).
        self.pool.referenced -= stop_blocks - start
        self._lock(current, top)
        return current, stop_blocks - start

    def add_answer(self, request: Request, node: Node | None, blocks: int, now: float) -> None:
        """Keep `blocks` blocks of generated text below `node` as cached blocks.

        A trace has no content ids for answers, so nothing can match them, but they take part in the
        order of reclamation as they do in a real cache.
        """
        parent = node if node is not None else self.root(request)
        key = ("answer", request.index)
        leaf = Node(parent, (key,), parent.stop, parent.stop + blocks, parent.hash_tokens)
        leaf.last_access_s = now
        parent.children[key] = leaf
        self.pool.cached += blocks
        self.policy.unused(leaf)

    def reclaim(self, blocks: int) -> list[tuple[Node, int]]:
        """Drop `blocks` cached blocks in the policy's order; returns what was taken from where."""
        taken = []
        while blocks > 0:
            node, count = self.policy.victim(blocks)
            taken.append((node, count))
            self._trim(node, count)
            blocks -= count
        return taken

    # -- inside ---------------------------------------------------------------------------------

    def _key_index(self, block: int, hash_tokens: int) -> int:
        """Which content id covers the last token of a block."""
        return ((block + 1) * self.block_tokens - 1) // hash_tokens

    def _step(
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

    def _lock(self, node: Node, above: Node | None) -> None:
        """Add one reference to `node` and its ancestors, `above` (already locked) excluded."""
        pool = self.pool
        for step in node.path():
            if step is above:
                break
            if not step.refs:
                pool.cached -= step.blocks
                pool.referenced += step.blocks
            step.refs += 1

    def _add(self, parent: Node, keys: tuple[Key, ...], stop: int) -> Node:
        run = self._run(keys, parent.stop, stop, parent.hash_tokens)
        node = Node(parent, run, parent.stop, stop, parent.hash_tokens)
        parent.children[run[0]] = node
        self.pool.cached += node.blocks  # `_lock` moves them to `referenced`
        return node

    def _extend(self, node: Node, keys: tuple[Key, ...], stop: int) -> None:
        """Lengthen an edge that only the inserting sequence holds."""
        node.stop = stop
        node.keys = self._run(keys, node.start, stop, node.hash_tokens)

    def _run(
        self, keys: tuple[Key, ...], start: int, stop: int, hash_tokens: int
    ) -> tuple[Key, ...]:
        """The ids that cover blocks `[start, stop)` of a prompt with these keys."""
        first = self._key_index(start, hash_tokens)
        return keys[first : self._key_index(stop - 1, hash_tokens) + 1]

    def _cut(self, node: Node, start: int, stop: int) -> tuple[Key, ...]:
        """The part of an edge's ids that covers its blocks `[start, stop)`."""
        base = self._key_index(node.start, node.hash_tokens)
        first = self._key_index(start, node.hash_tokens) - base
        return node.keys[first : self._key_index(stop - 1, node.hash_tokens) - base + 1]

    def _split(self, node: Node, stop: int) -> Node:
        """Cut an edge at block `stop`; the given node stays the lower part. Returns the upper."""
        parent = node.parent
        assert parent is not None and node.start < stop < node.stop
        keys = self._cut(node, node.start, stop)
        upper = Node(parent, keys, node.start, stop, node.hash_tokens)
        upper.refs = node.refs
        upper.last_access_s = node.last_access_s
        parent.children[keys[0]] = upper
        node.keys = self._cut(node, stop, node.stop)
        node.start = stop
        node.parent = upper
        upper.children[node.keys[0]] = node
        return upper

    def _trim(self, node: Node, blocks: int) -> None:
        """Drop the last `blocks` blocks of an unreferenced leaf."""
        self.pool.cached -= blocks
        parent = node.parent
        assert parent is not None and node.reclaimable
        if blocks < node.blocks:
            node.keys = self._cut(node, node.start, node.stop - blocks)
            node.stop -= blocks
            self.policy.unused(node)
            return
        del parent.children[node.keys[0]]
        node.parent = None
        if parent.reclaimable:
            self.policy.unused(parent)
