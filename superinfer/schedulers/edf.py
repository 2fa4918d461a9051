"""`edf`: earliest deadline first, with chunked prefill at a fixed token budget.

The classic order of real-time systems (Liu and Layland, JACM 20(1), 1973) over the stall-free
batches of Sarathi-Serve (arXiv 2403.02310, section 4). Niyama (arXiv 2503.22562) uses the same
pair as a baseline. A request is due when its first token is, or where no first token is promised
when its answer is; who is promised nothing comes last, in order of arrival.

Memory: one who does not fit takes the place of running requests with later deadlines, the latest
first, as the classic rule wants; `preempts = false` lets it wait. The same ones give way when
the decodes need blocks that are not there. What becomes of their caches is the memory policy's
choice.

Left out: the deadlines of later tokens (a stream keeps the deadline of its first token and is
only slowed by chunks), any test whether a deadline can still be met, and chunks sized by pace.
Under overload that makes every request late in turn, the known weakness of this order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mypy_extensions import mypyc_attr

from superinfer.draft import Draft
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.parts import deadline_s, victims_for
from superinfer.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class EdfScheduler(FcfsScheduler):
    """Earliest deadline first. Budget, places and watermark are those of `fcfs`."""

    preempts: bool = True
    """Earlier deadlines take blocks from later ones. Off: they wait for free ones."""
    name: str = field(default_factory=lambda: "edf", init=False)

    def rank(self, seq: Sequence) -> tuple[float, ...]:
        """By deadline, then by arrival."""
        return (deadline_s(seq.request), *FcfsScheduler.rank(self, seq))

    def clear_the_way(self, draft: Draft, seq: Sequence) -> bool:
        """Preempt running requests with later deadlines if that makes room."""
        if not self.preempts:
            return False
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        spare = seq.computed_tokens > 0  # who comes back from the host needs it for its next token
        need_blocks = draft.blocks_for(tokens) + self._keep_free + spare
        victims = victims_for(draft, seq, self.running, need_blocks, places=1)
        for victim in victims:
            self.preempt(draft, victim)
        return bool(victims)
