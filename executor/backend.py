"""The core's backend for a real device: carries out plans with a runner and a block manager."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Protocol

import numpy as np
import torch

from executor.answers import Answer, Tokens
from executor.arrivals import Traffic
from executor.clocks.clock import Clock
from executor.device import is_out_of_memory
from executor.kv.tables import BlockTable, Moves
from executor.steps.flights import Flight, Work
from executor.steps.inputs import ChunkRows, Decodes
from executor.steps.packing import Array
from executor.steps.runner import Batch, Launched, Runner, unread
from executor.steps.sampler import SamplingRow
from superinfer.engine import Engine
from superinfer.plan import Outcome, Plan, PrefillChunk
from superinfer.request import Request
from superinfer.sequence import Sequence, State


class Blocks(Protocol):
    """Where blocks are (`kv.manager.BlockManager`)."""

    def follow(self, plan: Plan | None) -> Moves:
        """What moves because of a decision that the engine has just made."""
        ...

    def table(self, seq: Sequence) -> BlockTable:
        """The blocks of a resident sequence."""
        ...

    def grow(self, plan: Plan, step: int) -> Moves:
        """What moves before a further step of a plan, from step 1 on; to be called for each."""
        ...


class Movers(Protocol):
    """Who carries out what a plan moves (`kv.swap.Mover`)."""

    def start(self, moves: Moves) -> None:
        """Queue the orders of a plan, before its first step is launched."""
        ...


class Texts(Protocol):
    """What the requests under way say (`answers.Answers`)."""

    @property
    def greedy(self) -> bool:
        """True if all take the most likely tokens."""

    def __getitem__(self, request: Request) -> Answer:
        """That of a request which has not ended."""
        ...


class TorchBackend:
    """One replica's device.

    With lag 1 and a device that runs beside the host, the next step is queued before the tokens of
    the one that runs are read.
    """

    def __init__(
        self,
        engine: Engine,
        runner: Runner,
        blocks: Blocks,
        mover: Movers,
        answers: Texts,
        clock: Clock,
        traffic: Traffic,
    ) -> None:
        self.engine = engine
        self.runner = runner
        self.blocks = blocks
        self.mover = mover
        self.answers = answers
        self.clock = clock
        self.traffic = traffic
        self.interrupted = False
        """Set by anything that the scheduler should hear of at the next step boundary."""
        self.stopping = False
        """Set to end a slice at the next step boundary, however long it was to be."""
        self.ahead = bool(engine.config.lag) and runner.asynchronous
        """Queue steps before the tokens of the one that runs are read."""
        self._work: dict[Plan, Work] = {}
        """Of plans whose last step is not over. One whose only request is given up has nothing left
        to do (`has_step`), and still a step to wait for."""
        self._flights: deque[Flight] = deque()
        self._given_up: set[Sequence] = set()
        """Who failed in a step for lack of memory: the engine ends them when that step is over, and
        a plan that is made before still has them."""

    def take(self, plan: Plan | None) -> None:
        """Carry out what a decision moves, at once after the engine has made it; queue the plan's
        first step behind the one that runs, if any does.
        """
        self.mover.start(self.blocks.follow(plan))
        if plan is None or not plan.has_step:
            return
        members = list(self.engine.batch.members) if plan.decodes else []
        lengths = np.array([self.engine.batch.length(seq) for seq in members], np.int64)
        self._work[plan] = Work(members, lengths, plan.chunks)
        if self.ahead and self._flights:
            self.launch(plan)

    def start(self, plan: Plan, now: float) -> float:
        """A plan's turn has come; returns when its batch can start."""
        return self.clock.begin(plan, now)

    def launch(self, plan: Plan) -> None:
        """Queue the next of a plan's steps."""
        work = self._work[plan]
        step = work.launched
        if step:
            self.mover.start(self.blocks.grow(plan, step))
        work.launched += 1
        batch, giving = self._batch(work, step)
        while (launched := self._launched(batch, giving)) is None:
            self._give_up_one(work, plan)
            batch, giving = self._batch(work, step)
        self._flights.append(Flight(launched, giving, work.ran(plan, step, batch)))

    def launch_last(self, plan: Plan) -> None:
        """Queue the step that is a plan's last now, unless it is on the device already."""
        work = self._work.get(plan)
        if work is not None and work.launched == plan.done_steps:
            self.launch(plan)

    def run(self, plan: Plan, now: float, limit: int, ahead: bool = False) -> Outcome:
        """A plan's steps until `limit` of them are done, a finish, an interruption or `until`.

        With `ahead` one more step than `limit` comes in any case, and may be queued early.
        """
        work, ends = self._work.get(plan), list[float]()
        if work is None:
            self.catch_up(now)
            return Outcome(now)
        while True:
            done = plan.done_steps + len(ends)
            while work.launched <= done or (ahead and self.ahead and work.launched <= done + 1):
                self.launch(plan)
            flight = self._flights.popleft()
            finished = self._landed(flight)
            now = self.clock.step_end(plan, done, now, flight.ran)
            ends.append(now)
            self.catch_up(now)
            stop = self.interrupted or self.stopping or now >= plan.until
            if done + 1 >= limit or finished or stop:
                break
        if not ahead:
            del self._work[plan]
        return Outcome(now, ends, finished)

    def catch_up(self, now: float) -> None:
        """Tell the engine what happened up to now: copies that landed, requests that came."""
        for transfer, time_s in self.clock.landed(now):
            self.engine.transferred(transfer, time_s)
            self.interrupted = True
        if self.traffic.tell(self.engine, now):
            self.interrupted = True

    def wait(self, now: float) -> float:
        """Nothing is to be done: sleep until something is; infinity if nothing can come."""
        wakeup_s = self.engine.next_wakeup(now)
        until = min(self.traffic.next_s, inf if wakeup_s is None else wakeup_s)
        now = self.clock.sleep(now, until)
        if now < inf:
            self.catch_up(now)
        return now

    def drain(self) -> None:
        """Wait for what is on the device, and forget it."""
        while self._flights:
            self._flights.popleft().launched.wait()

    # -- inside ---------------------------------------------------------------------------------

    def _launched(self, batch: Batch, giving: list[Sequence]) -> Launched | None:
        """A step on the device; None if it has too little memory for it. What the step had made by
        then hangs on the error, and is free when that is forgotten: on return.
        """
        try:
            return self.runner.launch(batch)
        except RuntimeError as error:
            # Others may share blocks that the one which fails was to compute in this step, and
            # other ranks are in the middle of it.
            shared = self.engine.eager is not None or not self.runner.alone
            if not is_out_of_memory(error) or shared or not (giving or batch.chunks):
                raise
        return None

    def _give_up_one(self, work: Work, plan: Plan) -> None:
        """A step does not fit into the device's memory: the request with the longest chunk fails,
        or else the one with the longest context, and the others go on without it.
        """
        if work.chunks:
            chunk = max(work.chunks, key=lambda chunk: chunk.tokens)
            work.chunks.remove(chunk)  # the plan's own list: the engine counts no such chunk
            failed = chunk.sequence
        else:
            place = int(work.lengths.argmax())
            failed = work.members.pop(place)
            work.lengths = np.delete(work.lengths, place)
        if self.runner.asynchronous:
            torch.cuda.empty_cache()
        self._given_up = {seq for seq in self._given_up if seq.state is not State.ENDED} | {failed}
        self.engine.end_after_step(failed, "failed", "out_of_memory", plan.now)

    def _is_out(self, seq: Sequence) -> bool:
        """Nothing is computed for it any more."""
        return seq.state is State.ENDED or seq in self._given_up

    def _batch(self, work: Work, step: int) -> tuple[Batch, list[Sequence]]:
        """A plan's step, and who gets a token of it."""
        assert len(self._flights) <= 1, "two steps whose tokens nobody has read"
        decodes, giving = self._decodes(work, step)
        chunks = []
        for chunk in work.chunks:
            seq = chunk.sequence
            if self._is_out(seq):
                continue
            chunks.append(self._chunk(chunk.moved_on(step)))
            if chunk.last:
                giving.append(seq)
        return Batch(decodes, chunks, self._sampling(giving)), giving

    def _decodes(self, work: Work, step: int) -> tuple[Decodes, list[Sequence]]:
        """The rows that decode; who ended since the plan was made is left out."""
        left = [row for row, seq in enumerate(work.members) if not self._is_out(seq)]
        if len(left) < len(work.members):
            work.members = [work.members[row] for row in left]
            work.lengths = work.lengths[left]
        members, lengths = work.members, work.lengths + step
        tables = [self.blocks.table(seq) for seq in members]
        return Decodes(tables, lengths, self._latest(members, lengths)), members.copy()

    def _latest(self, members: list[Sequence], lengths: Array) -> Array:
        """The last of so many tokens of each sequence, or where it will be on the device."""
        giving = self._flights[-1].giving if self._flights else []
        if members and giving[: len(members)] == members:  # the same rows as in the step before
            assert self.answers[members[0].request].known == lengths[0] - 1
            return unread(np.arange(len(members)))
        pairs = zip(members, lengths.tolist(), strict=True)
        return np.array([self._latest_of(seq, length) for seq, length in pairs], np.int64)

    def _latest_of(self, seq: Sequence, length: int) -> int:
        answer = self.answers[seq.request]
        if answer.known == length:
            return answer.tokens[-1]
        assert answer.known == length - 1, (seq, answer.known, length)
        return unread(self._flights[-1].entries[seq])

    def _chunk(self, chunk: PrefillChunk) -> ChunkRows:
        seq, tokens, context, last = chunk
        ids = self._tokens(seq, context, context + tokens)
        return ChunkRows(self.blocks.table(seq), context, ids, last)

    def _tokens(self, seq: Sequence, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of a sequence, the last maybe still on the device alone."""
        answer = self.answers[seq.request]
        if answer.known >= stop:
            return answer.slice(start, stop)
        assert answer.known == stop - 1, (seq, answer.known, stop)
        last = unread(self._flights[-1].entries[seq])
        return np.append(answer.slice(start, stop - 1), last)

    def _sampling(self, giving: list[Sequence]) -> list[SamplingRow] | None:
        """How the tokens are chosen; None if all are the most likely ones."""
        if self.answers.greedy:
            return None
        answers = [self.answers[seq.request] for seq in giving]
        waiting = self._flights[-1].entries if self._flights else {}
        return [
            answer.row(answer.known + (seq in waiting))
            for answer, seq in zip(answers, giving, strict=True)
        ]

    def _landed(self, flight: Flight) -> list[Sequence]:
        """Read the tokens of a step; returns who has all tokens."""
        finished = []
        for seq, token in zip(flight.giving, flight.launched.wait(), strict=True):
            if self._is_out(seq):
                continue
            answer = self.answers[seq.request]
            if not answer.over and answer.add(token):
                finished.append(seq)
        return finished
