"""Steps that find too little memory at any time, under any scheduler: requests fail, runs go on."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from executor_runs import IdleModel, Rig, forced, sizes_for
from harness import FakeCost, request

from executor.clocks.clock import RealTime
from executor.step_log import StepLog
from superinfer.engine import Engine
from superinfer.lab.config import load_config
from superinfer.memory.lru import LruMemory

SCHEDULERS = ("fcfs", "vllm", "rotating", "edf", "sglang", "fastserve")
MODES = ((0, False), (1, False), (1, True))
"""Lag, and whether steps are queued ahead."""


class Cramped(IdleModel):
    """Has too little memory now and then; knows what it did."""

    def __init__(self, draw: random.Random, share: float) -> None:
        super().__init__(4)
        self.draw, self.share = draw, share
        self.did: list[tuple[int, int, int]] = []

    def forward(self, step, arena):  # type: ignore[no-untyped-def]
        if self.draw.random() < self.share:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        chunks = 0 if step.prefill is None else int(step.prefill.tokens.sum())
        decodes = step.decodes
        self.did.append((decodes, int((step.positions[:decodes] + 1).sum()), chunks))
        return super().forward(step, arena)


def rig_of(draw: random.Random, lag: int, ahead: bool) -> Rig:
    """A scheduler with little memory, which `CheckedManager` holds to the core's counts."""
    memory = LruMemory(
        draw.choice(("swap", "recompute")), draw.choice(("background", "before_step"))
    )
    name = draw.choice(SCHEDULERS)
    limits = ["scheduler.max_num_batched_tokens=16", "scheduler.max_num_seqs=8"]
    settings = [] if name == "sglang" else limits
    scheduler = load_config(None, settings, scheduler=name, trace="made up").build_scheduler()
    model = Cramped(draw, draw.choice((0.02, 0.1, 0.3)))
    sizes = sizes_for(
        model.layout,
        memory,
        draw.choice((20, 30, 60)),
        max_model_len=512,
        lag=lag,
        prefix_caching=draw.random() < 0.5,
    )
    return Rig(Engine(scheduler, memory, FakeCost(), sizes), model, ahead)


@pytest.mark.parametrize(("lag", "ahead"), MODES)
@pytest.mark.parametrize("seed", range(25))
def test_requests_fail_and_runs_go_on(seed: int, lag: int, ahead: bool) -> None:
    draw = random.Random(seed)
    rig, log = rig_of(draw, lag, ahead), StepLog()
    arrivals = sorted(draw.choice((0.0, 0.5, 2.0)) for _ in range(draw.randint(2, 8)))
    requests = []
    for index, arrival_s in enumerate(arrivals):
        prompt = draw.randint(1, 50)
        shared = {"hash_ids": tuple(range(-(-prompt // 4))), "hash_block_tokens": 4}
        requests.append(request(index, prompt, 0, arrival_s, **(shared if index % 2 else {})))
    answers = [draw.randint(1, 30) for _ in requests]
    clock = RealTime(rig.mover.poll, lambda: rig.mover.busy, skip_idle=True, log=log)
    rig.run(requests, forced(requests, answers), clock)
    table = rig.engine.recorder.build(rig.engine).table
    assert set(table.state) <= {"finished", "failed", "rejected"}
    for state, given, wanted in zip(table.state, table.output_tokens, answers, strict=True):
        assert state != "finished" or given == wanted
    assert rig.engine.pool.referenced == 0
    told = [
        (step.decodes, step.context_tokens, sum(c.tokens + c.context_tokens for c in step.chunks))
        for step in log.steps()
    ]
    assert told == rig.model.did
