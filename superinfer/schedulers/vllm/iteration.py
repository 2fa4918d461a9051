"""What one pass over the running sequences decided."""

from __future__ import annotations

from superinfer.sequence import Sequence


class Iteration:
    """Filled while the sequences are served in turn. No dataclass: there is one a step, and
    compiled it is made faster.
    """

    __slots__ = (
        "budget_tokens",
        "continued",
        "decodes",
        "disturbed",
        "growth",
        "preempted",
        "served",
        "skipped",
        "unfinished",
    )

    def __init__(self, budget_tokens: int, growth: int = 0, decodes: int = 0) -> None:
        self.budget_tokens = budget_tokens
        """Not given away yet."""
        self.growth = growth
        """Blocks that the decodes of this step take."""
        self.decodes = decodes
        self.served: list[Sequence] = []
        """Of the decodes, those that were looked at one by one."""
        self.continued: list[Sequence] = []
        """Prefills that got another chunk."""
        self.unfinished: list[Sequence] = []
        """Of these, the ones that need more."""
        self.skipped: list[Sequence] = []
        """Running sequences for which no token was left."""
        self.preempted: list[Sequence] = []
        """Victims whose cache was dropped, in the order of preemption."""
        self.disturbed = False
        """True if anybody was preempted, by either way."""
