"""The prefix index with a second tier: cached blocks may live on the host and be loaded back.

A node is on the device, on the host, or on both. What is above a node on the device is on the
device, so what a prompt finds is a stretch of device blocks and then one of host blocks. A block
that leaves the device stays findable if it has a copy or gets one now; otherwise it goes, and with
it all that the host keeps below it. The policy decides (`memory.base.HostTier`); the engine asks
which blocks have to move and books them as copies. A copy ahead counts from its start.
"""

from __future__ import annotations

from superinfer.memory.base import HostTier, LeafOrder, LoadChoice
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.blocks.slabs import NO_BLOCKS, NO_SMALL, Blocks, Small, added, small_of
from superinfer.memory.index.keys import Key
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.request import Request


class TieredIndex(PrefixIndex):
    """It keeps the host pool's `cached` count beside those of the device."""

    def __init__(
        self,
        pool: BlockPool,
        host: HostPool,
        block_tokens: int,
        policy: LeafOrder,
        tier: HostTier,
    ) -> None:
        super().__init__(pool, block_tokens, policy)
        self.host = host
        self.tier = tier
        self._choice = tier if isinstance(tier, LoadChoice) else None
        self.notes_hits = True
        self._evicted = NO_BLOCKS
        self._backed_up = NO_BLOCKS

    # -- copies to the host ---------------------------------------------------------------------

    def take_evicted(self) -> Blocks:
        """Blocks that were copied to the host because they left the device, since last asked."""
        blocks, self._evicted = self._evicted, NO_BLOCKS
        return blocks

    def take_backed_up(self) -> Blocks:
        """Blocks that got a copy while they stay on the device, since last asked."""
        blocks, self._backed_up = self._backed_up, NO_BLOCKS
        return blocks

    def hit(self, request: Request, node: Node) -> None:
        """The request was admitted with the path to `node`, each part of which counts a hit."""
        super().hit(request, node)
        step, parent = node, node.parent
        while parent is not None:
            self._hit(step)
            step, parent = parent, parent.parent

    # -- copies back ----------------------------------------------------------------------------

    def match(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> tuple[int, int]:
        """Blocks of the longest cached prefix, and how many of them no live sequence holds; with
        those on the host, which none does, if they are enough for a copy back.
        """
        node, stop, unreferenced = self.root(request), 0, 0
        on_device, small = (0, 0), NO_SMALL
        while node.stop < limit_blocks:
            child, matched = self.descend(node, keys, limit_blocks)
            if child is None or child.loading or child.bits < request.slo_class.min_kv_bits:
                break
            if not child.refs:
                unreferenced += matched - child.start
            stop = matched
            if child.on_device:
                on_device = stop, unreferenced
            elif child.bits < 16:
                small = added(small, small_of(child.bits, matched - child.start))
            if matched < child.stop:
                break
            node = child
        return (stop, unreferenced) if self._loads(on_device[0], stop, small) else on_device

    def touch(self, node: Node, now: float) -> None:
        """Count a look-up as a use of the path to `node`, on both tiers."""
        super().touch(node, now)
        self._announce(node)  # only the deepest node of a path can be a leaf

    def load(self, node: Node) -> Blocks:
        """Bring the end of a path that was just locked to the device; returns its blocks.

        The lock has taken device blocks for them. The copies on the host stay until `keep_loaded`.
        """
        blocks = NO_BLOCKS
        for step in node.path():
            if step.on_device:
                break
            self._count_on_device(step, True)
            step.loading = self.tier.load_timing == "background"
            blocks = blocks.plus(step.bits, step.blocks)
        return blocks

    def unload(self, node: Node, blocks: int) -> None:
        """Undo `load`, the path being unlocked again."""
        for step in node.path():
            if not blocks:
                break
            blocks -= step.blocks
            self._count_on_device(step, False)
            step.loading = False
            self._uncache(step, step.blocks)
            self._announce(step)
        if step.reclaimable:
            self.policy.unused(step)

    def keep_loaded(self, node: Node) -> None:
        """What `load` brought to the device is there to stay."""
        if not self.tier.exclusive:
            return
        step, parent = node, node.parent
        while parent is not None:
            if step.on_host:
                self._forget_copy(step)
            step, parent = parent, parent.parent

    def landed(self, node: Node) -> None:
        """A copy back in the background is over."""
        for step in node.path():
            step.loading = False

    # -- what the tree does otherwise -----------------------------------------------------------

    def insert(
        self, request: Request, keys: tuple[Key, ...], node: Node | None, stop_blocks: int
    ) -> tuple[Node | None, int]:
        """Turn private blocks into shared ones; computing them counts as a hit on them."""
        last, moved = super().insert(request, keys, node, stop_blocks)
        if last is not None:
            for step in last.path():
                if step is node:
                    break
                self._hit(step)
        return last, moved

    def add_answer(
        self, request: Request, node: Node | None, blocks: int, now: float, bits: int = 16
    ) -> Node:
        """Keep blocks of generated text below `node`; that counts as a hit on them."""
        leaf = super().add_answer(request, node, blocks, now, bits)
        self._hit(leaf)
        return leaf

    def set_bits(self, node: Node, bits: int) -> None:
        """The blocks of a node have so many bits now; a copy on the host has others, and goes."""
        if node.on_host:
            self._forget_copy(node)
        super().set_bits(node, bits)

    def reclaim_host(self, blocks: int) -> int:
        """Drop up to `blocks` host blocks in the policy's order; returns how many."""
        dropped = 0
        while dropped < blocks:
            victim = self.tier.host_victim(blocks - dropped)
            if victim is None:
                break
            self._trim_host(*victim)
            dropped += victim[1]
        return dropped

    def _covered(self, child: Node, matched: int, request: Request) -> Node:
        """Blocks that were on the host alone are on the device now that they were computed."""
        node = super()._covered(child, matched, request)
        if not node.on_device:
            if self.tier.exclusive or node.bits < 16:
                self.set_bits(node, 16)
            self._count_on_device(node, True)
            self.pool.cached += node.blocks
        return node

    def _trim(self, node: Node, blocks: int) -> None:
        """Take the last `blocks` blocks of an unreferenced leaf off the device."""
        if node.on_host:
            self._move_to_host(node, blocks)
        elif self.tier.keep(node):
            self._write_back(node, blocks)
        else:
            self._drop(node, blocks)

    # -- inside ---------------------------------------------------------------------------------

    def _loads(self, start: int, stop: int, small: Small) -> bool:
        """Whether a stretch on the host is worth a copy back, if there is one."""
        if stop == start or (stop - start) * self.block_tokens < self.tier.load_min_tokens:
            return False
        return self._choice is None or self._choice.loads(start, stop, small)

    def _hit(self, node: Node) -> None:
        node.hits += 1
        if node.on_host or not self.tier.write_through(node):
            return
        if self._make_room(node):
            self._note_copy(node)
            self._backed_up = self._backed_up.plus(node.bits, node.blocks)
            if self.placement is not None:
                self.placement.backed_up(node)

    def _make_room(self, node: Node) -> bool:
        """True if the host can take all of a node, older ones having made way."""
        if self._whole(node.blocks, node.bits) > self.host.cache_total:
            return False
        while (short := node.blocks - self.host.cache_room(node.bits)) > 0:
            if not self.reclaim_host(self._whole(short, node.bits)):
                return False
        return True

    def _whole(self, blocks: int, bits: int) -> int:
        """So many blocks as ones of 16 bits, one at least."""
        sizes = self.host.sizes
        return max(1, blocks * sizes.of(bits) // sizes.bytes_16)

    def _write_back(self, node: Node, blocks: int) -> None:
        """Copy the last `blocks` blocks of a device leaf to the host.

        As if they went one by one, the last one first: where the host is full, each takes the place
        of what is then the first to go there, maybe of one that has just come.
        """
        below: Node | None = None
        while blocks:
            room = min(blocks, self.host.cache_room(node.bits))
            if room:
                below, node = node, self._move_to_host(node, room)
                blocks -= room
                continue
            wanted = self._whole(blocks, node.bits) if below is not None else 1
            victim = self.tier.host_victim(wanted)
            if victim is None:
                self._drop(node, blocks)
                return
            if victim[0] is below and blocks > below.blocks:
                # Each of the rest drives out the one before: only the last ones stay.
                passing = blocks - below.blocks
                self._trim_host(below, below.blocks)
                self._drop(node, passing)
                self._evicted = self._evicted.plus(node.bits, passing)
                blocks -= passing
            else:
                self._trim_host(*victim)

    def _drop(self, node: Node, blocks: int) -> None:
        """Forget the last `blocks` blocks of a device leaf, and all that the host keeps below."""
        self._drop_below(node)
        super()._trim(node, blocks)

    def _move_to_host(self, node: Node, blocks: int) -> Node:
        """The last `blocks` blocks of a device leaf, as `node`, are on the host alone from now on.
        Returns its parent, which has the others.
        """
        if blocks < node.blocks:
            self.cut(node, node.stop - blocks)  # `node` is the lower part
        parent = node.parent
        assert parent is not None
        if self.placement is not None:
            self.placement.moved_to_host(node)
        self._count_on_device(node, False)
        self._uncache(node, blocks)
        if not node.on_host:
            self._note_copy(node)
            self._evicted = self._evicted.plus(node.bits, blocks)
        self._join(node)
        self._announce(node)
        if parent.reclaimable:
            self.policy.unused(parent)
        return parent

    def _join(self, node: Node) -> None:
        """Make one edge of two that left the device one after the other: a tree that is evicted
        block by block has no more nodes than one evicted at once.
        """
        if len(node.children) != 1:
            return
        (child,) = node.children.values()
        for name in ("last_access_s", "priority", "note", "hits", "answer", "bits", "floor_bits"):
            if getattr(node, name) != getattr(child, name):
                return
        hash_tokens = node.hash_tokens
        last, first = (self._key_index(at, hash_tokens) for at in (node.stop - 1, child.start))
        if first > last + 1:
            return  # of ids shorter than a block, those between two edges are kept by neither
        if self.placement is not None:
            self.placement.joined_on_host(node, child)
        shared = node.keys[-1] == child.keys[0]
        node.keys = node.keys + child.keys[1:] if shared else node.keys + child.keys
        node.stop, node.children = child.stop, child.children
        child.parent = None
        for grandchild in node.children.values():
            grandchild.parent = node

    def _trim_host(self, node: Node, blocks: int) -> None:
        """Drop the last `blocks` blocks of a leaf that is on the host alone."""
        if self.placement is not None:
            self.placement.dropped_on_host(node, blocks)
        self.host.cache(-blocks, node.bits)
        parent = node.parent
        assert parent is not None and node.host_reclaimable
        if blocks < node.blocks:
            node.keys = self.keys_within(node, node.start, node.stop - blocks)
            node.stop -= blocks
            self._announce(node)
            return
        del parent.children[node.keys[0]]
        node.parent = None
        self._announce(parent)

    def _drop_below(self, node: Node) -> None:
        """Forget all that the host keeps below a device leaf."""
        below = list(node.children.values())
        node.children.clear()
        while below:
            lost = below.pop()
            if self.placement is not None:
                self.placement.dropped_on_host(lost, lost.blocks)
            self.host.cache(-lost.blocks, lost.bits)
            lost.parent = None
            below.extend(lost.children.values())

    def _announce(self, node: Node) -> None:
        if node.host_reclaimable:
            self.tier.host_unused(node)

    def _count_on_device(self, node: Node, on_device: bool) -> None:
        node.on_device = on_device
        assert node.parent is not None
        node.parent.device_children += 1 if on_device else -1

    def _note_copy(self, node: Node) -> None:
        node.on_host = True
        self.host.cache(node.blocks, node.bits)

    def _forget_copy(self, node: Node) -> None:
        if self.placement is not None:
            self.placement.dropped_on_host(node, node.blocks)
        node.on_host = False
        self.host.cache(-node.blocks, node.bits)
