"""Settings of `sglang`, and how its batches follow one another."""

from __future__ import annotations

from dataclasses import dataclass, field

from mypy_extensions import mypyc_attr

from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.sglang import order
from superinfer.schedulers.sglang.admission import NO_CHUNKS, PrefillBatch, Verdict
from superinfer.schedulers.sglang.estimate import NewTokenRatio
from superinfer.schedulers.sglang.retraction import retract
from superinfer.schedulers.sglang.rounds import Rounds
from superinfer.schedulers.sglang.rules import (
    RULES,
    Policy,
    Rules,
    Version,
    check_settings,
    max_running_requests,
)
from superinfer.schedulers.sglang.running import RunningBatch
from superinfer.sequence import Sequence, State

_DECODING, _WAITING = State.DECODING, State.WAITING  # reading a member off its class is slow


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class SglangScheduler:
    """Prefill first; the defaults are those of the server's arguments on GPUs of 25 GB or more."""

    version: Version = "0.4.6"
    policy: Policy | None = None
    """Order of the waiting queue; absent: what the version does (`fcfs` at v0.4.6, else `lpm`)."""
    max_num_seqs: int | None = None
    """Limit of running requests; absent: from the pool and the longest context."""
    max_prefill_tokens: int = 16384
    chunked_prefill_tokens: int = 8192
    """Prompt tokens of a batch; a longer prompt is cut. 2048 on smaller GPUs; 0: never cut."""
    mixed_chunk: bool = False
    """Decodes run beside a prefill."""
    schedule_conservativeness: float = 1.0
    clip_new_tokens: int = 4096
    """Most new tokens that are expected of a request."""
    retract_decode_steps: int = 20
    """Decode steps for which a retraction makes room."""
    stream: bool = True
    """v0.3.2: clients stream, which ends rounds of decode steps."""
    stream_interval: int = 8
    """v0.3.2: decode steps between two sends of tokens."""
    name: str = field(default_factory=lambda: "sglang", init=False)
    block_tokens: int = field(default_factory=lambda: 1, init=False)
    copies_per_block: int = field(default_factory=int, init=False)
    """A copy collects its tokens first: what it costs to set up does not grow with them."""

    waiting: list[Sequence] = field(default_factory=list, init=False)
    chunked: Sequence | None = field(default_factory=lambda: None, init=False)
    """The one whose prompt is partly computed."""
    full: bool = field(default_factory=bool, init=False)
    """True while no prefill is tried, since the running batch takes all memory or places."""
    _arrived: list[Sequence] = field(default_factory=list, init=False)
    _prefilled: list[Sequence] = field(default_factory=list, init=False)
    """The prompts that the latest prefill batch completes."""
    _mixed: bool = field(default_factory=bool, init=False)
    """True if the running requests were in that batch."""
    _just_finished: bool = field(default_factory=bool, init=False)
    _gone: bool = field(default_factory=bool, init=False)
    """True if a request may have ended in the waiting queue."""
    _mixed_steps: int = field(default_factory=int, init=False)
    _rules: Rules = field(init=False)
    _ratio: NewTokenRatio = field(init=False)
    _running: RunningBatch = field(init=False)
    _rounds: Rounds | None = field(default_factory=lambda: None, init=False)
    _machine: Machine = field(init=False)
    _places: int = field(default_factory=int, init=False)
    _longest_tokens: int = field(default_factory=int, init=False)
    """Longest prompt plus answer."""

    # -- protocol -------------------------------------------------------------------------------

    def largest_prefill(self, max_model_len: int) -> int:
        """A chunk; uncut, the longest prompt or as many shorter ones as a batch takes."""
        return self.chunked_prefill_tokens or max(self.max_prefill_tokens, max_model_len)

    def bind(self, machine: Machine) -> None:
        """Settle the defaults that depend on the machine."""
        check_settings(self, machine.block_tokens)
        self._machine, rules = machine, RULES[self.version]
        self._rules = rules
        self._ratio = NewTokenRatio(rules, self.schedule_conservativeness)
        self._running = RunningBatch(self.clip_new_tokens)
        if rules.full == "rounds":
            self._rounds = Rounds(self.stream, self.stream_interval)
        pool_tokens = machine.total_blocks * machine.block_tokens
        default = max_running_requests(rules, pool_tokens, machine.max_model_len)
        self._places = self.max_num_seqs or default
        self._longest_tokens = min(machine.max_model_len, pool_tokens) - 1

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue at the back, once the next plan has looked at its length."""
        self._arrived.append(seq)
        if self._rounds is not None:
            self._rounds.arrived = True

    def plan(self, draft: Draft, now: float) -> None:
        """One batch of the real scheduler, or a slice of identical decode steps."""
        self._take_in(draft)
        self._merge(draft)
        if self._may_prefill(draft) and self._prefill(draft):
            return
        self._filter()
        while not draft.batch.size:
            self._idle(draft)
            if not self.waiting or self._prefill(draft):
                return
        self._decode(draft)

    def swapped_out(self, seq: Sequence) -> None:
        """Never called: nothing is swapped."""

    def resumed(self, seq: Sequence) -> None:
        """Never called: nothing is swapped."""

    def ended(self, seq: Sequence) -> None:
        """Forget a sequence; the running batch does so when it is next filtered."""
        if seq is self.chunked:
            self.chunked = None
        elif seq in self._running:
            self._just_finished = self._just_finished or seq.outcome == "finished"
            self._running.ended(seq)
            if self._rounds is not None:
                self._filter()
        else:
            self._gone = True

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None

    def _take_in(self, draft: Draft) -> None:
        """Queue what has arrived, or turn it away: v0.4 wants some room below the longest request
        (`validate_input_length` in `managers/utils.py`).
        """
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        longest = self._longest_tokens - self._rules.input_margin_tokens
        for seq in arrived:
            if seq.state is not _WAITING:
                continue
            if seq.request.prompt_tokens < longest:
                self.waiting.append(seq)
            else:
                draft.reject(seq, "prompt_too_long")

    # -- the running batch ----------------------------------------------------------------------

    def _merge(self, draft: Draft) -> None:
        """The requests of the latest prefill batch join the running ones."""
        if self.chunked is not None and self._rules.full == "scheduler":
            self.full = False
        latest, self._prefilled = self._prefilled, []
        mixed, self._mixed = self._mixed, False
        if not latest and not mixed:
            return
        ended = mixed and self._filter()
        joined = [seq for seq in latest if seq.state is _DECODING]
        was_empty = mixed or self._running.size(draft) == len(joined)
        ended = ended or len(joined) < len(latest)
        self._running.seat(draft, joined, self._limit, in_front=mixed)
        if self._rules.full == "batch" and (ended or (was_empty and draft.batch.size)):
            self.full = False  # the flag belongs to the batch object that is replaced

    def _filter(self) -> bool:
        """Drop the ended requests from the running batch; True if there were some."""
        ended = self._running.filter()
        if ended:
            self.full = False
        return ended

    def _idle(self, draft: Draft) -> None:
        """An iteration in which nothing can run."""
        self._ratio.reset(self._decode_steps(draft))
        self.full = False
        if self._rounds is not None:
            self._rounds.forget(self._decode_steps(draft))

    def _decode(self, draft: Draft) -> None:
        """A decode step of everybody, or several while no prefill would be tried."""
        batch = draft.batch
        if draft.available < batch.next_growth():
            self._retract(draft)
            if batch.size:
                draft.decode(1)
            return
        draft.decode(self._slice(draft))

    def _slice(self, draft: Draft) -> int:
        """Steps until a prefill may be tried, if nobody comes or finishes before."""
        if not self.waiting:
            return MAX_STEPS
        rounds = self._rounds
        if rounds is None:
            return MAX_STEPS if self.full else 1
        return rounds.left(self._decode_steps(draft)) if rounds.arrived else MAX_STEPS

    def _decode_steps(self, draft: Draft) -> int:
        """Decode steps planned so far, mixed ones not counted."""
        return draft.batch.step - self._mixed_steps

    def _retract(self, draft: Draft) -> None:
        """Make room for the next steps of the others, and learn from it how much to expect."""
        batch = draft.batch
        victims, rest = retract(draft, self._machine.block_tokens, self.retract_decode_steps)
        for seq in victims:
            self._running.discard(seq)
        self.waiting += victims
        self.full = self.full and not victims
        if draft.available < batch.next_growth():  # alone, and the pool is full
            draft.fail(rest[0], "answer_exceeds_kv_capacity")
            return
        emitted = sum(batch.output_tokens(seq) for seq in rest)
        ahead = self.retract_decode_steps * len(rest)
        limits = sum(self._limit(seq) for seq in rest)
        self._ratio.set(min(1.0, (emitted + ahead) / limits), self._decode_steps(draft) + 1)

    # -- prefill --------------------------------------------------------------------------------

    def _may_prefill(self, draft: Draft) -> bool:
        """True if this iteration looks for a prefill."""
        if self._rounds is not None:
            return self._between_rounds(draft, self._rounds)
        return self.chunked is not None or (bool(self.waiting) and not self.full)

    def _between_rounds(self, draft: Draft, rounds: Rounds) -> bool:
        """v0.3.2: a round has ended and something has changed."""
        steps = self._decode_steps(draft)
        if self._just_finished:
            rounds.finished(steps)
            self._just_finished = False
        if self.chunked is None and draft.batch.size and rounds.left(steps):
            return False
        tried = self.chunked is not None or (bool(self.waiting) and rounds.may_try(steps))
        if tried:
            rounds.forget(steps)
        else:
            rounds.open(steps)
        return tried

    def _prefill(self, draft: Draft) -> bool:
        """Try to make a prefill batch; False if nobody can be admitted."""
        running = self._running.size(draft)
        if self.chunked is None and running >= self._places:
            self.full = True
            return False
        self._drop_gone()
        looked_up = self._sort(draft)
        batch = self._new_batch(draft, running)
        self._fill(draft, batch, running, looked_up)
        if not batch.seqs:
            return False
        self.chunked = batch.tail
        self._prefilled = [seq for seq in batch.seqs if seq is not batch.tail]
        if self.mixed_chunk:
            self._mix(draft)
        return True

    def _new_batch(self, draft: Draft, running: int) -> PrefillBatch:
        """An empty batch with its budgets, and in it the next chunk of the prompt under way."""
        chunk_tokens = self.chunked_prefill_tokens or NO_CHUNKS
        batch = PrefillBatch(
            draft, self._machine.block_tokens, self.max_prefill_tokens, chunk_tokens
        )
        if self.mixed_chunk:
            batch.share_with_decodes(running)
        if running:
            ratio = self._ratio.at(self._decode_steps(draft))
            batch.reserve(ratio * self._running.reserve.tokens(draft.batch.step))
        if self.chunked is not None:
            batch.go_on(self.chunked, self._clipped(self.chunked))
        return batch

    def _fill(self, draft: Draft, batch: PrefillBatch, running: int, looked_up: bool) -> None:
        """Admit from the head of the queue until something runs out."""
        waiting, taken = self.waiting, 0
        while taken < len(waiting):
            if running + len(batch.seqs) >= self._places:
                self.full = True
                break
            seq = waiting[taken]
            # Looked up anew: whoever was admitted before may have brought more to the device.
            node = draft.find_prefix(seq, touch=not looked_up)
            verdict = batch.add(seq, self._clipped(seq), node)
            admitted = bool(batch.seqs) and batch.seqs[-1] is seq
            taken += admitted
            if verdict is Verdict.NO_TOKEN and not (running or batch.seqs):
                waiting.pop(taken)  # nothing will ever be freed for it
                draft.reject(seq, "retracted_never_fits")
                continue
            if verdict is not Verdict.MORE:
                self.full = self.full or verdict is Verdict.NO_TOKEN
                break
        del waiting[:taken]

    def _mix(self, draft: Draft) -> None:
        """Put the running requests into the batch; it takes their place when it has run."""
        self._running.filter()
        batch = draft.batch
        if batch.size and batch.next_growth() <= draft.available:
            draft.decode(1)
            self._mixed = True
            self._mixed_steps += 1

    def _sort(self, draft: Draft) -> bool:
        """Put the queue in order; returns whether that looked everybody's prefix up."""
        policy, rules, waiting = self.policy or self._rules.policy, self._rules, self.waiting
        if policy == "lof":
            order.by_longest_output(waiting, self._limit)
        if policy not in ("lpm", "dfs-weight") or not self._machine.prefix_caching:
            return False
        if policy == "lpm" and rules.lpm_limit is not None and len(waiting) > rules.lpm_limit:
            return False
        found = order.look_up(draft, waiting)
        if policy == "lpm":
            block_tokens = self._machine.block_tokens
            order.by_longest_prefix(waiting, found, block_tokens, rules.in_batch)
        else:
            order.by_depth_first_weight(waiting, found)
        return True

    def _drop_gone(self) -> None:
        """Take requests that ended out of the queue."""
        if self._gone:
            self.waiting = [seq for seq in self.waiting if seq.state is _WAITING]
            self._gone = False

    def _limit(self, seq: Sequence) -> int:
        """Output tokens that the request may have (`max_new_tokens`)."""
        request = seq.request
        room = self._longest_tokens - request.prompt_tokens - 1
        return max(1, min(request.max_tokens, room))

    def _clipped(self, seq: Sequence) -> int:
        return min(self._limit(seq), self.clip_new_tokens)
