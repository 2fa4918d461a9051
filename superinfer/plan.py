"""What passes between the engine and a backend: a plan goes out, outcomes come back."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from superinfer.costs.base import PrefillWork
from superinfer.memory.base import Timing
from superinfer.sequence import Sequence

Direction = Literal["d2h", "h2d"]
Note = Literal["promote", "demote", "relegate", "prefetch", "no_offload"]
NOTES: Final[tuple[str, ...]] = get_args(Note)
"""Changes that change nothing outside the scheduler: they are told, and that is all."""


class PrefillChunk(NamedTuple):
    """Prompt tokens of one sequence to compute in a plan's first step (a `costs.PrefillWork`)."""

    sequence: Sequence
    tokens: int
    """Tokens whose KV is computed (>= 1)."""
    context_tokens: int
    """Tokens of the sequence whose KV is there already."""
    last: bool
    """True if the step also gives the next output token."""

    def moved_on(self, steps: int) -> PrefillChunk:
        """The chunk as it is `steps` steps later."""
        return self._replace(context_tokens=self.context_tokens + steps * self.tokens)


@dataclass(slots=True, eq=False)
class Transfer:
    """A copy of KV cache between device and host."""

    sequence: Sequence | None
    """Whose cache it is; None for cached blocks that go to the host tier of the prefix index."""
    direction: Direction
    blocks: int
    nbytes: int
    """Bytes over one GPU's link."""
    pieces: int
    """Separate copies that it takes, each with its set-up cost."""
    timing: Timing
    job: Any = None
    """What an `OffloadTier` knows the copy by."""


class Requantise(NamedTuple):
    """Blocks of a sequence that lose bits before a plan's first step; their room is free in it.

    They are the first ones of its cache that have `from_bits`, are full, and are not kept at 16
    bits (`memory.base.Ladder`): its own, or those of a part of the tree.
    """

    sequence: Sequence | None
    """None for cached blocks that nobody holds."""
    from_bits: int
    to_bits: int
    blocks: int
    nbytes: int
    """Read and written on one GPU."""


class Change(NamedTuple):
    """One decision of the scheduler, in order: the raw material of events and of block tables."""

    kind: str
    sequence: Sequence
    blocks: int
    """Device blocks that the change takes (> 0) or gives back (< 0)."""
    saved: tuple[object, ...] = ()
    """What undoing needs."""


class Work(NamedTuple):
    """What a step makes the device compute, in the terms of a cost model."""

    chunks: Items[PrefillWork]
    decodes: int
    context_tokens: int


@dataclass(slots=True, eq=False, init=False)
class Plan:
    """A time slice: one batch, and for how long the decision stands.

    Run `chunks` and, if `decodes`, one decode of every member of the batch, up to `steps` times and
    not past `until`; a chunk moves on by its tokens each time. `before_step` transfers come first
    and the batch waits for them: one after the other, or with `full_duplex` both ways at once and
    from `now` on, which with lag 1 is beside the step before. `background` transfers run beside the
    batch. A plan may hold transfers and no batch.
    """

    now: float
    chunks: list[PrefillChunk]
    decodes: int
    """Members of the decode batch that run, 0 if none does."""
    context_tokens: int
    """Their summed context in the first step."""
    steps: int
    """More than one only while each step is the one before, moved on: no chunk ends a prompt."""
    until: float
    before_step: list[Transfer]
    background: list[Transfer]
    first_step: int
    """Number of the batch's first step in this plan."""
    joined: list[Sequence]
    """Members that joined the batch since the previous plan."""
    changes: list[Change]
    reserved_blocks: int
    """Blocks that all `steps` need for growth."""
    taken_blocks: int
    """Of these, taken already for the next step."""
    done_steps: int
    """Steps whose end the backend has reported."""
    advanced: bool
    """True when the engine has already counted the plan's last step (lag 1)."""
    full_duplex: bool
    requantised: Items[Requantise]
    """What the device does first of all; the batch waits for it."""
    padded: Work | None
    """What the device computes in the first step where that is more than anybody asked for: a batch
    of fixed size and length. Who gets tokens, and which memory is taken, does not change."""
    light_tokens: int
    """What `context_tokens` leaves out because blocks with fewer bits are read faster."""
    longest_tokens: int
    """The longest context of a member in the first step, all tokens counted. Only of decodes alone
    and where the cost model asks for it (`knows_longest`); else 0."""

    # Written out, because the one that `dataclass` makes is never compiled.
    def __init__(  # noqa: PLR0913, PLR0917
        self,
        now: float,
        chunks: list[PrefillChunk],
        decodes: int,
        context_tokens: int,
        steps: int,
        until: float,
        before_step: list[Transfer],
        background: list[Transfer],
        first_step: int,
        joined: list[Sequence],
        changes: list[Change],
        reserved_blocks: int,
        taken_blocks: int = 0,
        full_duplex: bool = False,
        padded: Work | None = None,
        requantised: Items[Requantise] = (),
        light_tokens: int = 0,
        longest_tokens: int = 0,
    ) -> None:
        self.now = now
        self.chunks = chunks
        self.decodes = decodes
        self.context_tokens = context_tokens
        self.steps = steps
        self.until = until
        self.before_step = before_step
        self.background = background
        self.first_step = first_step
        self.joined = joined
        self.changes = changes
        self.reserved_blocks = reserved_blocks
        self.taken_blocks = taken_blocks
        self.done_steps = 0
        self.advanced = False
        self.full_duplex = full_duplex
        self.padded = padded
        self.requantised = requantised
        self.light_tokens = light_tokens
        self.longest_tokens = longest_tokens

    @property
    def has_step(self) -> bool:
        """False for a plan of transfers alone."""
        return bool(self.chunks or self.decodes)

    def chunks_at(self, step: int) -> list[PrefillChunk]:
        """The chunks of a step, the first being 0."""
        return [chunk.moved_on(step) for chunk in self.chunks] if step else self.chunks

    def work_at(self, step: int) -> Work:
        """What the device computes in a step, the first being 0. Padding has no chunks but in the
        first.
        """
        padded = self.padded
        if padded is None:
            context = self.context_tokens + step * self.decodes
            return Work(self.chunks_at(step), self.decodes, context)
        return padded._replace(context_tokens=padded.context_tokens + step * padded.decodes)


@dataclass(slots=True, eq=False, init=False)
class Outcome:
    """What happened: end times of the steps done, and who finished at the last of them."""

    end_s: float
    """End of the last step done; of the transfers where there was no step."""
    step_end_s: list[float]
    finished: list[Sequence]
    last: bool
    """False while the plan's final step is still running (lag 1)."""

    def __init__(
        self,
        end_s: float,
        step_end_s: list[float] | None = None,
        finished: list[Sequence] | None = None,
        last: bool = True,
    ) -> None:
        self.end_s = end_s
        self.step_end_s = [] if step_end_s is None else step_end_s
        self.finished = [] if finished is None else finished
        self.last = last
