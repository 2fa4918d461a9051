"""A node of the prefix tree: a run of blocks that follow one another in prompts."""

from __future__ import annotations

from typing import Any

from superinfer.memory.index.keys import Key, is_answer


class Node:
    """Blocks `[start, stop)` of every prompt that begins with the path to here."""

    __slots__ = (
        "answer",
        "bits",
        "children",
        "device_children",
        "floor_bits",
        "hash_tokens",
        "hits",
        "keys",
        "last_access_s",
        "loading",
        "note",
        "on_device",
        "on_host",
        "parent",
        "priority",
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
        self.answer = bool(keys) and is_answer(keys[0])
        """True if it holds generated text, which has one key for all blocks."""
        self.start = start
        self.stop = stop
        self.children: dict[Key, Node] = {}
        self.refs = 0
        """Live sequences whose path goes through this node."""
        self.bits = 16
        """Of each value in its blocks."""
        self.floor_bits = 0
        """The fewest that all who used it allow, where a memory policy keeps account of that."""
        self.last_access_s = 0.0
        self.priority: int | None = None
        """What a memory policy noted of it; both parts of a cut edge keep it."""
        self.note: Any = None
        """The same for a policy that has more to say."""
        # Where its blocks are; without a host tier (`index.tiered`) always on the device alone.
        self.on_device = True
        self.on_host = False
        self.loading = False
        """True while a background copy brings it back to the device."""
        self.device_children = 0
        """Children on the device: all that is below a node on the host alone is there, too."""
        self.hits = 0
        """Times that it was computed or found, counted by a host tier."""

    @property
    def blocks(self) -> int:
        """Blocks of this edge alone."""
        return self.stop - self.start

    @property
    def reclaimable(self) -> bool:
        """True if its device blocks are needed by no live sequence and no longer prefix."""
        idle = not self.refs and not self.device_children
        return idle and self.on_device and self.parent is not None

    @property
    def host_reclaimable(self) -> bool:
        """True if it is on the host alone and no longer prefix needs it."""
        return not self.on_device and not self.children and self.parent is not None

    def path(self) -> list[Node]:
        """This node and its ancestors, the root excluded."""
        path: list[Node] = []
        step, parent = self, self.parent
        while parent is not None:
            path.append(step)
            step, parent = parent, parent.parent
        return path
