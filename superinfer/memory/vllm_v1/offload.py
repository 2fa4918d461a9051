"""The prefix cache of vLLM's V1 engine with its blocks copied to the host: the OffloadingConnector.

Source: vLLM 0.33.0, `OffloadingConnectorScheduler` in
`vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py`, what its worker does in
`worker.py` beside it, and the calls of it in `vllm/v1/core/sched/scheduler.py`; which host blocks
go stands in `host.py` and `orders.py`. The rules:

* In the step that completes blocks of a request's prompt (or also of its answer) they are offered
  to the host, all that have not been since the request came in last: so a prefix found on the
  device is offered again. What the host lacks and has room for is copied once that step is over; if
  it has no room, all is offered again in the request's next step, the last time when it has ended.
* A waiting request's prefix goes on, behind what the device holds of it, on the host, whole blocks
  and maybe the whole prompt (the last token is then computed all the same). If one of these blocks
  is still being written, or is being loaded for somebody else, or a copy of the request's own is
  under way, it is passed over.
* A load gets its device blocks at once. They are findable when it has landed and it is the
  request's turn, not before.

Left out: two waits of the worker. There a step waits for the copies of requests that it preempts,
and for those of ended ones when it takes their blocks on the device; here they run on beside the
steps, and hold up only what the rules above say. Also host blocks of several device blocks
(`blocks_per_chunk`), loads within a step (`sync_load_budget_bytes`), failed copies, limits of
single requests, further tiers and events. Requests that ended in the same step are done with in
their order of arrival (a set there).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Items
from typing import Final

from superinfer.batch import DecodeBatch
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.index.keys import Key
from superinfer.memory.vllm_v1.cache import Block, BlockCache, Table
from superinfer.memory.vllm_v1.host import HostBlocks
from superinfer.memory.vllm_v1.orders import WRITING, CopyOrder, User
from superinfer.plan import PrefillChunk
from superinfer.request import Request
from superinfer.sequence import Sequence, State

_DECODING: Final = State.DECODING  # reading a member off its class is slow
_STRIDE: Final = 64
"""Blocks that a look-up asks for before it sees whether the first ones were there."""


class Job:
    """A copy of some blocks of a request, to the host or back."""

    __slots__ = ("keys", "loads", "start", "user")

    def __init__(self, user: User, start: int, keys: Items[Key], loads: bool) -> None:
        self.user = user
        self.start = start
        """Place of the first block in the request (of a load, whose blocks follow one another)."""
        self.keys = keys
        self.loads = loads


class OffloadTable(Table):
    """What a sequence holds on the device, with the load that it came in by. Its number is 0 until
    it runs, and so has its place in the running queue.
    """

    __slots__ = ("job", "pending")

    def __init__(self) -> None:
        super().__init__(0)
        self.job: Job | None = None
        self.pending = False
        """Whether what it loaded is still to become findable."""


class OffloadingCache(BlockCache):
    """Blocks on the device, and copies on the host (an `OffloadTier`)."""

    def __init__(
        self,
        pool: BlockPool,
        host: HostPool,
        block_tokens: int,
        order: CopyOrder,
        prompts_only: bool,
    ) -> None:
        super().__init__(pool, block_tokens)
        self.copies = HostBlocks(host, order)
        self.prompts_only = prompts_only
        """Whether blocks that end in an answer are never offered."""
        self._users: dict[int, User] = {}
        self._loading: set[Key] = set()
        """Blocks that are wanted back on the device, or on their way."""
        self._prepared: list[tuple[object, int]] = []
        self._left: list[tuple[User, int, list[Key]]] = []
        """Requests that ended since the last plan, with what they have still to offer."""
        self._behind: dict[Sequence, None] = {}
        """Those for whose blocks there was no room."""
        self._full_at: list[tuple[int, int, Sequence]] = []
        """A heap: at which step of the batch a member's last block is full."""

    # -- look-ups and loads -----------------------------------------------------------------------

    def find(
        self, request: Request, keys: tuple[Key, ...], start_blocks: int, stop_blocks: int
    ) -> int | None:
        """As the protocol says. The request starts anew with what it offers."""
        user = self._user(request.index)
        user.stored = 0
        if user.jobs:
            return None
        found, known = 0, True
        for start in range(start_blocks, stop_blocks, _STRIDE):
            for key in self._keys(request, keys, start, min(stop_blocks, start + _STRIDE)):
                copy = self.copies.get(key)
                if copy is None:
                    return found if known else None
                found += 1
                known = known and copy.refs != WRITING and key not in self._loading
        return found if known else None

    def load(
        self,
        request: Request,
        keys: tuple[Key, ...],
        node: OffloadTable,
        start_blocks: int,
        blocks: int,
    ) -> Job:
        """As the protocol says."""
        wanted = self._keys(request, keys, start_blocks, start_blocks + blocks)
        self._loading.update(wanted)
        node.job = Job(self._user(request.index), start_blocks, wanted, True)
        node.pending = True
        return node.job

    def unload(self, node: OffloadTable) -> None:
        """As the protocol says."""
        assert node.job is not None
        self._loading.difference_update(node.job.keys)

    def begin(self, job: Job) -> None:
        """As the protocol says."""
        self.copies.pin(job.user, job.start, job.keys)
        job.user.jobs += 1
        job.user.stored = job.start + len(job.keys)

    def adopt(self, node: OffloadTable) -> bool:
        """As the protocol says."""
        pending, node.pending = node.pending, False
        return pending

    def unadopt(self, node: OffloadTable) -> None:
        """As the protocol says."""
        node.pending = True

    def landed(self, job: Job) -> None:
        """As the protocol says."""
        job.user.jobs -= 1
        if job.loads:
            self.copies.unpin(job.keys)
            self._loading.difference_update(job.keys)
        else:
            self.copies.written(job.keys)

    def add_answer(
        self, request: Request, table: Table | None, blocks: int, now: float
    ) -> Block | None:
        """Queue what an ended request filled beyond its prompt; what was loaded and never became
        findable is nothing to keep.
        """
        if isinstance(table, OffloadTable) and table.pending:
            return None
        return super().add_answer(request, table, blocks, now)

    # -- stores -----------------------------------------------------------------------------------

    def store(self, batch: DecodeBatch, chunks: Items[PrefillChunk], decodes: int) -> None:
        """As the protocol says, in the order of the running queue."""
        offers: list[tuple[int, int, Sequence, int]] = []
        for seq, tokens, context, _ in chunks:
            table = seq.node
            if not table.number:
                self._counter += 1
                table.number = self._counter
            offers.append((table.number, seq.request.index, seq, context + tokens))
        for seq in self._completing(batch) if decodes else ():
            offers.append((seq.node.number, seq.request.index, seq, batch.length(seq)))
        offers.sort(key=_place)
        for _, _, seq, tokens in offers:
            self._offer_next(seq, tokens)
        if self._left:
            self._leave()

    def steps_before_store(self, batch: DecodeBatch, steps: int) -> int:
        """As the protocol says; called for every plan, it hears of everybody who joins."""
        for seq in () if self.prompts_only else batch.joined:
            step = batch.step + -batch.length(seq) % self.block_tokens
            heapq.heappush(self._full_at, (step, seq.request.index, seq))
        if self._behind and any(seq.state is _DECODING for seq in self._behind):
            return 1
        if not self._full_at:
            return steps
        return max(1, min(steps, self._full_at[0][0] - batch.step))

    def take_stores(self) -> list[tuple[object, int]]:
        """As the protocol says."""
        prepared, self._prepared = self._prepared, []
        return prepared

    def ended(self, seq: Sequence) -> None:
        """As the protocol says."""
        self._behind.pop(seq, None)
        user = self._users.pop(seq.request.index, None)
        if user is None:
            return
        start, stop = user.stored, self._offerable(seq, seq.computed_tokens)
        keys = self._keys(seq.request, seq.keys or (), start, stop)
        self._left.append((user, start, keys))

    # -- inside -----------------------------------------------------------------------------------

    def _user(self, index: int) -> User:
        user = self._users.get(index)
        if user is None:
            user = self._users[index] = User(index)
        return user

    def _table(self) -> Table:
        return OffloadTable()

    def _completing(self, batch: DecodeBatch) -> list[Sequence]:
        """Members whose last block is full after this step, and those that are behind."""
        heap, step = self._full_at, batch.step
        found = {seq: None for seq in self._behind if seq.state is _DECODING}
        again: dict[Sequence, None] = {}
        while heap and heap[0][0] <= step:
            seq = heapq.heappop(heap)[2]
            # It may have left since, or come back with another length.
            if seq.state is _DECODING and not batch.length(seq) % self.block_tokens:
                again[seq] = None
        for seq in again:
            heapq.heappush(heap, (step + self.block_tokens, seq.request.index, seq))
        return list(found | again)

    def _offerable(self, seq: Sequence, tokens: int) -> int:
        """Blocks among so many computed tokens that the host may have."""
        if self.prompts_only:
            tokens = min(tokens, seq.request.prompt_tokens)
        return tokens // self.block_tokens

    def _offer_next(self, seq: Sequence, tokens: int) -> None:
        """Offer the blocks of a running request that have come since it did so last."""
        user, stop = self._user(seq.request.index), self._offerable(seq, tokens)
        if user.stored >= stop:
            return
        keys = self._keys(seq.request, seq.keys or (), user.stored, stop)
        if self._offer(user, user.stored, keys):
            user.stored = stop
            self._behind.pop(seq, None)
        else:
            self._behind[seq] = None

    def _offer(self, user: User, start: int, keys: list[Key]) -> bool:
        """Store what the host lacks of these; False if it has no room."""
        new = self.copies.reserve(user, start, keys)
        if new is None:
            return False
        if new:
            user.jobs += 1
            self._prepared.append((Job(user, start, new, False), len(new)))
        return True

    def _leave(self) -> None:
        left, self._left = sorted(self._left, key=_number), []
        for user, start, keys in left:
            if keys:
                self._offer(user, start, keys)
        for user, _, _ in left:
            self.copies.leave(user)


def _place(offer: tuple[int, int, Sequence, int]) -> int:
    return offer[0]


def _number(left: tuple[User, int, list[Key]]) -> int:
    return left[0].number
