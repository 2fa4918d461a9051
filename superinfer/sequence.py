"""A request in progress: what the engine knows of it, and where its KV cache is."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from superinfer.memory.blocks.runs import NO_RUNS, small_in
from superinfer.memory.blocks.slabs import NO_SMALL, Small
from superinfer.request import Request


class State(Enum):
    """Where a request stands. Only the engine changes it."""

    WAITING = "waiting"
    """No KV cache anywhere: new, or preempted by dropping its cache."""
    PREFILLING = "prefilling"
    """Resident in device memory, its prompt not yet fully computed."""
    DECODING = "decoding"
    """Resident and a member of the decode batch."""
    PARKED = "parked"
    """Resident, could decode, but stands aside."""
    SWAPPED = "swapped"
    """KV cache in host memory."""
    MOVING_OUT = "moving_out"
    """A background copy to the host is under way; its device blocks are still taken."""
    MOVING_IN = "moving_in"
    """A background copy from the host is under way; its device blocks are already taken."""
    ENDED = "ended"


RESIDENT: Final = (State.PREFILLING, State.DECODING, State.PARKED)
"""A tuple: hashing a member of an `Enum` for a set takes longer than three comparisons."""


class Sequence:
    """Progress of one request.

    While the state is `DECODING`, `computed_tokens` and `output_tokens` are those at the moment of
    joining the decode batch, and the batch knows how many steps ago that was: nothing is written
    per token. `DecodeBatch.length` and friends give the present values.
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "computed_tokens",
        "d2h_bytes",
        "end_reason",
        "finish_s",
        "first_scheduled_s",
        "first_token_s",
        "h2d_bytes",
        "host_blocks",
        "host_runs",
        "join_step",
        "keys",
        "kv_shares",
        "last_token_s",
        "last_token_step",
        "light_tokens",
        "lost_tokens",
        "node",
        "outcome",
        "output_tokens",
        "preemptions",
        "prefill_tokens",
        "prefilled_tokens",
        "prefix_tokens",
        "rank",
        "recomputed_tokens",
        "request",
        "rotations",
        "runs",
        "seen_small",
        "seen_step",
        "shared_blocks",
        "small_reads",
        "state",
        "transfer",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.state = State.WAITING
        self.prefill_tokens = request.prompt_tokens
        """Tokens to process before the next token comes: the prompt, and after a preemption by
        recomputation also the answer so far."""
        self.computed_tokens = 0
        """Tokens whose KV exists, on the device or on the host."""
        self.output_tokens = 0
        self.prefix_tokens = 0
        """Leading tokens of this prefill that need no computation (prefix-cache hit)."""
        self.blocks = 0
        """Private device blocks."""
        self.runs = NO_RUNS
        """Which of `blocks` have how many bits, from the first one on."""
        self.light_tokens = 0
        """Tokens of its context that attention saves because blocks of it have fewer bits."""
        self.shared_blocks = 0
        """Device blocks held through the prefix index, up to and including `node`."""
        self.node: Any = None
        """What it holds in the prefix index, of the index's own kind; None if it holds nothing."""
        self.keys: tuple[object, ...] | None = None
        self.host_blocks = 0
        self.host_runs = NO_RUNS
        """Which of `host_blocks` have how many bits, from the first one on."""
        self.join_step = 0
        self.last_token_step = -1
        """Decode step that gave the last token, or -1 for one that a prefill gave. `last_token_s`
        holds the time of that one, and of a step that the batch has forgotten."""
        self.last_token_s = 0.0
        self.lost_tokens = 0
        """Tokens that were computed once and dropped by a preemption."""
        self.rank: tuple[float, ...] = ()
        """Place in the order of the scheduler that set it; unique."""
        self.transfer: object = None
        self.seen_small = NO_SMALL
        """Blocks of 8 and 4 bits, shared ones included, that a decode step reads for it."""
        self.seen_step = 0
        """Step of the decode batch up to which `small_reads` counts."""
        self.small_reads = NO_SMALL
        """Blocks of 8 and 4 bits that its decode steps have read so far, once for each step."""
        self.kv_shares = (0.0, 0.0)
        """Shares of 8 and 4 bits in the cache that its answer was computed from."""
        self.preemptions = self.rotations = 0
        self.cached_tokens = self.recomputed_tokens = 0
        self.prefilled_tokens = 0
        """Tokens that its prefills have computed so far, once more after preemptions included."""
        self.h2d_bytes = self.d2h_bytes = 0
        self.first_scheduled_s: float | None = None
        self.first_token_s: float | None = None
        self.finish_s: float | None = None
        self.outcome = ""
        self.end_reason: str | None = None

    @property
    def small(self) -> Small:
        """Of `blocks`, how many have 8 and 4 bits."""
        return small_in(self.runs)

    @property
    def host_small(self) -> Small:
        """Of `host_blocks`, how many have 8 and 4 bits."""
        return small_in(self.host_runs)

    def __repr__(self) -> str:
        return f"<Sequence {self.request.request_id} {self.state.value}>"
