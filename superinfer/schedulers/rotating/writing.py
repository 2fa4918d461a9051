"""When full blocks of residents are copied to the host ahead of need (write-through).

Only where somebody may have to leave for somebody else: while a request that is off the device
finds no place, and memory is nearly full. A run that memory holds writes nothing; neither does one
that is short of computation alone, where nobody is ever rotated. And only for those who could
leave: a stream that tolerates less of a pause than a turn takes never does
(`RotatingScheduler.may_swap_out`).

The link comes first: nothing is written while another copy to the host is under way or planned, and
one write takes no more than half of a step. So rotations wait for it no longer than that, and it
has half of the link at most, whoever waits. To keep slices of steps long it happens at every
`WRITE_STEPS`-th step of the decode batch, for all that was filled since; only what one write had
to leave behind follows as soon as that has landed.

And it stops where copies are seldom of use (`Trial`): where requests end before they are rotated,
or lose bits after their blocks were copied.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.rotating.outlook import Outlook

WRITE_STEPS: Final = 16
"""Steps between two writes: a fraction of a block for each member."""
STEP_SHARE: Final = 0.5
"""Most of a step that one write may take."""
NEARLY_FULL: Final = 0.9
"""Share of the blocks in use from which on somebody may have to leave."""


USEFUL_SHARE: Final = 0.02
"""Of the blocks of a trial; with fewer of use than that it ends."""
TRIAL_SHARE: Final = 1.0
"""Of the device's blocks: so many have to have been of use or in vain before that is said."""
FIRST_PAUSE_STEPS: Final = 2048
"""Decode steps until the next trial; twice as many after each further one that fails."""


class Trial:
    """Whether writes are worth it, by what became of the blocks that were written: how many a
    rotation did not have to copy. What is still on the host says nothing yet.

    All of it is counted in blocks and steps, at moments when a write is due, and so the same
    however a slice is cut.
    """

    def __init__(self) -> None:
        self._useful = self._wasted = 0.0
        """When the trial began."""
        self._pause_steps = FIRST_PAUSE_STEPS
        self.begin_step = 0
        """Step of the decode batch before which nothing is written."""

    def fails(self, draft: Draft) -> bool:
        """True if it ends now."""
        useful, wasted = draft.written_through
        told = useful - self._useful + wasted - self._wasted
        if told < TRIAL_SHARE * draft.pool.size:
            return False
        failed = useful - self._useful < USEFUL_SHARE * told
        self._useful, self._wasted = useful, wasted
        if failed:
            self.begin_step = draft.batch.step + self._pause_steps
            self._pause_steps *= 2
        else:
            self._pause_steps = FIRST_PAUSE_STEPS
        return failed


class WriteThrough:
    """Decides on writes, from numbers that are the same however a slice is cut."""

    def __init__(self, wanted: bool, outlook: Outlook) -> None:
        self._wanted = wanted
        self._outlook = outlook
        self._trial = Trial()
        self._due = False
        """True if it is time for a write, for which the link may still be busy."""
        self._begun = False
        """True if there was a write since memory became nearly full."""

    def steps(self, draft: Draft, somebody_waits: bool) -> int:
        """Steps until a write may be due, at least one."""
        if not (self._wanted and somebody_waits):
            return MAX_STEPS
        batch, pool = draft.batch, draft.pool
        earliest = max(batch.step + 1, self._trial.begin_step)
        steps = earliest + -earliest % WRITE_STEPS - batch.step
        spare = ceil(NEARLY_FULL * pool.size) - 1 - pool.taken
        return steps if spare < 0 else max(steps, batch.steps_within(spare, MAX_STEPS) + 1)

    def decide(self, draft: Draft, somebody_waits: bool) -> None:
        """Ask for a write if it is time for one."""
        batch, pool = draft.batch, draft.pool
        short = self._wanted and somebody_waits and batch.size > 0
        short = short and pool.taken >= NEARLY_FULL * pool.size
        if not short or batch.step < self._trial.begin_step:
            self._due = self._begun = False
            return
        if batch.step % WRITE_STEPS == 0:
            self._due = True
        due = self._due or (self._begun and draft.write_backlog)
        if due and draft.link_idle("d2h"):
            self._due, self._begun = False, not self._trial.fails(draft)
            if self._begun:
                draft.write_through(self._blocks(draft))

    def _blocks(self, draft: Draft) -> int:
        one_s = draft.copy_s(1, "d2h")
        most = draft.pool.size
        share_s = STEP_SHARE * self._outlook.step_s
        return most if one_s * most <= share_s else max(1, int(share_s / one_s))
