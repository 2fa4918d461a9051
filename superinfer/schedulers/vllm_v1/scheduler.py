"""Settings of `vllm_v1`, and the course of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mypy_extensions import mypyc_attr

from superinfer.costs.capacity import LargestStep
from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import check_limits, step_within
from superinfer.schedulers.vllm_v1.admission import Admission
from superinfer.schedulers.vllm_v1.limits import Limits
from superinfer.schedulers.vllm_v1.running import Running
from superinfer.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class VllmV1Scheduler:
    """One budget for prefill and decode, running requests first."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    policy: Literal["fcfs", "priority"] = "fcfs"
    chunked: bool = True
    """The release's `enable_chunked_prefill`."""
    long_prefill_token_threshold: int = 0
    """Longest chunk while there is more than one request; 0: no limit."""
    long_prefill_token_threshold_adaptive: bool = False
    """The threshold is at least an even share of the budget among all requests."""
    scheduler_reserve_full_isl: bool = True
    """Off: a request comes in as soon as its first chunk fits."""
    watermark: float = 0.0
    """Share of the blocks that admission leaves free while others run."""
    name: str = field(default_factory=lambda: "vllm_v1", init=False)
    block_tokens: int = field(default_factory=lambda: 16, init=False)
    copies_per_block: int = field(default_factory=lambda: 1, init=False)
    null_blocks: int = field(default_factory=lambda: 1, init=False)
    """Blocks of the pool that hold nothing."""
    loads_prefixes: bool = field(default_factory=lambda: True, init=False)
    """It asks an offload tier what the host has."""
    _running: Running = field(init=False, repr=False)
    _admission: Admission = field(init=False, repr=False)

    @property
    def goes_by_priority(self) -> bool:
        """Whether the priorities of requests count."""
        return self.policy == "priority"

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """Its dummy batch: `profile_run` in vllm/v1/worker/gpu_model_runner.py."""
        return step_within(self.max_num_batched_tokens, self.max_num_seqs)

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_limits(self.max_num_seqs, self.max_num_batched_tokens, self.watermark)
        if self.policy not in ("fcfs", "priority"):
            raise ConfigError(f"scheduler.policy: expected fcfs or priority, got {self.policy!r}")
        limits = Limits(
            self.max_num_seqs,
            self.max_num_batched_tokens,
            self.chunked,
            self.long_prefill_token_threshold,
            self.long_prefill_token_threshold_adaptive,
            self.scheduler_reserve_full_isl,
            int(self.watermark * machine.total_blocks),
            machine.max_model_len,
        )
        limits.check()
        self._running = Running(limits, self.goes_by_priority)
        self._admission = Admission(limits, self._running, self.goes_by_priority)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue at the back, or by priority."""
        request = seq.request
        seq.rank = (request.priority, request.arrival_s, request.index)
        self._admission.waiting.add(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """One step, or a slice of them in which nobody can come in and nothing but decodes runs."""
        running, admission = self._running, self._admission
        running.sort_out_decodes(draft)
        step = running.serve(draft, admission.longest_chunk())
        for victim in step.preempted:
            admission.waiting.put_back(victim)
        if not step.preempted and (admission.waiting or admission.loading):
            if draft.batch.size:
                draft.decode(1)  # their blocks are gone before the waiting ones look for theirs
            admission.admit(draft, step)
        if draft.batch.size:
            running.decode(draft, step)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: nothing is copied."""

    def resumed(self, seq: Sequence) -> None:
        """A load has landed: `plan` sees it by the state of the sequence."""

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        if seq in self._running.members:
            self._running.ended(seq)
        else:
            self._admission.discard(seq)

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None
