"""The true answer lengths, kept away from the core: it only learns who finished."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from superinfer.request import Request
from superinfer.sequence import Sequence, State

NEVER: Final = 1 << 62
_DECODING: Final = State.DECODING  # reading a member off its class is slow


class Oracle:
    """Tells at which step of the decode batch somebody finishes."""

    def __init__(self, output_tokens: list[int], max_model_len: int = NEVER) -> None:
        """`output_tokens[i]` is the answer length of the request with index i."""
        self._output_tokens = output_tokens
        self._max_model_len = max_model_len
        self._heap: list[tuple[int, int, int, Sequence]] = []
        self.soonest = NEVER
        """No member finishes before the batch has done so many steps."""
        self._targets = [0] * len(output_tokens)
        """Filled in when first asked for; a target is at least 1."""

    def target(self, request: Request) -> int:
        """Output tokens after which a request ends: its answer, its limit or the model's."""
        target = self._targets[request.index]
        if not target:
            room = max(1, self._max_model_len - request.prompt_tokens)
            target = min(self._output_tokens[request.index], request.max_tokens)
            target = min(target, room)
            self._targets[request.index] = target
        return target

    def watch(self, joined: Iterable[Sequence]) -> None:
        """Note the finish steps of sequences that joined the decode batch."""
        for seq in joined:
            if seq.state is _DECODING:
                request, join_step = seq.request, seq.join_step
                finish = join_step + self.target(request) - seq.output_tokens
                if finish < self.soonest:
                    self.soonest = finish
                heapq.heappush(self._heap, (finish, request.index, join_step, seq))

    def next_finish(self) -> int:
        """Number of batch steps after which the next member finishes."""
        heap = self._heap
        while heap and not self._on_course(heap[0]):
            heapq.heappop(heap)
        self.soonest = heap[0][0] if heap else NEVER
        return self.soonest

    def finished_by(self, step: int) -> list[Sequence]:
        """Sequences that have all their tokens once the batch has done `step` steps."""
        heap, finished = self._heap, []
        while heap and heap[0][0] <= step:
            entry = heapq.heappop(heap)
            if self._on_course(entry):
                finished.append(entry[3])
        self.soonest = heap[0][0] if heap else NEVER
        return finished

    def finishes(self, seq: Sequence, counted: bool) -> bool:
        """True if the token that ends a prefill is the sequence's last one.

        `counted` says that the engine has already counted that token (lag 1).
        """
        return self.target(seq.request) - seq.output_tokens <= (0 if counted else 1)

    def _on_course(self, entry: tuple[int, int, int, Sequence]) -> bool:
        """True while the entry describes its sequence: a member since the same step, or one that
        left the batch with its last token, even if it is back (a plan made ahead may preempt or
        park who has just finished).
        """
        _, _, join_step, seq = entry
        if seq.state is _DECODING and seq.join_step == join_step:
            return True
        ended = seq.state is State.ENDED
        return not ended and self.target(seq.request) <= seq.output_tokens
