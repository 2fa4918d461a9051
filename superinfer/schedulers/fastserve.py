"""`fastserve`: a skip-join multi-level feedback queue with proactive swapping; blind to targets.

Source: Wu et al., "Fast Distributed Inference Serving for Large Language Models" (arXiv
2305.05920, sections 4 and 5), and its public code (LLMServe/FastServe, fastserve/scheduler.py
@6da4b75e).

* Level l has a quantum of `base_quantum_ms` x `quantum_ratio`^l of running time. *Skip-join*: a
  request enters the first level whose quantum covers its prefill, so that a long prompt does not
  sink through levels in which it could not even give a token. Who used its quantum sinks one
  level; there is no lowest one.
* Each step runs the first `max_num_seqs` requests by level. Within a level nobody is preempted:
  who runs stays until its quantum is over, the others wait in order of entering the level.
* Starvation: every `starvation_period_steps` steps, who has not run for `starvation_s` rises to
  the front of level 0.
* Memory: who is not run keeps its cache on the device while there is room. For a request of a
  better level that finds no room, those of lower levels are copied to the host in the
  background, lowest first, and copied back when it is their turn. *Proactively*, before anybody
  needs them, as many blocks as there are places in a step are kept free by moving out whoever is
  passed over. Where the decodes of a step find no block the lowest in order goes at once and the
  step waits for its copy. Without room on the host nobody is moved out for others, and a cache
  that has to go is dropped and computed again. Where nothing runs, who is passed over goes for
  the first in order whatever their levels, the last in order first.

Left out: pipeline parallelism; the estimate of the next scheduled time, for which, as in the
public code, the order of the queues stands; swapping in ahead of a request's turn; holding back
new requests while less than a tenth of the host is free. Prefills are cut at the token budget,
where the public code takes whole prompts of at most that length. Time counts as run from one
decision to the next, waits of the step for copies included; requests that end do not wait for
their level to be written down, so a quantum that nobody waits for costs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from mypy_extensions import mypyc_attr

from superinfer.costs.base import Chunk
from superinfer.costs.capacity import LargestStep
from superinfer.draft import MAX_STEPS, Draft
from superinfer.errors import ConfigError
from superinfer.memory.base import Timing
from superinfer.schedulers.base import Machine
from superinfer.schedulers.fastserve_levels import LEAST_RATIO, Levels
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.parts import RankedQueue, check_positive, step_within
from superinfer.sequence import Sequence, State


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class FastServeScheduler(FcfsScheduler):
    """Skip-join MLFQ. Watermark as in `fcfs`."""

    max_num_batched_tokens: int = 2048
    """Prompt tokens of a step; decodes come on top (Sarathi-Serve's relaxed value)."""
    max_num_seqs: int = 128
    """Requests of a step (the largest that the public evaluation runs, large_bs)."""
    base_quantum_ms: float = 10.0
    """Quantum of level 0 (public code)."""
    quantum_ratio: float = 2.0
    """Quantum of a level over that of the level above (public code)."""
    starvation_s: float = 3.0
    """Time without running after which a request rises to level 0 (public code)."""
    starvation_period_steps: int = 1000
    """Steps between two looks for starving requests (public code)."""
    skip_join: bool = True
    """New requests enter the level of their prefill. Off: level 0."""
    proactive: bool = True
    """Keep blocks free for those to come. Off: move somebody out only for one who needs it."""
    swap_timing: Timing = "background"
    """Copies run beside the computation (section 5), or the step waits for them."""
    name: str = field(default_factory=lambda: "fastserve", init=False)
    parked: RankedQueue = field(init=False)
    """Resident, passed over because all places of the step are taken."""
    _levels: Levels = field(init=False, repr=False)
    _prefill_steps: int = field(default_factory=int, init=False)
    """Steps without decodes, which the decode batch does not count."""
    _looks: int = field(default_factory=int, init=False)
    """Periods of looking for starving requests that are over."""
    _now: float = field(default_factory=float, init=False)
    _parked_seqs: dict[Sequence, None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        FcfsScheduler.__post_init__(self)
        self.parked = RankedQueue(State.PARKED)

    # -- protocol -------------------------------------------------------------------------------

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """Decodes come on top of a whole budget."""
        return step_within(self.max_num_batched_tokens + self.max_num_seqs, self.max_num_seqs)

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_positive("base_quantum_ms", self.base_quantum_ms)
        check_positive("starvation_s", self.starvation_s)
        if not self.quantum_ratio >= LEAST_RATIO:
            raise ConfigError(
                f"scheduler.quantum_ratio: expected at least {LEAST_RATIO}, "
                f"got {self.quantum_ratio:g}"
            )
        if self.starvation_period_steps < 1:
            raise ConfigError(
                "scheduler.starvation_period_steps: expected at least 1, "
                f"got {self.starvation_period_steps}"
            )
        self._levels = Levels(self.base_quantum_ms / 1e3, self.quantum_ratio)
        FcfsScheduler.bind(self, machine)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue in the level of its prefill."""
        self._levels.enter(seq, self._first_level(seq) if self.skip_join else 0)
        FcfsScheduler.submit(self, seq, now)

    def rank(self, seq: Sequence) -> tuple[float, ...]:
        """By level, then by the time of entering it."""
        return (*self._levels.place(seq), seq.request.arrival_s, seq.request.index)

    def plan(self, draft: Draft, now: float) -> None:
        """Sink and lift whose time has come, then as `fcfs` in the order of ranks."""
        self._now = now
        for seq in self._levels.sink(now):
            self.rank_again(seq)
        looks = self._step(draft) // self.starvation_period_steps
        if looks > self._looks:
            self._looks = looks
            for seq in self._levels.lift(now, self.starvation_s):
                self.rank_again(seq)
        FcfsScheduler.plan(self, draft, now)
        if draft.chunks and not draft.batch.size:
            self._prefill_steps += 1
        if self.proactive and self._parked_seqs:
            self._keep_blocks_free(draft)

    def ended(self, seq: Sequence) -> None:
        """Forget it."""
        FcfsScheduler.ended(self, seq)
        self._parked_seqs.pop(seq, None)
        self._levels.forget(seq)

    def until_s(self, now: float) -> float:
        """The next time that somebody sinks, if others could gain by it."""
        return inf if self._all_run else self._levels.next_sink_s()

    def steps(self, draft: Draft) -> int:
        """Until the next look for starving requests, or until blocks have to be kept free. While
        copies are under way every growth counts for whether they will be enough.
        """
        if self._all_run:
            return MAX_STEPS
        if draft.leaving_blocks:
            return 1
        period = self.starvation_period_steps
        steps = min(period - self._step(draft) % period, MAX_STEPS)
        if not (self.proactive and self._parked_seqs):
            return steps
        spare = draft.available - self.max_num_seqs
        return max(1, draft.batch.steps_within(spare, steps))

    @property
    def _all_run(self) -> bool:
        return len(self.running) == len(self._levels)

    def _step(self, draft: Draft) -> int:
        return draft.batch.step + self._prefill_steps

    def prefill_budget(self, draft: Draft) -> int:
        """The budget is for prompts alone."""
        return self.max_num_batched_tokens

    def decode_tokens(self) -> int:
        """None: decodes come on top."""
        return 0

    # -- levels ---------------------------------------------------------------------------------

    def _first_level(self, seq: Sequence) -> int:
        """The first level whose quantum covers the prefill of the whole prompt, run alone."""
        prefill_s = self.machine.cost.step_s([Chunk(seq.prefill_tokens, 0)], 0, 0)
        return self._levels.first_covering(prefill_s)

    def queue_of(self, seq: Sequence) -> RankedQueue:
        """Where a sequence waits: without blocks, or with blocks on the device while others run."""
        return self.parked if seq.state is State.PARKED else FcfsScheduler.queue_of(self, seq)

    def _add(self, seq: Sequence) -> None:
        FcfsScheduler._add(self, seq)
        self._levels.start(seq, self._now)

    # -- places ---------------------------------------------------------------------------------

    def _head(self) -> Sequence | None:
        """The next to run: new, from the host, or passed over until now."""
        head, parked = FcfsScheduler._head(self), self.parked.head()
        if head is None or parked is None:
            return head or parked
        return parked if parked.rank < head.rank else head

    def _take_in(self, draft: Draft, seq: Sequence) -> bool:
        """Run the head of the queues, in place of one of a lower level if need be."""
        if len(self.running) < self.max_num_seqs or self._can_never_run(draft, seq):
            return self._take_in_place(draft, seq) or self._end_stall(draft, seq)
        loser = self._loser(seq)
        return loser is not None and self._replace(draft, loser, seq)

    def _can_never_run(self, draft: Draft, seq: Sequence) -> bool:
        """True if it is to be rejected, which takes no place. One that is passed over has run, and
        is judged once it is off the device.
        """
        return seq.state is not State.PARKED and self._hopeless(draft, seq) is not None

    def _replace(self, draft: Draft, loser: Sequence, seq: Sequence) -> bool:
        """Let `seq` run in place of `loser`, which stays where it is if that cannot be."""
        mark = draft.mark()
        self._remove(loser)
        draft.park(loser)
        self._parked_seqs[loser] = None
        taken = self._take_in_place(draft, seq)
        if loser.state is not State.PARKED:
            return taken  # moved out to make room
        if draft.mark()[0] == mark[0] + 1:  # for nothing
            draft.rollback(mark)
            del self._parked_seqs[loser]
            self.running.add(loser)
            return False
        self._levels.stop(loser, self._now)
        self.parked.push(loser)
        return taken

    def _take_in_place(self, draft: Draft, seq: Sequence) -> bool:
        if seq.state is not State.PARKED:
            return FcfsScheduler._take_in(self, draft, seq)
        if draft.available <= draft.batch.next_growth() and not self.clear_the_way(draft, seq):
            return False  # its own next token may need a block
        self._unpark(draft, seq)
        return True

    def _fit(self, draft: Draft, seq: Sequence) -> bool:
        """As `fcfs`, with this scheduler's timing of copies. The block that a sequence needs for
        its next token may be held by one that is passed over.
        """
        if seq.state is State.WAITING:
            return FcfsScheduler._fit(self, draft, seq)
        keep_free = max(self._keep_free + bool(self.running), self._growth_at_once(draft, seq))
        keep_free += draft.batch.next_growth()
        return draft.try_swap_in(seq, keep_free=keep_free, timing=self.swap_timing)

    def _growth_at_once(self, draft: Draft, seq: Sequence) -> int:
        """Blocks that a swapped sequence takes in the very plan that brings it back, if it decodes
        in it: at most one.
        """
        if self.swap_timing == "background" or seq.computed_tokens < seq.prefill_tokens:
            return 0
        return draft.blocks_for(seq.computed_tokens + 1) - draft.blocks_for(seq.computed_tokens)

    def _loser(self, seq: Sequence) -> Sequence | None:
        """Who gives its place to `seq`: the last of a lower level that could stand aside."""
        level = self._levels.level(seq)
        for other in reversed(self.running):
            if self._levels.level(other) <= level:
                return None
            if other.state is State.DECODING:
                return other
        return None

    def _unpark(self, draft: Draft, seq: Sequence) -> None:
        draft.unpark(seq)
        del self._parked_seqs[seq]
        seq.rank = self.rank(seq)  # passes over its entry among the parked
        self._add(seq)

    # -- memory ---------------------------------------------------------------------------------

    def preempt(self, draft: Draft, victim: Sequence) -> None:
        """Take somebody off the device at once; the step waits for the copy."""
        self._take_off(draft, victim, "before_step")

    def _victim(self) -> Sequence:
        """Whose blocks the decodes get: of those that are passed over the last, else the last."""
        if self._parked_seqs:
            return max(self._parked_seqs, key=_rank_of)
        return FcfsScheduler._victim(self)

    def clear_the_way(self, draft: Draft, seq: Sequence) -> bool:
        """Move those of lower levels out for one that does not fit."""
        return self._move_out(draft, seq, self._need_blocks(draft, seq))

    def _need_blocks(self, draft: Draft, seq: Sequence) -> int:
        """Free blocks with which `seq` can run; one that is passed over holds all but the next."""
        if seq.state is State.PARKED:
            return 1
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        spare = seq.state is State.SWAPPED and len(self.running) > 0
        return draft.blocks_for(tokens) + self._keep_free + spare

    def _move_out(self, draft: Draft, seq: Sequence, need_blocks: int) -> bool:
        """Move out whom `seq` may displace until `need_blocks` are free or about to be; nobody if
        that is not enough. True if they are free now.
        """
        short = need_blocks - draft.available - draft.leaving_blocks + draft.batch.next_growth()
        if short <= 0:
            return False  # copies under way will do
        level = self._levels.level(seq)
        victims: list[Sequence] = []
        for victim in self._last_first():
            if short <= 0 or self._levels.level(victim) <= level:
                break
            if victim.state is not State.MOVING_IN:
                victims.append(victim)
                short -= draft.private_blocks(victim) + draft.grows(victim)
        if short > 0 or not draft.host_fits(*victims):
            return False
        for victim in victims:
            self._take_off(draft, victim, self.swap_timing)
        return not draft.leaving_blocks

    def _end_stall(self, draft: Draft, seq: Sequence) -> bool:
        """Where nothing happens, only those that are passed over hold blocks, and would for ever:
        take them off the device, the last first, until `seq` has room; itself too, where it holds
        all there are. True if somebody went.
        """
        if not self._nothing_happens(draft):
            return False
        short = self._need_blocks(draft, seq) - draft.available
        victims = sorted(self._parked_seqs, key=_rank_of, reverse=True)
        for victim in victims:
            short -= draft.private_blocks(victim)
            self._take_off(draft, victim, self.swap_timing)
            if short <= 0:
                break
        return bool(victims)

    def _nothing_happens(self, draft: Draft) -> bool:
        """True if nobody runs or will without a decision: no step and no copy is under way."""
        idle = draft.link_idle("d2h") and draft.link_idle("h2d")
        return idle and not self.running and not draft.ahead

    def _last_first(self) -> Iterable[Sequence]:
        """Residents, the last in order first."""
        if not self._parked_seqs:
            return reversed(self.running)
        return sorted([*self.running, *self._parked_seqs], key=_rank_of, reverse=True)

    def _take_off(self, draft: Draft, victim: Sequence, timing: Timing) -> None:
        self._remove(victim)
        self._parked_seqs.pop(victim, None)
        self._levels.stop(victim, self._now)
        if not draft.host_fits(victim):
            draft.preempt(victim, "recompute")
        else:
            draft.swap_out(victim, timing)
        if victim.state is not State.MOVING_OUT:
            self.queue_of(victim).push(victim)

    def _keep_blocks_free(self, draft: Draft) -> None:
        """Move out those that are passed over, the last first, for a block per place of a step."""
        free = draft.available + draft.leaving_blocks
        for seq in sorted(self._parked_seqs, key=_rank_of, reverse=True):
            if free >= self.max_num_seqs or not draft.host_fits(seq):
                break
            free += draft.private_blocks(seq)
            self._take_off(draft, seq, self.swap_timing)


def _rank_of(seq: Sequence) -> tuple[float, ...]:
    return seq.rank
