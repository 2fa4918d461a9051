"""Prefix index: the radix tree of prompts, with references, insertion and reclamation.

Blocks on the path of a live sequence are locked; all others are kept until the memory policy gives
them up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from superinfer.errors import PlanError
from superinfer.memory.base import CachedLadder, Retention, WholeEdges
from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.index.keys import ANSWER, Key
from superinfer.memory.index.node import Node
from superinfer.memory.index.tree import RadixTree
from superinfer.request import Request
from superinfer.settings import shown_value

if TYPE_CHECKING:
    from superinfer.memory.base import LeafOrder


class Shrunk(NamedTuple):
    """Cached blocks that lost bits."""

    blocks: int
    from_bits: int
    to_bits: int


class PrefixIndex(RadixTree):
    """The tree of one replica. It keeps the pool's `cached` and `referenced` counts."""

    def __init__(self, pool: BlockPool, block_tokens: int, policy: LeafOrder) -> None:
        super().__init__(block_tokens)
        self.pool = pool
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

    def match(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> tuple[int, int]:
        """Blocks of the longest cached prefix, and how many of them no live sequence holds."""
        node, unreferenced = self.root(request), 0
        while node.stop < limit_blocks:
            child, matched = self.descend(node, keys, limit_blocks)
            if child is None or child.bits < request.slo_class.min_kv_bits:
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
            child, matched = self.descend(current, keys, stop_blocks)
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
        """Drop cached blocks, or let them lose bits where the policy says so, until that makes the
        room of `blocks` of 16 bits; returns what was dropped.
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
            expected = f"expected 1 to {node.blocks} blocks of its leaf"
            raise PlanError(f"victim: {expected}, got {shown_value(count)}")
        if not node.reclaimable:
            raise PlanError("victim: expected a leaf that nobody holds, and that is still cached")
        return node, count

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
        node = self.cut(child, matched) if matched < child.stop else child
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
        run = self.keys_of(keys, parent.stop, stop, parent.hash_tokens)
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
        node.keys = self.keys_of(keys, node.start, stop, node.hash_tokens)

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
            self.cut(leaf, start)
        node = self.cut(leaf, stop) if stop < leaf.stop else leaf
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
            node.keys = self.keys_within(node, node.start, node.stop - blocks)
            node.stop -= blocks
            self.policy.unused(node)
            return
        del parent.children[node.keys[0]]
        parent.device_children -= 1
        node.parent = None
        if parent.reclaimable:
            self.policy.unused(parent)
