"""The scheduler protocol and what a scheduler may know of the machine it plans for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from superinfer.costs.base import CostModel
from superinfer.costs.capacity import USUAL_STEP, LargestStep
from superinfer.draft import Draft
from superinfer.errors import PolicyError
from superinfer.request import Request
from superinfer.sequence import Sequence
from superinfer.settings import shown_value


@dataclass(slots=True, frozen=True)
class Machine:
    """Facts about one replica that stay the same for a run."""

    total_blocks: int
    block_tokens: int
    max_model_len: int
    """Longest prompt plus answer that the model takes, in tokens."""
    layers: int
    cost: CostModel
    """Predicts steps and transfers."""
    prefix_caching: bool
    lag: int = 0
    """1: a step is planned, and its host work done, while the one before runs."""


class Scheduler(Protocol):
    """Owns the queues: admission, batch, chunks, victims.

    Its constructor dataclass is the `[scheduler]` section of a config. It changes nothing but its
    own queues; all else goes through the draft.

    Some have more than stands here, which is looked for by name:

    * `write_through`, true if it calls `Draft.write_through`, and then `may_swap_out(seq)`: whether
      copies of the blocks of a sequence that has joined the decode batch could be of use;
    * `loads_prefixes`, true if it asks for the loads of a `memory.base.OffloadTier`;
    * `null_blocks`: blocks that its system takes for itself and never hands out;
    * `counters`: numbers by name, for the summary of a run;
    * `goes_by_priority`, true if the priorities of requests count for something with its settings;
    * `tell_lengths(true_length)`: takes what the driver knows of true lengths, before `bind`;
    * `largest_step(max_model_len, prefix_caching)`: the step for which its system keeps memory
      free, asked before `bind`: the larger it is, the fewer KV blocks fit (`costs/capacity.py`);
    * `largest_prefill(max_model_len)`: prefill tokens of the largest step it may plan, where its
      system keeps memory free for fewer: a device that runs its steps has to have room;
    * `free_gpu_memory_fraction`: the share that the cache has of the memory beside the weights;
    * `offloading()`: where the tensors of its system are, so that its steps are costed by that.
    """

    name: str
    block_tokens: int
    """Block size of the system that it models."""
    copies_per_block: int
    """Separate copies that moving one block takes (1 when all layers lie together)."""

    def bind(self, machine: Machine) -> None:
        """Learn the machine, once, before anything else. ConfigError if the settings do not fit."""
        ...

    def submit(self, seq: Sequence, now: float) -> None:
        """A request arrived: queue it."""
        ...

    def plan(self, draft: Draft, now: float) -> None:
        """Decide what runs next by calling the draft's methods."""
        ...

    def swapped_out(self, seq: Sequence) -> None:
        """A background copy to the host has landed: the sequence can come back later."""
        ...

    def resumed(self, seq: Sequence) -> None:
        """A background copy from the host has landed: the sequence is resident again."""
        ...

    def ended(self, seq: Sequence) -> None:
        """The sequence finished, failed or was cancelled, in whatever state: forget it."""
        ...

    def next_wakeup(self, now: float) -> float | None:
        """When an idle driver should ask for a plan though nothing has happened."""
        ...


def tell_true_lengths(scheduler: Any, true_length: Callable[[Request], int] | None) -> None:
    """Tell a scheduler whose settings ask for an oracle, and no other, how long answers become; one
    token each where nobody knows.
    """
    tell_lengths = getattr(scheduler, "tell_lengths", None)
    if tell_lengths is not None:
        tell_lengths(true_length or (lambda request: 1))


def largest_step_of(scheduler: Any, max_model_len: int, prefix_caching: bool) -> LargestStep:
    """The step for which the system of a scheduler keeps memory free, as far as it says so.
    PolicyError for an answer that is none.
    """
    stated: Any = getattr(scheduler, "largest_step", None)
    if stated is None:
        return USUAL_STEP
    step: object = stated(max_model_len, prefix_caching)
    if not isinstance(step, LargestStep):
        raise PolicyError(f"largest_step: expected a LargestStep, got {shown_value(step)}")
    return step
