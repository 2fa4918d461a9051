"""Pins: the most valuable leaves keep their rank for a while, whatever their age does to it."""

from __future__ import annotations

from typing import Final

from superinfer.heaps import FEWEST, heappop, heappush, keep
from superinfer.memory.index.node import Node

EQUAL_SHARES: Final[dict[int, float]] = {16: 1.0, 8: 1.0, 4: 1.0}
"""Where a block takes the same room at every precision."""


class Pin:
    """One pinned leaf."""

    __slots__ = ("path", "until_s", "value")

    def __init__(self, value: float, until_s: float, path: list[Node]) -> None:
        self.value, self.until_s = value, until_s
        """What it was worth when it was pinned, and how long it stays so."""
        self.path = path
        """What it holds in place: itself and what is above."""


class Pins:
    """A bounded set of leaves by value; a better one takes the place of the lowest.

    A pinned leaf holds what is above it, so that counts as pinned, too, once for all its leaves.
    Room is counted in blocks of 16 bits, of which one of fewer bits takes a part.
    """

    def __init__(
        self, most_blocks: int, ttl_s: float, shares: dict[int, float] = EQUAL_SHARES
    ) -> None:
        """`shares` of the room of a block of 16 bits, by the bits of a block."""
        self._most_blocks, self._ttl_s, self._shares = most_blocks, ttl_s, shares
        self._pinned: dict[Node, Pin] = {}
        self._order: list[tuple[float, int, int, Node, Pin]] = []
        self._ends: list[tuple[float, int, Node, Pin]] = []
        self._held: dict[Node, tuple[int, float]] = {}
        """For each node above or at a pinned leaf: how many of these, and the room that it took
        then."""
        self._most = FEWEST
        """With more entries by value than this, those of lapsed pins are looked for."""
        self._entered = 0
        self.blocks = self.peak_blocks = 0.0
        """Room that is pinned, and the most that was."""
        self.made = self.expired = 0

    def __contains__(self, node: Node) -> bool:
        return node in self._pinned

    def offer(self, node: Node, value: float, now: float) -> tuple[bool, list[Node]]:
        """Pin a leaf if there is room, or if it is worth more than what makes room for it.

        Returns whether it is pinned, and the leaves that lost their pins.
        """
        until_s = node.last_access_s + self._ttl_s
        if value <= 0.0 or until_s <= now or node in self._pinned:
            return False, []
        path = node.path()
        room, lost = self._make_room(path, value)
        if room:
            self._pin(node, Pin(value, until_s, path))
        return room, lost

    def drop(self, node: Node) -> None:
        """A pinned leaf is used again, or goes."""
        pin = self._pinned.pop(node, None)
        if pin is None:
            return
        for step in pin.path:
            leaves, room = self._held[step]
            if leaves > 1:
                self._held[step] = leaves - 1, room
                continue
            del self._held[step]
            self.blocks = self.blocks - room if self._held else 0.0  # rounding ends with the last

    def due(self, now: float) -> bool:
        """Whether the time of any may be over."""
        return bool(self._ends) and self._ends[0][0] <= now

    def lapsed(self, now: float) -> list[Node]:
        """Leaves whose time is over; they are pinned no longer."""
        ends, found = self._ends, []
        while ends and ends[0][0] <= now:
            _, _, node, pin = heappop(ends)
            if self._pinned.get(node) is pin:
                self.drop(node)
                self.expired += 1
                found.append(node)
        return found

    def pop(self) -> Node | None:
        """Take the lowest leaf: nothing else is left."""
        pin = self._lowest()
        if pin is None:
            return None
        node = pin.path[0]
        self.drop(node)
        return node

    def clear(self) -> list[Node]:
        """Give up all pins; returns the leaves."""
        nodes = list(self._pinned)
        for node in nodes:
            self.drop(node)
        return nodes

    # -- inside ---------------------------------------------------------------------------------

    def _make_room(self, path: list[Node], value: float) -> tuple[bool, list[Node]]:
        """Whether there is room for one more leaf, and who had to go for it."""
        lost: list[Node] = []
        if self._room(path[0]) > self._most_blocks:
            return False, lost
        while self.blocks + self._need(path) > self._most_blocks:
            lowest = self._lowest()
            if lowest is None or lowest.value >= value:
                return False, lost
            lost.append(lowest.path[0])
            self.drop(lowest.path[0])
        return True, lost

    def _room(self, node: Node) -> float:
        """What the blocks of a node take, in blocks of 16 bits."""
        return node.blocks * self._shares[node.bits]

    def _need(self, path: list[Node]) -> float:
        """Room of what no pinned leaf holds so far."""
        need, held = 0.0, self._held
        for step in path:
            if step not in held:
                need += self._room(step)
        return need

    def _pin(self, node: Node, pin: Pin) -> None:
        for step in pin.path:
            held = self._held.get(step)
            if held is None:
                room = self._room(step)
                self._held[step] = 1, room
                self.blocks += room
            else:
                self._held[step] = held[0] + 1, held[1]
        self._pinned[node] = pin
        self._entered -= 1  # breaks ties, so that nodes are never compared
        heappush(self._order, (pin.value, -node.stop, self._entered, node, pin))
        heappush(self._ends, (pin.until_s, self._entered, node, pin))
        self.made += 1
        self.peak_blocks = max(self.peak_blocks, self.blocks)
        if len(self._order) > self._most:
            # Without lapsed pins: the best would wait for ever to come to the top.
            kept = [entry for entry in self._order if self._pinned.get(entry[3]) is entry[4]]
            self._most = keep(self._order, kept)

    def _lowest(self) -> Pin | None:
        order = self._order
        while order:
            _, _, _, node, pin = order[0]
            if self._pinned.get(node) is pin:
                if node.reclaimable:
                    return pin
                self.drop(node)
            heappop(order)
        return None
