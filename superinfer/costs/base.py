"""The cost-model protocol: how long a step and a transfer take.

The simulator advances time with it, and schedulers use the same object to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

if TYPE_CHECKING:
    from superinfer.costs.coverage import Limits


class Chunk(NamedTuple):
    """Prefill work of one request in one step."""

    tokens: int
    """Prompt tokens computed in this step (>= 1)."""
    context_tokens: int
    """Tokens of the same request whose KV exists already (earlier chunks, cached prefix)."""


class PrefillWork(Protocol):
    """Anything that says what a `Chunk` says."""

    @property
    def tokens(self) -> int:
        """Prompt tokens computed in this step."""
        ...

    @property
    def context_tokens(self) -> int:
        """Tokens of the same request whose KV exists already."""
        ...


@final
class SliceLine:
    """Device seconds of the steps of a time slice as a straight line.

    Step i takes `first_s + i * growth_s` seconds, for i below `steps`. A line instead of a number
    lets a slice of many steps be summed without a table look-up per step.
    """

    __slots__ = ("first_s", "growth_s", "steps")

    def __init__(self, first_s: float, growth_s: float, steps: float) -> None:
        self.first_s = first_s
        self.growth_s = growth_s
        self.steps = steps
        """Steps for which the line holds (>= 1, infinity possible)."""


class CostModel(Protocol):
    """Seconds of device and host work. Pure: the same question always has the same answer."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of 16-bit KV cache per token on one GPU (its tensor-parallel share)."""
        ...

    @property
    def limits(self) -> Limits:
        """Where measuring ended; past it the answers are extrapolated."""
        ...

    def step_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        """Device seconds of one step.

        `chunks` prefill beside `decodes` sequences that get one token each, whose contexts (the
        token being processed included) sum to `context_tokens`.
        """
        ...

    def slice_line(
        self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
    ) -> SliceLine:
        """The line that starts at `step_s` of the same step, when the next steps are the same but
        for context: each chunk starts where it ended, each decode has one token more.
        """
        ...

    def host_s(self, sequences: int) -> float:
        """Host seconds that precede a step over `sequences` requests (scheduling, launch)."""
        ...

    @property
    def duplex_slows(self) -> bool:
        """True if copies both ways at once are known to be slower than one way alone."""
        ...

    def transfer_s(self, nbytes: int, pieces: int, direction: str, company: bool = False) -> float:
        """Seconds for a copy of `nbytes` per link in `pieces` copies; `h2d` or `d2h`.

        With `company` the other direction copies all the while.
        """
        ...

    def attention_share(self, bits: int, byte_share: float) -> float:
        """Seconds of decode attention over context of `bits` bits per value, as a share of those at
        16 bits; its blocks have `byte_share` of the bytes.
        """
        ...

    def requantise_s(self, nbytes: int, to_bits: int) -> float:
        """Device seconds to bring blocks to `to_bits`, `nbytes` read and written on each GPU."""
        ...
