"""`rotasched`: RotaSched with DuplexKV, the system of the MLSys'26 paper SuperInfer.

Source: arXiv 2601.20309 (abstract) and the public code, Supercomputing-System-AI-Lab/SuperInfer at
790d1fad, a fork of vLLM 0.6.6.post1 (V1 engine): `vllm/v1/core/scheduler.py`,
`vllm/v1/core/kv_cache_manager.py`, `vllm/v1/swapper/native/swapper.cpp`. A request is waiting (no
cache), running, or rotary: its cache is on the host and it will be back.

* `lvf_repo` is what that code does. Where memory holds all who run and all who wait, it is first
  come, first served with chunked prefill. Else, while fewer than `budget_blocks` are free and the
  host is less than 95 % full, those who have run longest are rotated out, fewer blocks than the
  budget in all, and new and rotated requests come in by the time since which they wait.
* `lvf_vlt` goes by the paper's virtual lag time, as we reconstruct it, for the exact formula was
  not to be had: `now - arrival - alpha * TTFT target` of who waits, `now - last token - beta * TBT
  target` of who is rotated out, `-gamma * (time since it came in)` of who runs. The largest lag is
  served first; who runs gives way to a larger one, oldest first, and no more than `budget_blocks`
  move each way in a step.

DuplexKV: a full block is copied to the host at once, so that of a victim only what the last step
wrote is left to copy; all layers of a block lie together; both directions of the link are used at
once, beside the step before (with `lag = 1`: a step starts when it and the copies are through).

Left out: the allocation of 64 tokens ahead; taking the blocks of a prompt chunk by chunk (here all
at admission) and counting its cached prefix less in what has to fit. The mirror of the device on
the host is not part of `run.host_memory_gib`, nor of the shares of 90 and 95 %. Copies of full
blocks take no time of a step; `written_through_blocks` tells how many there were. Where memory runs
out in spite of it all, the code stops on a setting that it does not define; here the latest to come
in is rotated out, or drops its cache where the host is full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from superinfer.costs.capacity import LargestStep
from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import RankedList, check_limits
from superinfer.sequence import Sequence, State

ROTATE_BELOW: Final = 0.95
"""Nobody is rotated out, but by force, while the host is fuller."""
ADMIT_BELOW: Final = 0.90
"""Nobody new comes in while it is fuller than this."""


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class RotaScheduler:
    """Largest lag first, by rotation to the host ahead of need."""

    variant: Literal["lvf_repo", "lvf_vlt"] = "lvf_repo"
    budget_blocks: int = 2400
    """The code's `proactive_swap_budget`, 2400 in its evaluation; 0: rotate only by force. For
    `lvf_vlt` the blocks that may move each way in a step."""
    max_num_batched_tokens: int = 16384
    max_num_seqs: int = 16384
    eager: bool = True
    """False: a rotation copies all of a cache."""
    layout: Literal["block_first", "layer_first"] = "block_first"
    """`layer_first` moves K and V of each layer by themselves, as vLLM does."""
    full_duplex: bool = True
    """False: one copy after the other, and the step waits."""
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    ttft_s: float = 5.0
    """TTFT target, to `lvf_vlt`, of requests without one."""
    tbt_s: float = 0.1
    """The same for the time between tokens."""
    name: str = field(default_factory=lambda: "rotasched", init=False)
    block_tokens: int = field(default_factory=lambda: 16, init=False)
    copies_per_block: int = field(default_factory=lambda: 1, init=False)

    new: RankedList = field(default_factory=RankedList, init=False)
    """Who waits without a cache. Ranks are the time since which they wait or, by virtual lag, from
    which they lag."""
    rotary: RankedList = field(default_factory=RankedList, init=False)
    """Who waits with its cache on the host."""
    running: RankedList = field(default_factory=RankedList, init=False)
    """Resident requests by the time since which they are."""
    counters: dict[str, float] = field(default_factory=dict, init=False)
    machine: Machine = field(init=False)
    _unfinished: list[Sequence] = field(default_factory=list, init=False)
    """Resident requests with prompt tokens left."""
    _needs: dict[Sequence, int] = field(default_factory=dict, init=False)
    """Blocks that each of those who wait needs."""
    _needed_blocks: int = field(default_factory=int, init=False)
    """Their sum."""
    _left: dict[Sequence, tuple[float, ...]] = field(default_factory=dict, init=False)
    """Who was rotated out in this very plan, and its rank while it ran. The code does not note
    that someone was away who is back in the same step, so it is again the one who ran longest.
    """
    _entries: int = field(default_factory=int, init=False)
    _moved_in: int = field(default_factory=int, init=False)
    _moved_out: int = field(default_factory=int, init=False)

    # -- protocol -------------------------------------------------------------------------------

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """Its dummy batch (`profile_run` in vllm/v1/worker/gpu_model_runner.py): it computes the
        logits of every token, and samples none.
        """
        tokens, by = self.max_num_batched_tokens, "scheduler.max_num_batched_tokens"
        return LargestStep(tokens, tokens, 2, by, by)

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_limits(self.max_num_seqs, self.max_num_batched_tokens, 0.0)
        self.machine = machine
        if self.layout == "layer_first":
            self.copies_per_block = 2 * machine.layers

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue it."""
        self._wait(seq, now)

    def plan(self, draft: Draft, now: float) -> None:
        """Rotate out ahead of need, a token for everybody who runs, then let in who waits."""
        draft.full_duplex = self.full_duplex
        self._moved_in = self._moved_out = 0
        self._left.clear()
        crowded = draft.available < draft.batch.next_growth() + self._needed_blocks
        ahead = self.variant == "lvf_repo" and crowded and self._rotate_ahead(draft, now)
        forced = self._make_room_for_growth(draft, now)
        budget = self._continue_prefills(draft, self.max_num_batched_tokens - draft.batch.size)
        if self._needs and (ahead or not forced):
            self._let_in(draft, now, budget)
        if draft.batch.size:
            self._decode(draft, crowded)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: copies are `before_step` here."""

    def resumed(self, seq: Sequence) -> None:
        """A cached prefix is back from the host: the rest of the prompt can be computed."""
        self._unfinished.append(seq)

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        if seq in self._needs:
            self._leave_queue(seq)
        else:
            self._take_off(seq)
        self._count_written(seq.computed_tokens)

    def next_wakeup(self, now: float) -> float | None:
        """Who waits is looked at in every step, and without a step everybody fits."""
        return None

    # -- out ------------------------------------------------------------------------------------

    def _rotate_ahead(self, draft: Draft, now: float) -> bool:
        """Rotate out who has run longest, within the budget; True if anybody had to go."""
        if draft.available >= self.budget_blocks or draft.host_occupancy >= ROTATE_BELOW:
            return False
        victims: list[Sequence] = []
        freed = held = 0
        for seq in self.running:
            if seq.state is not State.DECODING:
                continue
            freed += draft.private_blocks(seq)
            held += draft.held_blocks(seq)
            if freed >= self.budget_blocks or held > draft.host_free:
                break
            victims.append(seq)
        for seq in victims:
            self._rotate_out(draft, seq, now)
        return bool(victims)

    def _make_room_for_growth(self, draft: Draft, now: float) -> bool:
        """The last to come in give way until every decode finds its next block."""
        forced = False
        while draft.available < draft.batch.next_growth():
            latest = reversed(self.running)
            self._force_out(draft, next(s for s in latest if s.state is not State.MOVING_IN), now)
            forced = True
        return forced

    def _force_out(self, draft: Draft, seq: Sequence, now: float) -> None:
        """Rotate out or, where the host is full, drop a cache."""
        self._count("forced_evictions")
        if draft.host_fits(seq) and seq.state is State.DECODING:
            self._rotate_out(draft, seq, now)
            return
        self._take_off(seq)
        self._count_written(draft.held_blocks(seq) * self.machine.block_tokens)
        draft.preempt(seq, "recompute")
        self._wait(seq, now)

    def _rotate_out(self, draft: Draft, seq: Sequence, now: float) -> None:
        self._left[seq] = seq.rank
        self._take_off(seq)
        self._count("rotations")
        self._moved_out += draft.held_blocks(seq)
        draft.swap_out(seq, "before_step", self._unwritten_blocks(draft, seq))
        self._wait(seq, now)

    def _unwritten_blocks(self, draft: Draft, seq: Sequence) -> int:
        """Blocks that have no up-to-date copy on the host: what the last step wrote into. Before
        its first decode that is the prompt.
        """
        held = draft.held_blocks(seq)
        if not self.eager or draft.batch.step == seq.join_step:
            return held
        before_tokens = draft.batch.length(seq) - 2
        return held - before_tokens // self.machine.block_tokens

    def _take_off(self, seq: Sequence) -> None:
        self.running.discard(seq)
        if seq in self._unfinished:
            self._unfinished.remove(seq)

    # -- in -------------------------------------------------------------------------------------

    def _continue_prefills(self, draft: Draft, budget: int) -> int:
        """Chunks for prompts under way; returns the tokens that are left."""
        for seq in list(self._unfinished):
            if budget < 1:
                break
            budget -= self._prefill(draft, seq, budget)
        return budget

    def _let_in(self, draft: Draft, now: float, budget: int) -> None:
        """Who waits comes in, in order, until one does not fit."""
        only_rotary = draft.host_occupancy > ADMIT_BELOW
        while budget > 0:
            seq = self._head(only_rotary)
            if seq is None:
                break
            if rule := self._hopeless(draft, seq):
                self._leave_queue(seq)
                draft.reject(seq, rule)
            elif len(self.running) >= self.max_num_seqs or not self._enter(draft, seq, now):
                break
            elif seq.state is State.PREFILLING:
                self._unfinished.append(seq)
                budget -= self._prefill(draft, seq, budget)
            else:
                budget -= 1

    def _head(self, only_rotary: bool) -> Sequence | None:
        """Whose turn it is."""
        new = self.new.first() if self.new and not only_rotary else None
        back = self.rotary.first() if self.rotary else None
        if new is None or back is None:
            return new or back
        return back if back.rank < new.rank else new

    def _enter(self, draft: Draft, seq: Sequence, now: float) -> bool:
        """Give it a place; False if it has to wait."""
        by_lag = self.variant == "lvf_vlt"
        rotary = seq.state is State.SWAPPED
        if by_lag and rotary and not self._may_move(self._moved_in, seq.host_blocks):
            return False
        if not self._fit(draft, seq) and not (
            by_lag and self._clear_the_way(draft, seq, now) and self._fit(draft, seq)
        ):
            return False
        if rotary:
            self._moved_in += -(-seq.computed_tokens // self.machine.block_tokens)
        self._leave_queue(seq)
        self._entries += 1
        seq.rank = self._left.get(seq, (now, self._entries))
        self.running.add(seq)
        return True

    def _fit(self, draft: Draft, seq: Sequence) -> bool:
        """Try to give it blocks, for its next token too, and leave the decodes theirs."""
        keep_free = draft.batch.next_growth()
        if seq.state is State.WAITING:
            return draft.try_admit(seq, keep_free=keep_free)
        if seq.computed_tokens % self.machine.block_tokens == 0:
            keep_free += 1
        return draft.try_swap_in(seq, keep_free=keep_free, timing="before_step")

    def _clear_the_way(self, draft: Draft, seq: Sequence, now: float) -> bool:
        """Rotate out those with less lag, the least first, if that makes room for it."""
        if not self.budget_blocks:
            return False
        lag_s, batch = now - seq.rank[0], draft.batch
        short = self._needs[seq] + batch.next_growth() - draft.available
        victims: list[Sequence] = []
        held = 0
        for victim in self.running:
            if short <= 0 or -self.gamma * (now - victim.rank[0]) >= lag_s:
                break
            if victim.state is State.DECODING and batch.step > victim.join_step:
                blocks = draft.held_blocks(victim)
                if not self._may_move(self._moved_out + held, blocks):
                    break
                victims.append(victim)
                held += blocks
                short -= draft.private_blocks(victim) + batch.grows(victim)
        if short > 0 or held > draft.host_free:
            return False
        for victim in victims:
            self._rotate_out(draft, victim, now)
        return True

    def _may_move(self, moved: int, blocks: int) -> bool:
        """True if so many more blocks may move; the first in a step always may, however long."""
        return not moved or moved + blocks <= self.budget_blocks

    def _prefill(self, draft: Draft, seq: Sequence, budget: int) -> int:
        """A chunk of at most `budget` tokens; returns its tokens."""
        left = seq.prefill_tokens - seq.computed_tokens
        tokens = min(left, budget)
        draft.prefill(seq, tokens)
        if tokens == left:
            self._unfinished.remove(seq)
        return tokens

    def _hopeless(self, draft: Draft, seq: Sequence) -> str | None:
        """The rule by which a request can never run, if there is one."""
        if seq.prefill_tokens > self.machine.max_model_len:
            return "prompt_too_long"
        if self._needs[seq] > draft.pool.size:
            return "exceeds_kv_capacity"
        return None

    # -- shared ---------------------------------------------------------------------------------

    def _decode(self, draft: Draft, crowded: bool) -> None:
        """A step, or a slice of them for as long as memory holds all and nobody comes or goes."""
        if draft.chunks or draft.changes or (crowded and self._needs and self.budget_blocks):
            draft.decode(1)
        elif crowded or not draft.decode(spare_blocks=self._needed_blocks):
            draft.decode(MAX_STEPS)

    def _wait(self, seq: Sequence, now: float) -> None:
        """Queue it, with what it needs to come in: all its tokens, the last one included."""
        self._entries += 1
        seq.rank = (self._waits_from_s(seq, now), self._entries)
        queue = self.rotary if seq.state is State.SWAPPED else self.new
        queue.add(seq)
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        self._needs[seq] = need = -(-tokens // self.machine.block_tokens)
        self._needed_blocks += need

    def _waits_from_s(self, seq: Sequence, now: float) -> float:
        """The moment that orders those who wait; of virtual lag, the one from which it is above 0.
        Who starts over without a token has been waiting since it came.
        """
        if self.variant == "lvf_repo":
            return now
        slo = seq.request.slo
        if seq.output_tokens:
            return now + self.beta * (self.tbt_s if slo.tpot_s is None else slo.tpot_s)
        due_s = self.ttft_s if slo.ttft_s is None else slo.ttft_s
        return seq.request.arrival_s + self.alpha * due_s

    def _leave_queue(self, seq: Sequence) -> None:
        self._needed_blocks -= self._needs.pop(seq)
        if not self.new.discard(seq):
            self.rotary.discard(seq)

    def _count(self, what: str, by: float = 1) -> None:
        self.counters[what] = self.counters.get(what, 0) + by

    def _count_written(self, tokens: int) -> None:
        """Count the copies of full blocks of a cache that is given up."""
        if self.eager and tokens:
            self._count("written_through_blocks", tokens // self.machine.block_tokens)
