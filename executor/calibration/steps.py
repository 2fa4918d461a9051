"""Real steps: through the runner on random batches, and through the whole driver on requests.

What a step takes beyond its kernels is host time: building its inputs and launching it, measured
on the runner's steps, and planning, placing blocks and booking tokens, measured on the driver's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from statistics import median

import numpy as np

from executor.arrivals import Arrivals
from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.calibration.timing import Deadline, time_calls
from executor.clocks.clock import RealTime
from executor.clocks.timers import current_timer
from executor.driver import Driver
from executor.session import Session
from executor.step_log import Step, StepLog
from executor.steps.runner import Batch, Runner
from executor.workload import answers_of
from superinfer.costs.base import Chunk
from superinfer.plan import Plan, Work
from superinfer.request import Request
from superinfer.slo_classes import PRESETS
from traces.workload import Workload

REPEATS, LONG_REPEATS, LONG_S = 5, 3, 0.03
"""How often a batch is run, and one that takes longer: its times lie closer."""
QUEUED = 12
"""Steps of a batch that are queued ahead in turn."""
LEAST_BATCHES = 8
"""Half of them are held out."""
MOST_REQUESTS, LEAST_REQUESTS = 48, 8
"""Through the driver."""
PROMPT_SHARE = 0.4
"""Of the driver's time for prompts, at the most: they come first, and the rest is for decodes."""
BASES, BETWEEN = (2, 3, 5), (2 / 3, 1 / 2, 1 / 2)
"""Of a Halton sequence, and by how much all of it is moved for batches that are held out. As many
points as a power of a base divide 0 to 1 evenly, and those moved lie well inside between two.
"""


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of one calibration."""

    fitted: list[Step]
    """Random batches through the runner."""
    unseen: list[Step]
    """More of them, with which nothing is fitted."""
    driven: list[Step]
    """Steps of the whole driver; host time is fitted with them."""

    def rows(self) -> dict[str, list[list[object]]]:
        """For JSON: chunks, decodes, their context, and seconds: of the step, of its replay, of one
        that is queued ahead.
        """
        sets = {"fitted": self.fitted, "unseen": self.unseen, "driven": self.driven}
        return {name: [list(astuple(step)) for step in steps] for name, steps in sets.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of random batches."""

    sequences: int
    context: int
    """Tokens of a sequence."""
    chunk_tokens: int
    """Of all chunks of a batch together."""
    total: int
    """Tokens of all sequences."""
    chunks: int = 3

    def batch(
        self, random: np.random.Generator, mixed: bool, number: int, held_out: bool = False
    ) -> Shape:
        """Decodes of random lengths and maybe some chunks. Their number and length, even in the
        logarithm, and the tokens of all chunks, of which many are more often, are points of a
        Halton sequence (1960): whichever number of batches there is time for, they cover it. Those
        held out lie between the others of these numbers.
        """
        moved = BETWEEN if held_out else (0.0, 0.0, 0.0)
        places = (spread_out(number + 1, base) + by for base, by in zip(BASES, moved, strict=True))
        place, many, far = ((p + random.random() / 64) % 1.0 for p in places)
        count = int((self.sequences + 1) ** many)
        longest = max(17.0, min(self.context, self.total / (2 * count)))
        contexts = random.uniform(0.3, 1.7, count) * 16 * (longest / 16) ** far
        chunks: list[tuple[int, int]] = []
        if mixed:
            drawn = 8 * (self.chunk_tokens / 8) ** math.sqrt(place)
            parts = int(random.integers(1, self.chunks + 1))
            tokens = min(self.context, max(1, int(drawn) // parts))
            room = max(0, min(self.context, self.total // 8) - tokens)
            # Half of those behind something have less than an eighth of the longest before them.
            before = [int((room + 1) * random.random() ** 3) if i % 2 else 0 for i in range(parts)]
            chunks = [(tokens, context) for context in before]
            if random.random() < 0.3:
                contexts = contexts[:0]
        lengths = np.clip(contexts, 1, self.context).astype(int).tolist()
        return Shape(tuple(lengths), tuple(chunks))


def spread_out(number: int, base: int) -> float:
    """The digits of a whole number in a base, behind the point and backwards: van der Corput's
    sequence, in 0 to 1, whose every beginning covers it evenly.
    """
    place, share = 0.0, 1.0
    while number:
        share /= base
        number, digit = divmod(number, base)
        place += share * digit
    return place


@dataclass(frozen=True, slots=True)
class Shape:
    """A batch: lengths of its decodes, and `(tokens, context before)` of its chunks."""

    contexts: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]


def run_batches(
    runner: Runner, source: RandomArena, shapes: Sequence[Shape], deadline: Deadline
) -> list[Step]:
    """Run each batch some times through the runner, one step after the other; medians. A few of
    them are run however late it is.
    """
    steps: list[Step] = []
    for shape in shapes:
        if deadline.over and len(steps) >= LEAST_BATCHES:
            break
        batch = Batch.of(
            decode_rows(source, list(shape.contexts), runner.model.vocab),
            chunk_rows(source, list(shape.chunks), runner.model.vocab),
        )
        runner.launch(batch).wait()
        samples = [_once(runner, batch)]
        repeats = LONG_REPEATS if samples[0] > LONG_S else REPEATS
        samples += [_once(runner, batch) for _ in range(repeats - 1)]
        chunks = tuple(Chunk(*chunk) for chunk in shape.chunks)
        work = chunks, len(shape.contexts), sum(shape.contexts)
        replay_s = _replay_s(runner, batch)
        queued_s = None if replay_s is None else _queued_s(runner, batch)
        steps.append(Step(*work, median(samples), replay_s, queued_s))
    return steps


def middle_steps(rounds: Sequence[Sequence[Step]]) -> list[Step]:
    """Medians of steps that were measured in several rounds, of which some may have ended early."""
    found = []
    for index in range(max(len(ran) for ran in rounds)):
        same = [ran[index] for ran in rounds if index < len(ran)]
        found.append(replace(same[0], seconds=median(step.seconds for step in same)))
    return found


def _replay_s(runner: Runner, batch: Batch) -> float | None:
    """Seconds of the batch's graph alone."""
    if runner.graphs is None:
        return None
    replay = runner.graphs.prepared(batch)
    if replay is None:
        return None
    return time_calls([replay], runner.device, 0.03, graph=False).seconds


def _once(runner: Runner, batch: Batch) -> float:
    timer = current_timer()
    timer.rest()
    begin_s = timer.read()
    runner.launch(batch).wait()
    return timer.read() - begin_s


def _queued_s(runner: Runner, batch: Batch) -> float:
    """Seconds from one step's tokens to those of the next, which is queued before they are there,
    as a driver with lag 1 does it.
    """
    timer, ends = current_timer(), list[float]()
    running = runner.launch(batch)
    for _ in range(QUEUED):
        following = runner.launch(batch)
        running.wait()
        ends.append(timer.read())
        running = following
    running.wait()
    return float(np.median(np.diff(ends)))


class LimitedTime(RealTime):
    """Real time that stops the driver when its time is over."""

    def __init__(self, session: Session, deadline: Deadline, log: StepLog) -> None:
        super().__init__(session.mover.poll, lambda: session.mover.busy, True, current_timer(), log)
        self.deadline = deadline
        self.driver: Driver | None = None

    def step_end(self, plan: Plan, step: int, start_s: float, ran: Work) -> float:
        """As in real time."""
        end_s = super().step_end(plan, step, start_s, ran)
        if self.deadline.over and self.driver is not None:
            self.driver.stopped = True
        return end_s


def run_driver(session: Session, workload: Workload, deadline: Deadline) -> list[Step]:
    """Run requests through engine and driver; all steps, each with its planning."""
    model, log = session.model, StepLog()
    answers = answers_of(workload, model.vocab, model.max_model_len, seed=0)
    clock = LimitedTime(session, deadline, log)
    clock.driver = session.driver(answers, Arrivals(workload.requests), clock)
    clock.restart()
    clock.driver.run()
    return log.steps()


def workload_within(
    limits: Limits, batches: Sequence[Step], seconds: float, seed: int = 0
) -> Workload:
    """A `random_workload` for that time, at the rate at which the batches' chunks were computed: a
    large model takes seconds for what a small one computes at once.
    """
    whole = random_workload(limits, MOST_REQUESTS, seed)
    chunked = [step for step in batches if step.chunks]
    token_s = sum(step.seconds for step in chunked) / max(1, sum(step.tokens for step in chunked))
    prompts_s = token_s * sum(request.prompt_tokens for request in whole.requests)
    if prompts_s <= PROMPT_SHARE * seconds:
        return whole
    count = int(MOST_REQUESTS * PROMPT_SHARE * seconds / prompts_s)
    return random_workload(limits, max(LEAST_REQUESTS, count), seed)


def random_workload(limits: Limits, count: int, seed: int = 0) -> Workload:
    """Requests that come in a few waves, with prompts and answers of random lengths. They are of
    two classes in turn: with targets and without.
    """
    random = np.random.default_rng(seed)
    longest = min(limits.chunk_tokens, limits.context)
    prompts = np.exp(random.uniform(np.log(8), np.log(longest), count)).astype(int)
    answers = random.integers(8, 65, count).tolist()
    arrivals = np.sort(random.integers(0, 4, count) * 1000.0)
    requests = [
        Request(
            request_id=str(index),
            arrival_s=float(arrivals[index]),
            prompt_tokens=int(prompts[index]),
            max_tokens=answers[index],
            slo_class=PRESETS["chat" if index % 2 else "batch"],
            index=index,
        )
        for index in range(count)
    ]
    return Workload(requests, answers)
