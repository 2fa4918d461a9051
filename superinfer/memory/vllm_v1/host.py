"""The host's blocks in vLLM's offloading: which are there, and which are in use.

Source: vLLM 0.33.0, `vllm/v1/kv_offload/cpu/manager.py` (`CPUOffloadingManager`); which go first
stands in `orders.py`. The rules:

* What a request wants to store and is not there yet gets room all or nothing. Idle blocks make way
  in the order of the policy; those that are being written or read do not, nor does anything else
  that the request offered with it. If they are too few, nothing is stored.
* A block that is being written is there, but cannot be read yet.

Left out: the tracker of `store_threshold` (off by default there), the calls of other tiers and
failed copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from collections.abc import Set as AbstractSet

from superinfer.memory.blocks.pool import HostPool
from superinfer.memory.index.keys import Key
from superinfer.memory.vllm_v1.orders import WRITING, Copy, CopyOrder, User


class HostBlocks:
    """The copies on the host. It keeps the pool's `cached` count."""

    def __init__(self, host: HostPool, order: CopyOrder) -> None:
        self.host = host
        self.order = order
        self.idle_blocks = 0
        """Copies that nobody writes or reads."""

    def get(self, key: Key) -> Copy | None:
        """The copy of a block, if there is one, readable or not."""
        return self.order.get(key)

    def reserve(self, user: User, start: int, keys: Items[Key]) -> list[Key] | None:
        """Room for those of a request's blocks from `start` on that are not there: returns which
        these are, or None if there is not enough room.
        """
        copies = [self.order.get(key) for key in keys]
        new = [key for key, copy in zip(keys, copies, strict=True) if copy is None]
        ready = [copy.key for copy in copies if copy is not None and copy.refs != WRITING]
        missed = [key for key in new if key not in user.missed]
        self.order.missed(missed)
        user.missed.update(missed)
        self._note(user, start, keys, {*new, *ready})
        user.reused.update(key for key in ready if key not in user.inserted)
        if new and not self._make_room(len(new), set(keys)):
            return None
        for key in new:
            self.order.insert(Copy(key, user.seen[key]), user)
        self.host.cached += len(new)
        user.inserted.update(new)
        return new

    def written(self, keys: Iterable[Key]) -> None:
        """They can be read from now on."""
        for key in keys:
            copy = self._copy(key)
            copy.refs = 0
            self.idle_blocks += 1

    def pin(self, user: User, start: int, keys: Items[Key]) -> None:
        """A request reads its blocks from `start` on, which are readable."""
        for key in keys:
            copy = self._copy(key)
            if not copy.refs:
                self.idle_blocks -= 1
            copy.refs += 1
        self._note(user, start, keys, set(keys))
        user.reused.update(key for key in keys if key not in user.inserted)

    def unpin(self, keys: Iterable[Key]) -> None:
        """They have been read."""
        for key in keys:
            copy = self._copy(key)
            copy.refs -= 1
            if not copy.refs:
                self.idle_blocks += 1

    def leave(self, user: User) -> None:
        """A request has ended."""
        self.order.left(sorted(user.seen, key=user.seen.__getitem__), user)

    # -- inside ---------------------------------------------------------------------------------

    def _copy(self, key: Key) -> Copy:
        copy = self.order.get(key)
        assert copy is not None
        return copy

    def _note(self, user: User, start: int, keys: Items[Key], which: AbstractSet[Key]) -> None:
        """The request uses `which` of its blocks from `start` on."""
        fresh = []
        for index, key in enumerate(keys, start):
            if key in which and key not in user.seen:
                user.seen[key] = index
                fresh.append(key)
        if fresh:
            self.order.used(fresh, user)

    def _make_room(self, blocks: int, offered: AbstractSet[Key]) -> bool:
        short = blocks - self.host.cache_free
        if short <= 0:
            return True
        victims = self.order.evict(short, offered) if short <= self.idle_blocks else None
        if victims is None:
            return False
        self.idle_blocks -= short
        self.host.cached -= short
        return True
