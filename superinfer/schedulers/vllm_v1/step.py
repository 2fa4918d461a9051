"""What was decided for the running requests of one step."""

from __future__ import annotations

from superinfer.sequence import Sequence


class Step:
    """Filled while they are served. No dataclass: compiled, it is made faster."""

    __slots__ = ("budget_tokens", "growth", "preempted", "scheduled")

    def __init__(self, budget_tokens: int, growth: int = 0) -> None:
        self.budget_tokens = budget_tokens
        """Not given away yet."""
        self.growth = growth
        """Blocks that the decodes of this step take."""
        self.scheduled: dict[Sequence, int] = {}
        """Tokens of those that were looked at one by one."""
        self.preempted: list[Sequence] = []
        """Victims, in the order of preemption."""


def left_tokens(seq: Sequence) -> int:
    """Tokens of its prefill that a sequence has not computed."""
    return seq.prefill_tokens - seq.computed_tokens
