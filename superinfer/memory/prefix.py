"""Prefix index: a compressed radix tree over chained content ids, cut at the block size.

An edge is a run of blocks, stored as the content ids that cover them, so a prompt of nine thousand
blocks costs only its few hash ids. The key of a block is the id that covers its last token; ids are
chained (each stands for all content up to its end), so equal keys mean equal prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from superinfer.errors import PlanError
from superinfer.memory.base import CachedLadder, Retention, WholeEdges
from superinfer.memory.keys import ANSWER, Key
from superinfer.memory.node import Node
from superinfer.memory.pool import BlockPool
from superinfer.request import Request

if TYPE_CHECKING:
    from superinfer.memory.base import LeafOrder
    from superinfer.placement import Placement


class Shrunk(NamedTuple):
    """Cached blocks that lost bits."""

    blocks: int
    from_bits: int
    to_bits: int


class PrefixIndex:
    """The tree of one replica. It keeps the pool's `cached` and `referenced` counts."""

    def __init__(self, pool: BlockPool, block_tokens: int, policy: LeafOrder) -> None:
        self.pool = pool
        self.block_tokens = block_tokens
        self.policy = policy
        self._retention = policy if isinstance(policy, Retention) else None
        self.notes_hits = self._retention is not None
        """True if `hit` does anything."""
        self.shared_again = 0
        """Blocks of locked paths, counted for each sequence beside the first that holds them."""
        self.locked_blocks = 0
        """Blocks of locked paths."""
        self._grow_edges = not isinstance(policy, WholeEdges)
        self.ladder = policy if isinstance(policy, CachedLadder) else None
        """Who says which cached blocks lose bits, if any do."""
        self._shrunk: list[Shrunk] = []
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

    def match(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> tuple[int, int]:
        """Blocks of the longest cached prefix, and how many of them no live sequence holds."""
        node, unreferenced = self.root(request), 0
        while node.stop < limit_blocks:
            child, matched = self._step(node, keys, limit_blocks)
            if child is None or child.bits < request.slo_class.min_kv_bits:
                break
            if not child.refs:
                unreferenced += matched - child.start
            if matched < child.stop:
                return matched, unreferenced
            node = child
        return node.stop, unreferenced

    def block_name(self, request: Request, keys: tuple[Key, ...], block: int) -> object:
        """A name that two prompts have in common for a block if they are equal up to its end; they
        may differ in it only if they also differ in the rest of the content id.
        """
        hash_tokens = request.hash_block_tokens
        key = keys[self._key_index(block, hash_tokens)]
        return (request.namespace, hash_tokens, block, key)

    def find(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> Node | None:
        """Deepest node of the longest cached prefix of at most `limit_blocks` blocks, if any.

        An edge is cut where the prefix ends inside it.
        """
        node = self.root(request)
        while node.stop < limit_blocks:
            child, matched = self._step(node, keys, limit_blocks)
            if child is None or child.bits < request.slo_class.min_kv_bits:
                break
            if matched < child.stop:
                node = self._split(child, matched)
                break
            node = child
        return node if node.parent is not None else None

    def acquire(
        self, request: Request, keys: tuple[Key, ...], limit_blocks: int
    ) -> tuple[Node | None, int]:
        """Lock the longest cached prefix of at most `limit_blocks` blocks.

        Returns its deepest node and its length in blocks (`None, 0` on a miss).
        """
        node = self.find(request, keys, limit_blocks)
        if node is None:
            return None, 0
        self._lock(node, None)
        return node, node.stop

    def hit(self, request: Request, node: Node) -> None:
        """The request was admitted with the path to `node`."""
        if self._retention is not None:
            self._retain(request, node, None)

    def touch(self, node: Node, now: float) -> None:
        """Count a look-up as a use of the path to `node`, for an order of reclamation by age."""
        step, parent = node, node.parent
        while parent is not None:
            step.last_access_s = now
            if step.reclaimable:
                self.policy.unused(step)
            step, parent = parent, parent.parent

    def release(self, node: Node, now: float) -> None:
        """Unlock a path that was in use until `now`."""
        step, parent = node, node.parent
        while parent is not None:
            step.last_access_s = now
            step, parent = parent, parent.parent
        self.unlock(node)

    def unlock(self, node: Node) -> None:
        """Unlock a path; blocks that nobody holds any more stay as cached ones."""
        pool = self.pool
        step, parent = node, node.parent
        while parent is not None:
            blocks = step.stop - step.start
            step.refs -= 1
            if not step.refs:
                self.locked_blocks -= blocks
                pool.referenced -= blocks
                pool.cached += blocks
                if step.bits < 16:
                    pool.count_small(step.bits, -blocks, blocks)
                if not step.device_children:
                    self.policy.unused(step)
            else:
                self.shared_again -= blocks
            step, parent = parent, parent.parent

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
                if child.bits < request.slo_class.min_kv_bits and child.refs:
                    break  # others hold it with fewer bits than these may have
                current = self._covered(child, matched, request)
            elif current is node and self._may_extend(node):
                self._extend(node, keys, stop_blocks)
                return node, stop_blocks - start
            else:
                current = self._add(current, keys, stop_blocks)
        if current is top:
            return node, 0
        # Blocks of the sequence become the tree's (new nodes) or are given back (duplicates).
        self.pool.referenced -= current.stop - start
        self._lock(current, top)
        if self._retention is not None:
            self._retain(request, current, top)
        return current, current.stop - start

    def add_answer(
        self, request: Request, node: Node | None, blocks: int, now: float, bits: int = 16
    ) -> Node:
        """Keep `blocks` blocks of generated text below `node` as cached blocks.

        A trace has no content ids for answers, so nothing can match them, but they take part in the
        order of reclamation as they do in a real cache.
        """
        parent = node if node is not None else self.root(request)
        key = (ANSWER, request.index)
        leaf = Node(parent, (key,), parent.stop, parent.stop + blocks, parent.hash_tokens)
        leaf.last_access_s = now
        parent.children[key] = leaf
        parent.device_children += 1
        self.pool.cached += blocks
        if bits < 16:
            leaf.bits = bits
            self.pool.count_small(bits, 0, blocks)
        if self._retention is not None:
            self._retention.retain(leaf, request)
        self.policy.unused(leaf)
        return leaf

    def cut(self, node: Node, stop: int) -> Node:
        """Make two of an edge, at block `stop`; `node` is the lower one. Returns the upper."""
        return self._split(node, stop)

    def set_bits(self, node: Node, bits: int) -> None:
        """The blocks of a node on the device have so many bits from now on."""
        node.bits = bits

    def reclaim(self, blocks: int) -> list[tuple[Node, int]]:
        """Drop `blocks` cached blocks in the policy's order; returns what was taken from where."""
        taken = []
        while blocks > 0:
            node, count = self._victim(blocks)
            taken.append((node, count))
            self._trim(node, count)
            blocks -= count
        return taken

    def make_room(self, blocks: int) -> list[tuple[Node, int]]:
        """The same, but blocks lose bits instead where the policy says so, until that makes the
        room of so many of 16 bits; returns what was dropped.
        """
        taken, ladder = [], self.ladder
        while blocks > 0:
            node, count = self._victim(blocks)
            part = None if ladder is None else ladder.shrinks(node)
            if part is not None:
                blocks -= self._shrink(node, *part)
                continue
            taken.append((node, count))
            self._trim(node, count)
            blocks -= count
        return taken

    def take_shrunk(self) -> list[Shrunk]:
        """Cached blocks that lost bits since last asked."""
        shrunk, self._shrunk = self._shrunk, []
        return shrunk

    # -- inside ---------------------------------------------------------------------------------

    def _victim(self, blocks: int) -> tuple[Node, int]:
        """What the policy gives up; PlanError if that cannot go."""
        node, count = self.policy.victim(blocks)
        if not 0 < count <= node.stop - node.start:
            raise PlanError(f"victim: expected 1 to {node.blocks} blocks of its leaf, got {count}")
        if not node.reclaimable:
            raise PlanError("victim: expected a leaf that nobody holds, and that is still cached")
        return node, count

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

    def _retain(self, request: Request, node: Node, above: Node | None) -> None:
        """Tell the policy whose the path from below `above` to `node` is."""
        assert self._retention is not None
        step, parent = node, node.parent
        while parent is not None and step is not above:
            self._retention.retain(step, request)
            step, parent = parent, parent.parent

    def _covered(self, child: Node, matched: int, request: Request) -> Node:
        """The part of a child up to block `matched`, which a sequence has computed, too.

        Where it had fewer bits than the request may have, it is the sequence's from now on.
        """
        node = self._split(child, matched) if matched < child.stop else child
        if node.bits < request.slo_class.min_kv_bits:
            if node.on_device:
                self.pool.count_small(node.bits, 0, -node.blocks)
            self.set_bits(node, 16)
        return node

    def _lock(self, node: Node, above: Node | None) -> None:
        """Add one reference to `node` and its ancestors, `above` (already locked) excluded."""
        pool = self.pool
        step, parent = node, node.parent
        while parent is not None and step is not above:
            blocks = step.stop - step.start
            if not step.refs:
                if step.on_device:
                    pool.cached -= blocks
                pool.referenced += blocks
                if step.bits < 16:
                    pool.count_small(step.bits, blocks, -blocks if step.on_device else 0)
                self.locked_blocks += blocks
            else:
                self.shared_again += blocks
            step.refs += 1
            step, parent = parent, parent.parent

    def _add(self, parent: Node, keys: tuple[Key, ...], stop: int) -> Node:
        run = self._run(keys, parent.stop, stop, parent.hash_tokens)
        node = Node(parent, run, parent.stop, stop, parent.hash_tokens)
        parent.children[run[0]] = node
        parent.device_children += 1
        self.pool.cached += node.blocks  # `_lock` moves them to `referenced`
        return node

    def _may_extend(self, node: Node) -> bool:
        """True if the edge is the inserting sequence's alone, and may grow."""
        alone = node.refs == 1 and node.bits == 16 and not (node.children or node.on_host)
        return alone and self._grow_edges

    def _extend(self, node: Node, keys: tuple[Key, ...], stop: int) -> None:
        """Lengthen an edge that only the inserting sequence holds."""
        self.locked_blocks += stop - node.stop
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
        if node.answer:
            return node.keys
        base = self._key_index(node.start, node.hash_tokens)
        first = self._key_index(start, node.hash_tokens) - base
        return node.keys[first : self._key_index(stop - 1, node.hash_tokens) - base + 1]

    def _split(self, node: Node, stop: int) -> Node:
        """Cut an edge at block `stop`; the given node stays the lower part. Returns the upper."""
        parent = node.parent
        assert parent is not None and node.start < stop < node.stop
        keys = self._cut(node, node.start, stop)
        upper = Node(parent, keys, node.start, stop, node.hash_tokens)
        upper.refs, upper.hits, upper.priority = node.refs, node.hits, node.priority
        upper.note, upper.last_access_s = node.note, node.last_access_s
        upper.on_device, upper.on_host = node.on_device, node.on_host
        upper.loading = node.loading
        upper.bits, upper.floor_bits = node.bits, node.floor_bits
        upper.device_children = int(node.on_device)
        parent.children[keys[0]] = upper
        node.keys = self._cut(node, stop, node.stop)
        node.start = stop
        node.parent = upper
        upper.children[node.keys[0]] = node
        if self.placement is not None:
            self.placement.split(upper, node)
        return upper

    def _uncache(self, node: Node, blocks: int) -> None:
        """So many blocks of an unreferenced node leave the device."""
        self.pool.cached -= blocks
        if node.bits < 16:
            self.pool.count_small(node.bits, 0, -blocks)

    def _shrink(self, leaf: Node, start: int, stop: int, bits: int) -> int:
        """Blocks of a cached leaf get so many bits; returns for how many blocks of 16 bits that
        makes room.
        """
        if start > leaf.start:
            self._split(leaf, start)
        node = self._split(leaf, stop) if stop < leaf.stop else leaf
        before, room = node.bits, self.pool.total
        if before < 16:
            self.pool.count_small(before, 0, -node.blocks)
        self.pool.count_small(bits, 0, node.blocks)
        self.set_bits(node, bits)
        if self.placement is not None:
            self.placement.shrunk(node, before, bits)
        self._shrunk.append(Shrunk(node.blocks, before, bits))
        self.policy.unused(leaf)
        return self.pool.total - room

    def _trim(self, node: Node, blocks: int) -> None:
        """Drop the last `blocks` blocks of an unreferenced leaf."""
        if self.placement is not None:
            self.placement.trimmed(node, blocks)
        self._uncache(node, blocks)
        parent = node.parent
        assert parent is not None and node.reclaimable
        if blocks < node.blocks:
            node.keys = self._cut(node, node.start, node.stop - blocks)
            node.stop -= blocks
            self.policy.unused(node)
            return
        del parent.children[node.keys[0]]
        parent.device_children -= 1
        node.parent = None
        if parent.reclaimable:
            self.policy.unused(parent)
