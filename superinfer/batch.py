"""The decode batch: sequences that all get one token per step, kept as aggregates.

Nothing here is done per sequence and step. Contexts grow by one for every member at every step, so
the batch keeps their sum; a member needs a new block when its length passes a multiple of the block
size, so the batch counts members by `(length - step) mod block_tokens`, which never changes while
they stay.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable
from typing import Final

from superinfer.memory.blocks.slabs import NO_SMALL
from superinfer.sequence import Sequence

_SPARE_CONTEXTS: Final = 64
"""Entries of members that left, beyond as many as there are members, before they are swept out."""


class TokenRuns:
    """Append-only columns from which every token time can be rebuilt (see `records.run`)."""

    __slots__ = (
        "first",
        "gap_row",
        "gap_s",
        "previous_s",
        "previous_step",
        "row",
        "stop",
    )

    def __init__(self) -> None:
        self.row = array("q")
        self.first = array("q")
        self.stop = array("q")
        self.previous_step = array("q")
        self.previous_s = array("d")
        self.gap_row = array("q")
        self.gap_s = array("d")

    def add(self, seq: Sequence, stop: int) -> None:
        """Note that `seq` got a token at each step from its `join_step` up to `stop`."""
        self.row.append(seq.request.index)
        self.first.append(seq.join_step)
        self.stop.append(stop)
        self.previous_step.append(seq.last_token_step)
        self.previous_s.append(seq.last_token_s)

    def undo(self) -> None:
        """Take back the latest `add`."""
        for column in (
            self.row,
            self.first,
            self.stop,
            self.previous_step,
            self.previous_s,
        ):
            column.pop()

    def add_gap(self, seq: Sequence, gap_s: float) -> None:
        """Note a wait between two tokens that ended with a prefill, not with a decode step."""
        self.gap_row.append(seq.request.index)
        self.gap_s.append(gap_s)


class DecodeBatch:
    """Members and their aggregates. Changed only by the engine."""

    __slots__ = (
        "_contexts",
        "_residues",
        "block_tokens",
        "context_tokens",
        "end_s",
        "first_step",
        "joined",
        "light_tokens",
        "lightened",
        "members",
        "runs",
        "size",
        "step",
    )

    def __init__(self, block_tokens: int, watch_longest: bool = False) -> None:
        """With `watch_longest` the batch can say what its `longest_tokens` are."""
        self.block_tokens = block_tokens
        self.step = 0
        """Steps in which the batch advanced so far."""
        self.size = 0
        self.context_tokens = 0
        """Sum over members of the tokens that attention covers in the next step, those in blocks of
        fewer bits counted by the time that they take."""
        self.light_tokens = 0
        """Sum over members of what that leaves out."""
        self.end_s = array("d")
        """End time of every step from `first_step` on; of the latest it may not be known yet."""
        self.first_step = 0
        """Steps before this one are forgotten: whose last token came in one has its time in
        `last_token_s`."""
        self.members: dict[Sequence, None] = {}
        self.joined: list[Sequence] = []
        """Members that joined and no backend has asked for yet."""
        self.lightened: dict[Sequence, None] = {}
        """Members whose blocks lost bits and whose reads are not brought up to date yet."""
        self.runs = TokenRuns()
        self._residues = [0] * block_tokens
        self._contexts: list[tuple[int, int, int, Sequence]] | None = [] if watch_longest else None
        """A heap of minus the tokens that members had when they joined, less the step, with who it
        was and when; entries of those who left go when they come to the top."""

    def join(self, seq: Sequence) -> None:
        """Add a resident sequence whose cache covers all but its last token."""
        length = seq.computed_tokens + 1
        seq.join_step = seq.seen_step = self.step
        self.size += 1
        self.context_tokens += length - seq.light_tokens
        self.light_tokens += seq.light_tokens
        self._residues[(length - self.step) % self.block_tokens] += 1
        self.members[seq] = None
        self.joined.append(seq)
        if self._contexts is not None:
            entry = (self.step - length, seq.request.index, self.step, seq)
            heapq.heappush(self._contexts, entry)

    def leave(self, seq: Sequence) -> None:
        """Remove a member, bring its counters up to date and note when its tokens came."""
        advanced = self.step - seq.join_step
        length = seq.computed_tokens + 1
        self._residues[(length - seq.join_step) % self.block_tokens] -= 1
        self.size -= 1
        self.context_tokens -= length + advanced - seq.light_tokens
        self.light_tokens -= seq.light_tokens
        del self.members[seq]
        if seq.seen_small != NO_SMALL:
            self.count_reads(seq)
        if advanced:
            self.runs.add(seq, self.step)
            seq.computed_tokens += advanced
            seq.output_tokens += advanced
            seq.last_token_step = self.step - 1

    def undo_leave(self, seq: Sequence) -> None:
        """Take back the latest `leave`; the sequence has its counters of the time of joining."""
        advanced = self.step - seq.join_step
        if advanced:
            self.runs.undo()
        length = seq.computed_tokens + 1
        self._residues[(length - seq.join_step) % self.block_tokens] += 1
        self.size += 1
        self.context_tokens += length + advanced - seq.light_tokens
        self.light_tokens += seq.light_tokens
        self.members[seq] = None

    def undo_join(self, seq: Sequence) -> None:
        """Take back `join` of the sequence that joined last, before any step."""
        length = seq.computed_tokens + 1
        self.size -= 1
        self.context_tokens -= length - seq.light_tokens
        self.light_tokens -= seq.light_tokens
        self._residues[(length - self.step) % self.block_tokens] -= 1
        del self.members[seq]
        if self.joined and self.joined[-1] is seq:
            self.joined.pop()

    def lighten(self, seq: Sequence, tokens: int) -> None:
        """Blocks of a member lost bits: attention saves so many tokens more of its context."""
        seq.light_tokens += tokens
        self.context_tokens -= tokens
        self.light_tokens += tokens
        self.lightened[seq] = None

    def count_reads(self, seq: Sequence) -> None:
        """Count the blocks of fewer bits that the steps since last time have read for a member."""
        steps, seq.seen_step = self.step - seq.seen_step, self.step
        (eight, four), (reads_8, reads_4) = seq.seen_small, seq.small_reads
        seq.small_reads = (reads_8 + steps * eight, reads_4 + steps * four)

    def advance(self, steps: int) -> None:
        """Give every member `steps` tokens; `end_s` is filled in by whoever knows the times."""
        self.step += steps
        self.context_tokens += steps * self.size

    def length(self, seq: Sequence) -> int:
        """Prompt and output tokens of a member so far, the last one not yet in the cache."""
        return seq.computed_tokens + 1 + self.step - seq.join_step

    def longest_tokens(self) -> int:
        """Most tokens of a member that attention covers in the next step, of whichever bits; 0 for
        an empty batch, and for one that does not watch. Not while `undo_leave` may follow.
        """
        contexts = self._contexts
        if contexts is None:
            return 0
        if len(contexts) > 2 * len(self.members) + _SPARE_CONTEXTS:
            contexts = self._contexts = self._standing(contexts)
        while contexts and not self._stands(contexts[0]):
            heapq.heappop(contexts)
        return self.step - contexts[0][0] if contexts else 0

    def _standing(
        self, contexts: list[tuple[int, int, int, Sequence]]
    ) -> list[tuple[int, int, int, Sequence]]:
        """A heap of the entries of members alone."""
        standing = [entry for entry in contexts if self._stands(entry)]
        heapq.heapify(standing)
        return standing

    def _stands(self, entry: tuple[int, int, int, Sequence]) -> bool:
        """True for the entry of a member; who came back in one step has no fewer tokens than it
        left with, so that its older entry does no harm.
        """
        seq = entry[3]
        return seq in self.members and seq.join_step == entry[2]

    def output_tokens(self, seq: Sequence) -> int:
        """Output tokens of a member so far."""
        return seq.output_tokens + self.step - seq.join_step

    def grows(self, seq: Sequence) -> bool:
        """True if the member needs a new block in the next step."""
        return (self.length(seq) - 1) % self.block_tokens == 0

    def growth(self, steps: int) -> int:
        """Blocks that the members need, all together, for the next `steps` steps."""
        cycles, rest = steps // self.block_tokens, steps % self.block_tokens
        blocks = cycles * self.size
        if rest:
            # Residues 1 - step, one less for each further step: a stretch of the circle.
            residues, size = self._residues, self.block_tokens
            place = (2 - self.step - rest) % size
            for _ in range(rest):
                blocks += residues[place]
                place += 1
                if place == size:
                    place = 0
        return blocks

    def next_growth(self) -> int:
        """Blocks that the members need, all together, for the next step."""
        return self._residues[(1 - self.step) % self.block_tokens]

    def steps_within(self, blocks: int, limit: int) -> int:
        """Most steps, at most `limit`, that need no more than `blocks` new blocks."""
        if blocks < 0 or not self.size:
            return 0 if blocks < 0 else limit
        left, steps = blocks % self.size, blocks // self.size * self.block_tokens
        if steps >= limit:
            return limit
        residues, size = self._residues, self.block_tokens
        first = 1 - self.step
        while steps < limit:
            left -= residues[(first - steps) % size]
            if left < 0:
                break
            steps += 1
        return steps

    @property
    def known_steps(self) -> int:
        """Steps whose end is known; with lag 1 the latest may be on the device still."""
        return self.first_step + len(self.end_s)

    def last_token_s(self, seq: Sequence) -> float:
        """When a sequence outside the batch got its last token."""
        known = seq.last_token_step - self.first_step
        return self.end_s[known] if known >= 0 else seq.last_token_s

    def forget(self, live: Iterable[Sequence]) -> None:
        """Drop the times of the steps that are over, and when which tokens came; `live` are those
        who may be asked for later. Between two steps, while nothing can be taken back.

        The latest time stays: it is that of the last token of members who leave next.
        """
        latest_s, known_steps = self.end_s[-1:], self.known_steps
        for seq in live:
            if seq.last_token_step < known_steps:
                seq.last_token_s = self.last_token_s(seq)
        self.first_step, self.end_s = known_steps - len(latest_s), latest_s
        self.runs = TokenRuns()
        if self._contexts is not None:
            self._contexts = self._standing(self._contexts)
