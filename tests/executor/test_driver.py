"""The loop on a real clock: arrivals, being stopped, and requests that fail alone."""

from __future__ import annotations

import time
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from executor_runs import IdleModel, Rig, forced, sizes_for
from harness import FakeCost, IdleScheduler, request

from executor.answers import Answer, Answers
from executor.arrivals import Arrivals
from executor.backend import TorchBackend
from executor.clocks.clock import RealTime
from executor.driver import Driver
from executor.ranks.leading import LeadingRunner
from executor.session import out_of_memory
from executor.step_log import StepLog
from superinfer.engine import Engine
from superinfer.errors import StuckError, SuperInferError
from superinfer.memory.lru import LruMemory
from superinfer.schedulers.fcfs import FcfsScheduler


def rig_for(model=None, scheduler=None, blocks=100, **config):
    model, memory = model or IdleModel(4), LruMemory("swap", "background")
    sizes = sizes_for(model.layout, memory, blocks, max_model_len=512, **config)
    scheduler = scheduler or FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8)
    return Rig(Engine(scheduler, memory, FakeCost(), sizes), model)


def test_requests_come_at_their_times():
    requests = [request(i, 5, 0, i * 0.1) for i in range(4)]
    rig = rig_for()
    clock = RealTime(rig.mover.poll, lambda: rig.mover.busy)
    started = time.monotonic()
    rig.run(requests, forced(requests, [3] * 4), clock)
    assert time.monotonic() - started >= 0.3
    record = rig.engine.recorder.build(rig.engine)
    assert record.table.state == ["finished"] * 4
    first = record.table.first_token_s
    assert (first > [0.0, 0.1, 0.2, 0.3]).all()
    assert (record.table.finish_s >= first).all()


@pytest.mark.parametrize("lag", [0, 1])
def test_idle_time_can_be_left_out(lag):
    requests = [request(i, 5, 0, i * 1000.0) for i in range(3)]
    rig = rig_for(lag=lag)
    started = time.monotonic()
    driver = rig.run(requests, forced(requests, [3] * 3), rig.real_time())
    assert time.monotonic() - started < 60
    assert 2000 < driver.now < 2100
    assert rig.engine.recorder.build(rig.engine).table.output_tokens.tolist() == [3] * 3


class StoppingModel(IdleModel):
    """Stops the driver in one of its steps."""

    driver: Driver
    steps = 0

    def forward(self, step, arena):
        self.steps += 1
        if self.steps == 6:
            self.driver.stop()
        return super().forward(step, arena)


@pytest.mark.parametrize("lag", [0, 1])
def test_what_was_done_is_left_when_it_is_stopped(lag):
    model = StoppingModel(4)
    rig = rig_for(model, lag=lag)
    requests = [request(0, 4, 0), request(1, 4, 0), request(2, 4, 0, 500.0)]
    backend = TorchBackend(
        rig.engine,
        rig.runner,
        rig.manager,
        rig.mover,
        forced(requests, [3, 400, 3]),
        rig.given_times(),
        Arrivals(requests),
    )
    model.driver = Driver(backend)
    model.driver.run()
    table = rig.engine.recorder.build(rig.engine).table
    assert table.state == ["finished", "unfinished"]
    assert model.steps <= 8
    assert rig.engine.pool.referenced == 0 and not rig.engine.live


@pytest.mark.parametrize("lag", [0, 1])
def test_requests_that_nothing_serves_are_an_error(lag):
    rig = rig_for(scheduler=IdleScheduler(), lag=lag)
    requests = [request(0, 4, 0)]
    with pytest.raises(StuckError, match="1 requests can never run"):
        rig.run(requests, forced(requests, [3]))


class HungryModel(IdleModel):
    """Has no memory for long chunks."""

    error: RuntimeError

    def forward(self, step, arena):
        if step.prefill is not None and step.prefill.longest >= 10:
            raise self.error
        return super().forward(step, arena)


ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
ON_THE_HOST = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize("error", [ON_A_GPU, ON_THE_HOST])
@pytest.mark.parametrize(("lag", "ahead"), [(0, False), (1, False), (1, True)])
def test_a_request_that_fails_ends_alone(lag, ahead, error):
    model = HungryModel(4)
    model.error = error
    rig = rig_for(model, lag=lag, prefix_caching=True)
    rig.ahead = ahead
    ids = tuple(range(8))
    requests = [
        request(0, 5, 0),
        request(1, 32, 0, hash_ids=ids, hash_block_tokens=4),
        request(2, 6, 0),
    ]
    rig.run(requests, forced(requests, [9] * 3))
    table = rig.engine.recorder.build(rig.engine).table
    assert table.state == ["finished", "failed", "finished"]
    assert table.reject_reason[1] == "out_of_memory"
    assert table.output_tokens.tolist() == [9, 0, 9]
    assert rig.engine.pool.referenced == 0
    assert not [node for node in rig.engine.tree.nodes() if not node.answer]  # nothing to find


class CrampedModel(IdleModel):
    """Runs out of memory once, in the middle of a slice of decodes; knows what it did."""

    def __init__(self):
        super().__init__(4)
        self.did = []

    def forward(self, step, arena):
        if step.decodes >= 3 and len(self.did) == 6:
            raise ON_A_GPU
        chunks = [] if step.prefill is None else step.prefill.tokens.sum(1).tolist()
        keys = int((step.positions[: step.decodes] + 1).sum())
        self.did.append((step.decodes, keys, sum(chunks)))
        return super().forward(step, arena)


@pytest.mark.parametrize(("lag", "ahead"), [(0, False), (1, False), (1, True)])
def test_the_record_of_steps_has_what_ran(lag, ahead):
    """Without the decode that is given up, and without those that end before a step begins."""
    model, log = CrampedModel(), StepLog()
    rig = rig_for(model, lag=lag)
    rig.ahead = ahead
    requests = [request(i, prompt, 0) for i, prompt in enumerate((5, 6, 9))]
    clock = RealTime(rig.mover.poll, lambda: rig.mover.busy, skip_idle=True, log=log)
    rig.run(requests, forced(requests, [9, 12, 20]), clock)
    table = rig.engine.recorder.build(rig.engine).table
    assert table.state == ["finished", "finished", "failed"]
    found = [
        (step.decodes, step.context_tokens, sum(c.tokens + c.context_tokens for c in step.chunks))
        for step in log.steps()
    ]
    assert found == model.did
    assert {decodes for decodes, _, _ in found} >= {1, 2, 3}


@pytest.mark.parametrize("ahead", [False, True])
def test_a_plan_of_nothing_but_a_request_that_fails(ahead):
    """Its step is empty, and waited for all the same."""
    model = HungryModel(4)
    model.error = ON_A_GPU
    rig = rig_for(model, lag=1)
    rig.ahead = ahead
    requests = [request(0, 12, 0), request(1, 5, 0, 2.0), request(2, 14, 0, 2.1)]
    rig.run(requests, forced(requests, [3, 6, 3]), rig.real_time())
    table = rig.engine.recorder.build(rig.engine).table
    assert table.state == ["failed", "finished", "failed"]
    assert table.output_tokens.tolist() == [0, 6, 0]


def test_a_step_that_other_ranks_run_too_is_not_tried_again():
    """They would wait for the rest of it for ever."""
    model = HungryModel(4)
    model.error = ON_A_GPU
    rig, requests = rig_for(model), [request(0, 32, 0)]
    rig.runner.alone = LeadingRunner.alone
    with pytest.raises(torch.OutOfMemoryError):
        rig.run(requests, forced(requests, [2]))


def test_what_a_failed_step_had_made_is_free_when_another_is_tried(monkeypatch):
    """Or torch could not give its memory back."""
    made, alive = [], []

    class Large(IdleModel):
        def forward(self, step, arena):
            activations = torch.ones(8)
            made.append(weakref.ref(activations))
            if step.prefill is not None:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(step, arena)

    give_up = TorchBackend._give_up_one

    def watched(*arguments):
        alive.append(made[-1]() is not None)
        return give_up(*arguments)

    monkeypatch.setattr(TorchBackend, "_give_up_one", watched)
    requests = [request(0, 32, 0)]
    rig_for(Large(4)).run(requests, forced(requests, [2]))
    assert alive == [False]


def test_another_error_of_a_step_is_not_taken_for_lack_of_memory():
    model = HungryModel(4)
    model.error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    requests = [request(0, 32, 0)]
    with pytest.raises(RuntimeError, match="shapes"):
        rig_for(model).run(requests, forced(requests, [2]))


@pytest.mark.parametrize(("error", "size"), [(ON_A_GPU, "1 TiB"), (ON_THE_HOST, "1024.00 GiB")])
def test_lack_of_memory_names_size_and_setting(error, size):
    with (
        pytest.raises(SuperInferError, match=f"a step: no {size} left: lower --kv-blocks$"),
        out_of_memory("running a step", "--kv-blocks"),
    ):
        raise error


def test_an_answer_ends_with_a_stop_token_or_when_it_is_told():
    told = []

    def tell(token):
        told.append(token)
        return len(told) == 4

    requests = [request(i, 5, 0, max_tokens=50) for i in range(3)]
    answers = [
        Answer(np.zeros(5, np.int64), 50, frozenset({0})),
        Answer(np.zeros(5, np.int64), 50, on_token=tell),
        Answer(np.zeros(5, np.int64), 7),
    ]
    rig_for().run(requests, Answers(answers))
    assert [len(answer.tokens) for answer in answers] == [1, 4, 7]
    assert told == [0] * 4
