"""`priority`: strict class priority with chunked prefill under a step-time cap.

The strong simple baseline. Requests are served by (declared priority, tightness of the TTFT target,
arrival). A request that does not fit takes the place of running ones of a strictly lower class, and
no prefill chunk makes a step longer than the tightest TPOT target among running requests allows.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from mypy_extensions import mypyc_attr

from superinfer.draft import Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.pacing import ChunkSizer
from superinfer.schedulers.parts import victims_for
from superinfer.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class PriorityScheduler(FcfsScheduler):
    """Strict priority between classes, first come first served within one."""

    pace_margin: float = 0.95
    """Share of the tightest TPOT target that a step may take."""
    step_cap_ms: float = 0.0
    """Step-time cap when no running request has a TPOT target; 0 = none."""
    name: str = field(default_factory=lambda: "priority", init=False)
    goes_by_priority: bool = field(default_factory=lambda: True, init=False)
    _paces_s: list[float] = field(default_factory=list, init=False)
    """TPOT targets of the running requests, sorted."""
    _sizer: ChunkSizer = field(init=False, repr=False)

    def rank(self, seq: Sequence) -> tuple[float, ...]:
        """Class first: the declared priority, then the tighter TTFT target."""
        ttft_s = seq.request.slo.ttft_s
        tightness = math.inf if ttft_s is None else ttft_s
        return (seq.request.priority, tightness, *FcfsScheduler.rank(self, seq))

    def prefill_budget(self, draft: Draft) -> int:
        """The most prefill that keeps the step under its cap, at least one grain."""
        budget = FcfsScheduler.prefill_budget(self, draft)
        cap_s = self._cap_s()
        if cap_s == math.inf:
            return budget
        context = self._head_context()
        return min(budget, self._sizer.tokens_under(cap_s, draft.batch, context, budget))

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        FcfsScheduler.bind(self, machine)
        self._sizer = ChunkSizer(machine.cost, tile_tokens=0)

    def clear_the_way(self, draft: Draft, seq: Sequence) -> bool:
        """Preempt running requests of a lower class, the lowest first, if that makes room."""
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        need_blocks = draft.blocks_for(tokens) + self._keep_free
        victims = victims_for(draft, seq, self.running, need_blocks, places=2)
        for victim in victims:
            self.preempt(draft, victim)
        return bool(victims)

    # -- inside ---------------------------------------------------------------------------------

    def _add(self, seq: Sequence) -> None:
        FcfsScheduler._add(self, seq)
        if seq.request.slo.tpot_s is not None:
            insort(self._paces_s, seq.request.slo.tpot_s)

    def _remove(self, seq: Sequence) -> bool:
        removed = FcfsScheduler._remove(self, seq)
        if removed and seq.request.slo.tpot_s is not None:
            del self._paces_s[bisect_left(self._paces_s, seq.request.slo.tpot_s)]
        return removed

    def _cap_s(self) -> float:
        if self._paces_s:
            return self.pace_margin * self._paces_s[0]
        return self.step_cap_ms / 1e3 or math.inf

    def _head_context(self) -> int:
        """Context that the next chunk has to attend to."""
        first = next(iter(self.prefilling), None)
        return first.computed_tokens if first is not None else 0
