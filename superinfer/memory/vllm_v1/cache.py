"""The prefix cache of vLLM's V1 engine, block by block.

Source: vLLM 0.33.0, `vllm/v1/core/block_pool.py` (`BlockPool`, `BlockHashToBlockMap`),
`vllm/v1/core/single_type_kv_cache_manager.py` (`FullAttentionManager`),
`vllm/v1/core/kv_cache_manager.py`. Its rules, each modelled here:

* Blocks are chained by hash at block granularity. A block is findable from the moment its tokens
  are scheduled, so later requests of the same step share it.
* Equal blocks are not merged: two requests that compute the same text at the same time keep one
  block each, and the one that came first is found.
* Free blocks form a queue. A request gives its blocks back last block first; those with a hash go
  to the tail and those without to the head. New blocks are taken from the head: empty blocks first,
  then the ones freed longest ago, and of one request the deepest first.
* At most all tokens but one are taken from the cache.
* A request that is preempted in the step that has just scheduled it leaves the blocks of that step
  findable, though nothing has computed them.
* Output is hashed too. Of a preempted request it is found again when that request comes back. Text
  of an answer has no content ids in a trace, so nobody else can ask for it: what a finished request
  leaves behind beyond its prompt only takes its place in the queue, as one entry.

As empty blocks always come first they need no place in the queue; the pool counts them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Items
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.index.keys import Key

if TYPE_CHECKING:
    from superinfer.request import Request
    from superinfer.sequence import Sequence

_STRIDE: Final = 64
"""Blocks that a look-up asks for before it sees whether the first ones were there."""


class Block:
    """A block with a hash, in use or free; or, with no key, a run of free ones nobody asks for."""

    __slots__ = ("blocks", "key", "number", "place", "refs")

    def __init__(self, key: Key | None, number: int, refs: int, blocks: int = 1) -> None:
        self.key = key
        self.number = number
        """Which of equal blocks came first."""
        self.refs = refs
        self.blocks = blocks
        """How many there are: 0 once it was reclaimed."""
        self.place = 0
        """Place in the queue of free blocks, 0 while in use."""


class Table:
    """The blocks with a hash that one sequence holds, from its first token on."""

    __slots__ = ("blocks", "found_places", "number", "own")

    def __init__(self, number: int) -> None:
        self.number = number
        """Which admission this was: the running queue is in this order."""
        self.blocks: list[Block] = []
        self.found_places: list[int] = []
        """Where those that were found at admission were queued."""
        self.own: list[Block] = []
        """Blocks of the request's own text that its preemption left in the cache."""

    @property
    def stop(self) -> int:
        """Blocks held."""
        return len(self.blocks)


class BlockCache:
    """Blocks by content, and the queue of the free ones (an `EagerCache`)."""

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        self.pool = pool
        self.block_tokens = block_tokens
        self.shared_again = 0
        """References to blocks beside the first one of each."""
        self._found: dict[Key, list[Block]] = {}
        """Blocks of each content, in the order in which they came."""
        self._queue: OrderedDict[Block, None] = OrderedDict()
        """Free blocks by place; the first goes next."""
        self._roots: dict[tuple[str, int], int] = {}
        """Numbers of the namespaces (with their sizes of content ids)."""
        self._counter = 0
        self._latest: tuple[int, int, list[Block]] | None = None
        """Request, limit and result of the latest look-up, while it holds."""

    # -- look-ups and locks -----------------------------------------------------------------------

    def block_name(self, request: Request, keys: tuple[Key, ...], block: int) -> object:
        """Its content, chained with all that comes before."""
        return self._keys(request, keys, block, block + 1)[0]

    def match(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> tuple[int, int]:
        """Blocks of the longest cached prefix, and how many of them no live sequence holds."""
        blocks = self._prefix(request, keys, limit_blocks)
        return len(blocks), sum(not block.refs for block in blocks)

    def acquire(
        self, request: Request, keys: tuple[Key, ...], limit_blocks: int
    ) -> tuple[Table, int]:
        """Lock the longest cached prefix; the table is there even if nothing was found."""
        table = self._table()
        table.blocks = self._prefix(request, keys, limit_blocks)
        table.found_places = [block.place for block in table.blocks]
        for block in table.blocks:
            self._lock(block)
        return table, len(table.blocks)

    def unlock(self, table: Table) -> None:
        """Undo `acquire`: free blocks go back to where they were queued."""
        for block, place in zip(table.blocks, table.found_places, strict=True):
            block.refs -= 1
            if not block.refs:
                self.pool.referenced -= 1
                self.pool.cached += 1
                block.place = place
                self._queue[block] = None
            else:
                self.shared_again -= 1
        if any(table.found_places):
            self._queue = OrderedDict.fromkeys(sorted(self._queue, key=lambda b: b.place))

    def release(self, table: Table, now: float) -> None:
        """The sequence left: blocks that nobody else holds go to the tail, the last one first."""
        freed = 0
        for block in reversed(table.blocks):
            block.refs -= 1
            if not block.refs:
                self._enqueue(block)
                freed += 1
            else:
                self.shared_again -= 1
        self.pool.referenced -= freed
        self.pool.cached += freed

    def relock(self, table: Table) -> None:
        """Undo `release`, and `add_own` before it."""
        for block in table.own:
            self._forget(block)
            del self._queue[block]
            self.pool.cached -= 1
        table.own = []
        for block in table.blocks:
            self._lock(block)

    # -- coming and going -------------------------------------------------------------------------

    def insert(
        self, request: Request, keys: tuple[Key, ...], table: Table | None, stop_blocks: int
    ) -> tuple[Table | None, int]:
        """Give a sequence's next blocks, up to `stop_blocks` of its prompt, their hashes."""
        if not keys:
            return table, 0
        if table is None:
            table = self._table()
        new = self._keys(request, keys, table.stop, stop_blocks)
        for key in new:
            self._counter += 1
            block = Block(key, self._counter, 1)
            self._register(block)
            table.blocks.append(block)
        return table, len(new)

    def unpublish(self, table: Table, blocks: int) -> None:
        """Undo an `insert` of so many blocks."""
        for _ in range(blocks):
            self._forget(table.blocks.pop())

    def add_answer(
        self, request: Request, table: Table | None, blocks: int, now: float
    ) -> Block | None:
        """Queue the blocks that an ended request filled beyond its hashed prompt, as one entry."""
        run = Block(None, 0, 0, blocks)
        self._enqueue(run)
        self.pool.cached += blocks
        return run

    def add_own(self, request: Request, table: Table, blocks: int) -> None:
        """Queue a preempted request's own blocks, the last first; it can find them again."""
        for index in range(table.stop + blocks - 1, table.stop - 1, -1):
            self._counter += 1
            block = Block((request.index, index), self._counter, 0)
            self._register(block)
            self._enqueue(block)
            table.own.append(block)
        self.pool.cached += blocks

    def reclaim(self, blocks: int) -> list[tuple[Block, int]]:
        """Empty so many blocks from the head of the queue."""
        taken, queue = [], self._queue
        self.pool.cached -= blocks
        while blocks > 0:
            block = next(iter(queue))
            count = block.blocks if block.blocks < blocks else blocks
            block.blocks -= count
            if not block.blocks:
                del queue[block]
            if block.key is not None:
                self._forget(block)
            taken.append((block, count))
            blocks -= count
        return taken

    def restore(self, taken: Items[tuple[Block, int]]) -> None:
        """Undo `reclaim`."""
        for block, count in reversed(taken):
            block.blocks += count
            self.pool.cached += count
            self._queue[block] = None
            self._queue.move_to_end(block, last=False)
            if block.key is not None:
                self._register(block)

    def end_order(self, seq: Sequence) -> tuple[int, int]:
        """In the order of the running queue, which is that of admission."""
        table = seq.node
        return (table.number if isinstance(table, Table) else 0, seq.request.index)

    def nodes(self) -> Iterator[Block]:
        """Every block and run, each once (for checks)."""
        yield from (block for equal in self._found.values() for block in equal)
        yield from (block for block in self._queue if block.key is None)

    # -- inside -----------------------------------------------------------------------------------

    def _prefix(self, request: Request, keys: tuple[Key, ...], limit_blocks: int) -> list[Block]:
        latest = self._latest
        if latest is not None and latest[0] == request.index and limit_blocks <= latest[1]:
            return latest[2][:limit_blocks]
        blocks: list[Block] = []
        for start in range(0, limit_blocks, _STRIDE):
            stop = min(limit_blocks, start + _STRIDE)
            equal = map(self._found.get, self._keys(request, keys, start, stop))
            blocks += [copies[0] for copies in takewhile(bool, equal) if copies]
            if len(blocks) < stop:
                break
        self._latest = (request.index, limit_blocks, blocks)
        return blocks[:]

    def _keys(self, request: Request, keys: tuple[Key, ...], start: int, stop: int) -> list[Key]:
        """Contents of a request's blocks; past its whole prompt blocks, the request's own."""
        size, ids = self.block_tokens, request.hash_block_tokens
        shared = min(stop, request.prompt_tokens // size) if keys else 0
        name = (request.namespace, ids)
        root = self._roots.setdefault(name, len(self._roots))
        found: list[Key] = [
            (keys[(index * size + size - 1) // ids], index, root) for index in range(start, shared)
        ]
        found += [(request.index, index) for index in range(max(start, shared), stop)]
        return found

    def _register(self, block: Block) -> None:
        """Make findable, behind equal blocks that came before."""
        self._latest = None
        equal = self._found.get(block.key)
        if equal is None:
            self._found[block.key] = [block]
            return
        place = len(equal)
        while place and equal[place - 1].number > block.number:
            place -= 1
        equal.insert(place, block)

    def _forget(self, block: Block) -> None:
        self._latest = None
        equal = self._found[block.key]
        if len(equal) == 1:
            del self._found[block.key]
        else:
            equal.remove(block)

    def _table(self) -> Table:
        self._counter += 1
        return Table(self._counter)

    def _lock(self, block: Block) -> None:
        if not block.refs:
            block.place = 0
            del self._queue[block]
            self.pool.cached -= 1
            self.pool.referenced += 1
        else:
            self.shared_again += 1
        block.refs += 1

    def _enqueue(self, block: Block) -> None:
        """To the tail."""
        self._counter += 1
        block.place = self._counter
        self._queue[block] = None
