"""The share of memory and prefill that is kept for whom the others would starve.

A request that has waited `max_wait_s` and `max_wait_ttfts` of its targets without a token is aged,
but not before the latest start that its deadlines leave it: until then they bring it in. A stream
that is owed its next token by a time is never aged: the later it is the sooner it comes in.
While the aged got less than `aged_share` of the prefill tokens lately, the first of them comes
before everybody else: residents with slack leave for it, and what comes free is kept for it.
Together the aged hold `aged_share` of the blocks, and one of them may always come in.

Among the aged, tenants share by Start-time Fair Queueing (Goyal, Vin and Cheng, SIGCOMM 1996), in
blocks: the oldest request of the tenant whose aged have taken least comes next, and a tenant that
had nobody aged starts where the latest one to come in stood. While two tenants have aged requests
waiting, neither gets more than the other plus one request of each. So a flood of requests that are
late does not keep the aged of another tenant away. None comes in for the share while a prompt of
the aged is being computed: what is not on the device yet can still give way. Without `fairness` all
tenants are one.

Hence no wait without a token is longer than

    patience + (C + W) / (aged_share * p) + 2 * (K + 1) * H

* the patience is the wait after which it is aged, with a deadline for the answer at most until
  that is due;
* W are the prompt tokens (after a preemption also the answers so far) of the K aged requests that
  come in before it and of itself, and p the prompt tokens/s that are computed meanwhile: of these
  `aged_share` is theirs, once what the aged got beyond it has been made up for. With w tokens of
  its own tenant's that were aged before it and of itself, L of the longest request, and T tenants
  that have anybody aged meanwhile, W is at most T * (w + 2 * L), up to parts of blocks;
* C = aged_share * max_wait_s * (prompt tokens/s of whole budgets with nothing beside them) is the
  most that counts as got beyond it;
* H is the longest stay on the device (answer tokens times the longest step): nobody comes in before
  the first of the aged, so after H at the latest the device is empty and it has its blocks; and
  after another H, with its answer given or moved away, the next one's turn has come.
"""

from __future__ import annotations

from collections import deque

from superinfer.heaps import GrowingKeys
from superinfer.schedulers.pacing import GRAIN_TOKENS
from superinfer.schedulers.rotating.deadlines import Job


class AgedShare:
    """The aged requests that wait, by tenant in order of aging, and what their share has got."""

    def __init__(self, share: float, window_s: float, fair: bool = True) -> None:
        """`window_s` bounds how much service can be saved up or owed; if `fair`, tenants take
        turns.
        """
        self._share = share
        self._window_s = window_s
        self._fair = fair
        self._waiting: dict[str, deque[tuple[int, Job]]] = {}
        """By tenant."""
        self._least = GrowingKeys()
        """Those tenants by `_turn`."""
        self._taken: dict[str, int] = {}
        """Blocks that the aged of each tenant took so far, or where it started."""
        self._start_blocks = 0
        """Where the tenant stood whose request came in latest."""
        self._blocks = 0
        self._served_tokens = 0.0

    @property
    def owed(self) -> bool:
        """True if the aged got less prefill than their share lately."""
        return self._served_tokens < 0

    def push(self, job: Job) -> None:
        """Queue an aged request."""
        tenant = self._tenant(job)
        if tenant not in self._waiting:
            self._waiting[tenant] = deque()
            self._taken[tenant] = max(self._taken.get(tenant, 0), self._start_blocks)
            self._least.touch(tenant)
        self._waiting[tenant].append((job.ticket, job))

    def forget(self, job: Job) -> None:
        """A request does not wait any more, so another one may be the first of its tenant."""
        if job.aged:
            self._least.touch(self._tenant(job))

    def head(self) -> Job | None:
        """The aged request whose turn it is."""
        least = self._least.lowest(self._turn)
        return None if least is None else self._first(least[1])

    def fits(self, need_blocks: int, total_blocks: int) -> bool:
        """True if a request of so many blocks stays within the share; one always does."""
        return not self._blocks or self._blocks + need_blocks <= self._share * total_blocks

    def takes(self, job: Job, blocks: int) -> None:
        """An aged request takes a place on the device with so many blocks."""
        tenant = self._tenant(job)
        self._start_blocks = self._taken.get(tenant, 0)
        self._taken[tenant] = self._start_blocks + blocks
        job.aged_blocks = blocks
        self._blocks += blocks

    def gives_back(self, job: Job) -> None:
        """A request leaves the device, and is not aged any more."""
        self._blocks -= job.aged_blocks
        job.aged, job.aged_blocks = False, 0

    def _turn(self, tenant: str) -> tuple[int, int] | None:
        """By what its aged took; of equals the one whose first request came first."""
        first = self._first(tenant)
        return None if first is None else (self._taken[tenant], first.seq.request.index)

    def _first(self, tenant: str) -> Job | None:
        """Of the aged of a tenant the one that waits longest; who waits no longer is dropped."""
        queue = self._waiting.get(tenant)
        while queue:
            ticket, job = queue[0]
            if ticket == job.ticket:
                return job
            queue.popleft()
        self._waiting.pop(tenant, None)
        return None

    def _tenant(self, job: Job) -> str:
        return job.seq.request.tenant if self._fair else ""

    def tokens_kept(self, budget: int) -> int:
        """Of a step's prefill tokens, those that go to aged requests on the device first."""
        return min(budget, max(GRAIN_TOKENS, int(self._share * budget))) if self.owed else 0

    def count(self, job: Job, tokens: int, prefill_rate: float) -> None:
        """So many prompt tokens of a request were computed; `prefill_rate` bounds what counts."""
        change = -self._share * tokens
        if job.aged:
            change += tokens
        most = self._share * self._window_s * prefill_rate
        self._served_tokens = min(max(self._served_tokens + change, -most), most)
