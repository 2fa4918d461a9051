"""Coming in and going out: blocks for who enters, room for who is urgent, and forced exits."""

from __future__ import annotations

from math import inf
from typing import Final

from superinfer.draft import MAX_STEPS, Draft
from superinfer.memory.base import Timing
from superinfer.schedulers.rotating.admission import Admission
from superinfer.schedulers.rotating.counters import Counters
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.device import OnDevice
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.rotation import Rotation
from superinfer.schedulers.rotating.settings import Settings
from superinfer.schedulers.rotating.waiting import Waiting
from superinfer.sequence import State

LOOKAHEAD_STEPS: Final = 8
"""Somebody leaves in the background when the decodes run out of blocks within so many steps."""
MOST_LATE: Final = 0.5
"""Requests whose first tokens were given up, per request that decodes: where more of them wait, no
stream gives its place to another. It is no burst any more that will be over before it is due.
"""
ANSWER_SHARE: Final = 0.5
"""Of an answer, what streams under way have left in the mean: in that time they have to get over
the prompts that wait.
"""


def need_blocks(draft: Draft, job: Job) -> int:
    """Blocks that a request needs to come in, and one to go on."""
    seq = job.seq
    return draft.blocks_for(max(seq.prefill_tokens, seq.computed_tokens)) + 1


class Entrance:
    """Moves requests between the queues, the device and the host, through the draft."""

    def __init__(
        self,
        settings: Settings,
        outlook: Outlook,
        waiting: Waiting,
        device: OnDevice,
        rotation: Rotation,
        admission: Admission,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._outlook = outlook
        self._waiting = waiting
        self._device = device
        self._rotation = rotation
        self._admission = admission
        self._counters = counters
        self.held_back = False
        """True if this decision put a copy back off, for the share that such copies have."""
        self.prefetch_from_s = -inf
        """From when on there is link time for the next copy back of who is not urgent."""
        self._keep_free = int(settings.watermark * outlook.machine.total_blocks)

    # -- in -------------------------------------------------------------------------------------

    def admit(self, draft: Draft, job: Job) -> bool:
        """Take in a request that is not urgent, if what is predicted to grow still fits."""
        device = self._device
        if job.since_s == draft.now and job.seq.preemptions and device.places:
            return False  # it has only just left, for others
        # Who is late for its first token gets it as soon as its blocks are there.
        if self._settings.admission and device.places and not (job.aged or job.late):
            here = (device.residents, device.entering, device.version)
            if not self._admission.fits(draft, job, *here):
                return False
        return self.take_in(draft, job, 0)

    def take_in(self, draft: Draft, job: Job, reserved: int) -> bool:
        """Give a request its blocks, or turn it away for ever; False if it has to wait.

        `reserved` blocks stay free for others.
        """
        seq = job.seq
        if rule := self._never_fits(draft, job):
            self._waiting.set_aside(job)  # with lag 1 it ends after the step under way
            draft.reject(seq, rule)
            return True
        if self._device.places >= self._settings.max_num_seqs or self.yields(draft, job):
            return False
        keep_free = reserved + self._kept(draft)
        if seq.state is not State.WAITING:
            return self._bring_back(draft, job, keep_free)
        if not draft.try_admit(seq, keep_free=keep_free):
            return False
        self._place(draft, job)
        self._device.settle_in(job)
        return True

    def make_room(self, draft: Draft, job: Job, reserved: int) -> bool:
        """Rotate residents out, in this very step, for an urgent request; False if nobody can
        leave, or if the pace that all are owed could not be held.
        """
        settings = self._settings
        if not settings.rotation or self._device.places >= settings.max_num_seqs:
            return False
        if settings.admission and self._admission.too_fast(job, draft, self._outlook.step_s):
            return False
        short = need_blocks(draft, job) + reserved + self._kept(draft)
        short -= draft.available + draft.leaving_blocks
        victims: list[Job] = []
        turn_s = self._rotation.turn_s(draft)
        stay = self._streams_stay(draft, job)
        while short > 0:
            victim = self._rotation.victim(draft, turn_s, victims, streams_stay=stay)
            if victim is None:
                return False  # nobody leaves in vain
            short -= draft.private_blocks(victim.seq) + draft.grows(victim.seq)
            victims.append(victim)
        if victims and not draft.host_fits(*[victim.seq for victim in victims]):
            return False
        for victim in victims:
            self._rotate_out(draft, victim, "before_step")
        return True

    def yields(self, draft: Draft, job: Job) -> bool:
        """True if a new request lets streams that are out come back first: one of them has to be
        back by now, or with it all could not be given what they are owed. Nothing is waited for
        while nobody is here, nor by the aged, nor by a stream whose cache was dropped: it is owed
        its next token like those on the host, and never ages.
        """
        if job.aged or job.seq.output_tokens or not self._device.places:
            return False
        if job.seq.state is not State.WAITING:
            return False
        waiting = self._waiting
        return waiting.any_pressing or (waiting.any_away and self._crowded(draft, job))

    # -- out ------------------------------------------------------------------------------------

    def make_room_for_growth(self, draft: Draft) -> bool:
        """Preempt at once until every decode finds its next block; True if anybody had to go."""
        disturbed = False
        while draft.available < draft.batch.next_growth():
            job = self._rotation.any_victim()
            assert job is not None  # who grows is resident
            self._device.take_off(job, draft.batch.step)
            if draft.host_fits(job.seq) and not self._drop_loser(draft, job):
                draft.preempt(job.seq, "swap")
            elif job.seq.state is not State.WAITING:
                draft.preempt(job.seq, "recompute")
            self._leaves(draft, job)
            self._counters.add("forced_preemptions")
            disturbed = True
        return disturbed

    def look_ahead(self, draft: Draft) -> None:
        """Let somebody leave beside the computation before the decodes run out of blocks."""
        batch = draft.batch
        if not self._settings.rotation or batch.size < 2:
            return
        if batch.growth(LOOKAHEAD_STEPS) > draft.available + draft.leaving_blocks:
            # who would be back before then makes no room
            job = self._rotation.victim(draft, LOOKAHEAD_STEPS * self._outlook.step_s)
            if job is not None:
                self._rotate_out(draft, job, "background")

    def steps_unforeseen(self, draft: Draft) -> int:
        """Steps until `look_ahead` could act, at least one."""
        batch = draft.batch
        if not self._settings.rotation or batch.size < 2:
            return MAX_STEPS
        return max(1, batch.steps_within(draft.available, MAX_STEPS) - LOOKAHEAD_STEPS + 1)

    def send_back(self, draft: Draft, job: Job) -> None:
        """Let a prompt that has begun leave for others. What the prefix cache keeps of it is found
        again; without one it is copied out beside the computation.
        """
        copied = self._settings.rotation and not self._outlook.machine.prefix_caching
        if copied and draft.host_fits(job.seq):
            self._rotate_out(draft, job, "background")
            return
        self._device.take_off(job, draft.batch.step)
        draft.preempt(job.seq, "recompute")
        self._leaves(draft, job)

    # -- inside ---------------------------------------------------------------------------------

    def _streams_stay(self, draft: Draft, job: Job) -> bool:
        """True if nobody who is owed a pace leaves for a request. The place of such a stream is
        lent: it needs one again before it has lost its pace. Where more is owed than given, or the
        queue only grows, that is the place of another one, and so on, and all are late. The aged
        have been promised theirs.
        """
        if job.aged:
            return False
        return self._waiting.late > MOST_LATE * draft.batch.size or self._crowded(draft, job)

    def _crowded(self, draft: Draft, job: Job) -> bool:
        """True if with a new stream more would be owed than is given."""
        settings, admission, outlook = self._settings, self._admission, self._outlook
        if not (settings.admission and settings.rotation):
            return False
        prompts = self._waiting.prompt_tokens + self._device.prompt_tokens
        answer = ANSWER_SHARE * outlook.tokens_left(job, job.seq.output_tokens)
        return admission.too_fast(job, draft, outlook.likely_step_s(prompts, answer))

    def _rotate_out(self, draft: Draft, job: Job, timing: Timing) -> None:
        """Copy a resident to the host, or drop its cache where that costs less."""
        self._device.take_off(job, draft.batch.step)
        if not self._drop_loser(draft, job):
            draft.swap_out(job.seq, timing)
            self._counters.add("rotations")
        self._leaves(draft, job)

    def _drop_loser(self, draft: Draft, job: Job) -> bool:
        """Drop a cache that is computed again in less time than copied out and back."""
        if not draft.offload_loses(job.seq):
            return False
        draft.note("no_offload", job.seq)
        draft.preempt(job.seq, "recompute")
        return True

    def _leaves(self, draft: Draft, job: Job) -> None:
        if draft.batch.step > job.join_step:  # else it left before it got a token
            job.since_s = draft.now
        if job.seq.state in (State.WAITING, State.SWAPPED):
            self._waiting.add(job, draft.now)

    def _bring_back(self, draft: Draft, job: Job, keep_free: int) -> bool:
        """Copy a request back: ahead of need beside the computation, else before the step."""
        ahead = self._settings.prefetch and draft.now < job.start_by_s and not job.aged
        budgeted = ahead and not (job.hurried and job.level == 0)
        if budgeted and draft.now < self.prefetch_from_s:
            self.held_back = True
            return False
        timing: Timing = "background" if ahead else "before_step"
        seq = job.seq
        blocks, small = seq.host_blocks, seq.host_small
        # With an unfinished prefill come the blocks of the whole prompt.
        decodes = seq.computed_tokens >= seq.prefill_tokens
        grows = decodes and draft.blocks_for(seq.computed_tokens + 1) > blocks
        spare = 1 if grows or self._device.places else 0  # for its next token
        if not draft.try_swap_in(seq, keep_free=keep_free + spare, timing=timing):
            return False
        self._place(draft, job)
        if budgeted:
            copy_s = draft.copy_s(blocks, "h2d", small)
            self.prefetch_from_s = draft.now + copy_s / self._settings.prefetch_share
        if ahead:
            self._counters.add("prefetched_blocks", draft.full_blocks(blocks, small))
            draft.note("prefetch", job.seq)
        else:
            self._device.settle_in(job)
        return True

    def _place(self, draft: Draft, job: Job) -> None:
        self._waiting.comes_in(job)
        self._device.take_place(job, need_blocks(draft, job))

    def _never_fits(self, draft: Draft, job: Job) -> str | None:
        """The rule by which a request can never run, if there is one."""
        seq = job.seq
        if seq.prefill_tokens > self._outlook.machine.max_model_len:
            return "prompt_too_long"
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        if draft.blocks_for(tokens) + self._keep_free > draft.pool.size:
            return "exceeds_kv_capacity"
        return None

    def _kept(self, draft: Draft) -> int:
        """Blocks that stay free beside an admission."""
        return self._keep_free + draft.batch.next_growth()
