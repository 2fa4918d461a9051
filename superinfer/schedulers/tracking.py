"""What `fcfs` lacks for schedulers that count or time the tokens of streams: who decodes, and since
which step. Told once per joining and leaving, not once per token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mypy_extensions import mypyc_attr

from superinfer.draft import Draft
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence, State


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class TrackingScheduler(FcfsScheduler):
    """`fcfs` with a word for every stream that starts or stops."""

    _joining: list[Sequence] = field(default_factory=list, init=False, repr=False)
    """May have joined the decode batch since the decision before."""
    _decoding: set[Sequence] = field(default_factory=set, init=False, repr=False)

    # -- what a variant adds --------------------------------------------------------------------

    def began(self, draft: Draft, seq: Sequence) -> None:
        """A sequence has joined the decode batch, at its `join_step`."""

    def stopped(self, seq: Sequence) -> None:
        """It leaves the batch now, or left it by ending."""

    # -- how it is known ------------------------------------------------------------------------

    def observe(self, draft: Draft) -> None:
        """Call at the start of a decision."""
        if not self._joining:
            return
        joining, self._joining = self._joining, []
        for seq in joining:
            if seq.state is State.DECODING and seq not in self._decoding:
                self._decoding.add(seq)
                self.began(draft, seq)

    def resumed(self, seq: Sequence) -> None:
        """Its place among the running ones was kept."""
        FcfsScheduler.resumed(self, seq)
        if seq.state is State.DECODING:
            self._joining.append(seq)

    def _prefill(self, draft: Draft, seq: Sequence, budget: int) -> int:
        tokens = FcfsScheduler._prefill(self, draft, seq, budget)
        if seq.computed_tokens + tokens >= seq.prefill_tokens:
            self._joining.append(seq)
        return tokens

    def _add(self, seq: Sequence) -> None:
        FcfsScheduler._add(self, seq)
        if seq.state is State.DECODING:
            self._joining.append(seq)

    def _remove(self, seq: Sequence) -> bool:
        if seq in self._decoding:
            self._decoding.remove(seq)
            self.stopped(seq)
        return FcfsScheduler._remove(self, seq)
