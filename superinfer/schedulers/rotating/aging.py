"""The share of memory and prefill that is kept for whom the others would starve.

A request that has waited `max_wait_s` and `max_wait_ttfts` of its targets without a token is aged.
While the aged got less than `aged_share` of the prefill tokens lately, the first of them comes
before everybody else: residents with slack leave for it, and what comes free is kept for it.
Together the aged hold `aged_share` of the blocks, and one of them may always come in.

Hence no wait without a token is longer than

    patience + (C + W) / (aged_share * p) + 2 * (K + 1) * H

* the patience is the wait after which it is aged;
* W are the prompt tokens (after a preemption also the answers so far) of the K requests that were
  aged before it and of itself, and p the prompt tokens/s that are computed meanwhile: of these
  `aged_share` is theirs, once what the aged got beyond it has been made up for;
* C = aged_share * max_wait_s * (prefill tokens/s) is the most that counts as got beyond it;
* H is the longest stay on the device (answer tokens times the longest step): nobody comes in before
  the first of the aged, so after H at the latest the device is empty and it has its blocks; and
  after another H, with its answer given or moved away, the next one's turn has come.
"""

from __future__ import annotations

from collections import deque

from superinfer.schedulers.pacing import GRAIN_TOKENS
from superinfer.schedulers.rotating.deadlines import Job


class AgedShare:
    """The aged requests that wait, in order of aging, and what their share has got."""

    def __init__(self, share: float, window_s: float) -> None:
        """`window_s` bounds how much service can be saved up or owed."""
        self._share = share
        self._window_s = window_s
        self._waiting: deque[tuple[int, Job]] = deque()
        self._blocks = 0
        self._served_tokens = 0.0

    @property
    def owed(self) -> bool:
        """True if the aged got less prefill than their share lately."""
        return self._served_tokens < 0

    def push(self, job: Job) -> None:
        """Queue an aged request."""
        self._waiting.append((job.ticket, job))

    def head(self) -> Job | None:
        """The aged request that has waited longest."""
        waiting = self._waiting
        while waiting and waiting[0][0] != waiting[0][1].ticket:
            waiting.popleft()
        return waiting[0][1] if waiting else None

    def fits(self, need_blocks: int, total_blocks: int) -> bool:
        """True if a request of so many blocks stays within the share; one always does."""
        return not self._blocks or self._blocks + need_blocks <= self._share * total_blocks

    def takes(self, job: Job, blocks: int) -> None:
        """An aged request takes a place on the device with so many blocks."""
        job.aged_blocks = blocks
        self._blocks += blocks

    def gives_back(self, job: Job) -> None:
        """A request leaves the device, and is not aged any more."""
        self._blocks -= job.aged_blocks
        job.aged, job.aged_blocks = False, 0

    def tokens_kept(self, budget: int) -> int:
        """Of a step's prefill tokens, those that go to aged requests on the device first."""
        return min(budget, max(GRAIN_TOKENS, int(self._share * budget))) if self.owed else 0

    def count(self, job: Job, tokens: int, prefill_rate: float) -> None:
        """So many prompt tokens of a request were computed, at `prefill_rate` tokens/s."""
        change = -self._share * tokens
        if job.aged:
            change += tokens
        most = self._share * self._window_s * prefill_rate
        self._served_tokens = min(max(self._served_tokens + change, -most), most)
