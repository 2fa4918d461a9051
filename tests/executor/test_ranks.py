"""A run on two ranks, and what is sent between them."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from executor_runs import IdleModel
from modelkit.folders import LLAMA, drawn_folder
from modelkit.ranks import leaves

from executor.arrivals import Arrivals
from executor.clocks.clock import GivenTimes
from executor.kv.tables import BlockTable, CopyJob, MoveJob, Moves, RequantiseJob, WaitJob
from executor.models.config import read_config
from executor.ranks.following import follow
from executor.ranks.histories import Histories, Names
from executor.ranks.leading import LeadingMover
from executor.ranks.orders import Rows, Ticket
from executor.ranks.processes import ranks_of
from executor.replay import RunOptions, run_command
from executor.session import ModelOptions, open_session
from executor.steps.inputs import ChunkRows, DecodeRow
from executor.steps.runner import Batch
from executor.steps.sampler import History, Sampling, SamplingRow, remember
from executor.workload import answers_of, load_workload
from superinfer.costs import build_cost, load_device
from superinfer.costs.shapes import load_shape
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.config import load_config
from superinfer.metrics import RunMetrics
from superinfer.plan import Transfer

NONE = np.empty(0, np.int64)


def table(blocks, bits=16, first=0):
    made = BlockTable(3)
    made.append(np.arange(first, first + blocks, dtype=np.int64) * 100, bits)
    return made


def transfer(timing="background"):
    return Transfer(None, "d2h", 1, 100, 1, timing)


def copy(moved):
    return CopyJob(moved, "d2h", NONE, NONE.astype(np.int8), NONE)


class Wire:
    """A channel whose orders are kept, as they would arrive."""

    def __init__(self):
        self.orders = []

    def send(self, order):
        self.orders.append(pickle.loads(pickle.dumps(order)))

    def receive(self):
        return self.orders.pop(0) if self.orders else None


class Lazy:
    """A mover, and a runner, that note what they are told; copies end when told to."""

    def __init__(self):
        self.told, self.over, self.polls = [], [], 0

    busy = True

    def start(self, moves):
        self.told.append(moves.orders)

    def launch(self, batch):
        self.told.append(batch)

    def poll(self):
        self.polls += 1
        over, self.over = self.over, []
        return over


def test_a_batch_arrives_as_it_was():
    mixed = table(3)
    mixed.put(slice(0, 1), np.array([7], np.int64), 8)
    sampling = [SamplingRow(Sampling(temperature=0.5, seed=3), 9)]
    batch = Batch.of(
        [DecodeRow(table(4), 33, 5), DecodeRow(mixed, 48, -2)],
        [ChunkRows(table(2, first=9), 16, np.arange(4), True), ChunkRows(table(1), 0, [1], False)],
        sampling,
    )
    arrived = pickle.loads(pickle.dumps(Rows.of(batch, 16, Names()))).batch(histories())
    assert [(row.length, row.token) for row in arrived.decodes] == [(33, 5), (48, -2)]
    assert arrived.decodes.tables[0].offsets.tolist() == [0, 100, 200]  # as long as it has to be
    assert arrived.decodes.tables[1].offsets.tolist() == [7, 100, 200]
    assert arrived.decodes.tables[1].bits.tolist() == [8, 16, 16]
    first, second = arrived.chunks
    assert (first.context, first.tokens.tolist(), first.wants_logits) == (16, [0, 1, 2, 3], True)
    assert first.table.offsets.tolist() == [900, 1000]
    assert (second.context, second.tokens.tolist(), second.wants_logits) == (0, [1], False)
    assert arrived.sampling == sampling


def histories():
    return Histories(5, torch.device("cpu"))


def test_every_rank_counts_for_penalties():
    """Each by itself; a prompt is sent once, and who has ended is forgotten."""
    names, followed = Names(), histories()
    sampling = Sampling(presence_penalty=1.0)
    first, second = (History(prompt, 5, torch.device("cpu")) for prompt in ([1, 1, 4], [0]))

    def step(*held):
        rows = [SamplingRow(sampling, 3, history) for history in held]
        batch = Batch.of([DecodeRow(table(1), 3, 1)] * len(rows), [], rows)
        sent = pickle.loads(pickle.dumps(Rows.of(batch, 16, names)))
        return sent.sampling, sent.batch(followed).sampling

    for held in ((first, None), (second, first), (first, second)):
        told, found = step(*held)
        tokens = torch.tensor([3, 2])
        remember(tokens, [SamplingRow(sampling, 3, history) for history in held])
        remember(tokens, found)
        for history, row in zip(held, found, strict=True):
            assert (history is None) == (row.history is None)
            if history is not None:
                assert torch.equal(row.history.prompt, history.prompt)
                assert torch.equal(row.history.counts, history.counts)
    assert [row.history.prompt for row in told] == [None, None]
    assert first.counts.tolist() == [0, 0, 1, 2, 0]
    del first, held, history
    step(second)
    assert len(followed) == 1


def test_moves_arrive_with_tickets_for_background_copies():
    wire, mover = Wire(), Lazy()
    leading = LeadingMover(mover, wire)
    early, late, urgent = copy(transfer()), copy(transfer()), copy(transfer("before_step"))
    leading.start(Moves([early, urgent, copy(None)]))
    leading.start(Moves([]))
    job = RequantiseJob(16, 8, NONE, NONE)
    leading.start(Moves([job, late, MoveJob(16, NONE, NONE, [early, urgent, late])]))
    mover.over = [early.transfer]
    assert leading.poll() == [early.transfer]
    leading.start(Moves([WaitJob([early, late])]))
    (_, first), (_, second), landed, (_, third) = wire.orders
    assert [order.transfer for order in first] == [Ticket(0), None, None]
    assert second[1].transfer == Ticket(1)
    assert second[2].after == [Ticket(0), Ticket(1)]
    assert landed == ("landed", [Ticket(0)])
    assert third[0].after == [Ticket(1)]
    assert len(mover.told) == 4


def test_a_follower_waits_for_its_own_copies():
    wire, lazy = Wire(), Lazy()
    batch = Batch.of([DecodeRow(table(1), 3, 1)], [], None)
    wire.send(("moves", [copy(Ticket(0)), copy(Ticket(1))]))
    wire.send(("moves", [WaitJob([Ticket(1)])]))
    wire.send(("landed", [Ticket(1)]))
    wire.send(("step", Rows.of(batch, 16, Names())))
    wire.send(("landed", [Ticket(0)]))
    answers = iter([[], [Ticket(0)], [Ticket(1)]])
    polled = []
    lazy.poll = lambda: polled.append(len(lazy.told)) or next(answers)

    lazy.model = IdleModel(16)
    follow(lazy, lazy, wire)
    assert polled == [2, 2, 2]  # all of them before the step
    copies, waits, step = lazy.told
    assert waits[0].after[0] is copies[1]
    assert step.decodes.lengths[0] == 3


def configuration(folder, tp, settings=(), **changes):
    given = {
        "model": str(folder),
        "device": "cpu",
        "tp": tp,
        "kv_blocks": 14,
        "block_tokens": 16,
        "host_memory_gib": 0.01,
        "trace": str(folder / "trace.jsonl"),
    }
    return load_config(None, settings, None, **(given | changes))


def replayed(config, penalised=False):
    """Tokens of every answer, and the summary; by predicted times, so that plans are the same."""
    workload, options = load_workload(config), ModelOptions()
    with ranks_of(config, options) as channel:
        session = open_session(config, options, channel=channel)
        answers = answers_of(workload, 300, 128, config.run.seed)
        if penalised:
            penalise(answers, workload.requests, session.model)
        clock = GivenTimes(session.cost, config.run.lag, session.mover.poll)
        session.driver(answers, Arrivals(workload.requests), clock).run()
    engine = session.engine
    summary = RunMetrics(engine.recorder.build(engine)).summary()
    return [answers[request].tokens for request in workload.requests], summary


def penalise(answers, requests, model):
    """Let all answers but one be drawn with penalties."""
    answers.greedy = False
    for request in requests[1:]:
        answer = answers[request]
        answer.sampling = Sampling(0.5 * (request.index % 2), 0, 1, 0, 1.3, 0.4, 0.3, request.index)
        answer.history = History(answer.prompt, model.vocab, model.device)


@pytest.fixture
def folder(tmp_path):
    drawn_folder(tmp_path, LLAMA)
    lines = [
        {"timestamp": n, "input_length": 20 + 7 * n, "output_length": 24, "class": "batch"}
        for n in range(6)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "trace.jsonl").write_text(text)
    return tmp_path


SHRINKING = ("classes.batch.min_kv_bits=4", "memory.tail_tokens=16", "memory.shrink_8_at=0.2")
CASES = {
    "recompute": ({"scheduler": "vllm"}, ()),
    "swap": ({"scheduler": "vllm"}, ("scheduler.preemption=swap",)),
    "background": (
        {"scheduler": "fcfs", "lag": 1, "prefix_caching": True},
        ("memory.preemption=swap", "memory.swap_in_timing=background"),
    ),
    "fewer bits": (
        {"scheduler": "fcfs", "memory": "slo_aware", "prefix_caching": True},
        (*SHRINKING, "memory.shrink_4_at=0.4", "memory.host_ratio=0.0"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_answer_as_one_does(folder, name, monkeypatch):
    """Under memory pressure, with what that brings about."""
    # What is predicted depends on the number of ranks, and on the speed of this computer.
    cost = build_cost(load_shape(folder), load_device("a100-80g"), 1, "roofline")
    monkeypatch.setattr("executor.session._cost", lambda *_: cost)
    changes, settings = CASES[name]
    changes = {"memory": "lru"} | changes
    alone, _ = replayed(configuration(folder, 1, settings, **changes))
    together, summary = replayed(configuration(folder, 2, settings, **changes))
    assert together == alone
    assert all(len(answer) == 24 for answer in together)
    happened = {
        "recompute": summary["preemptions"],
        "swap": summary["h2d_bytes"],
        "background": summary["h2d_bytes"],
        "fewer bits": summary["kv_bits_mean"] < 16,
    }
    assert happened[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swap", "background"])
def test_two_ranks_draw_with_penalties_as_one_does(folder, name, monkeypatch):
    cost = build_cost(load_shape(folder), load_device("a100-80g"), 1, "roofline")
    monkeypatch.setattr("executor.session._cost", lambda *_: cost)
    changes, settings = CASES[name]
    changes = {"memory": "lru"} | changes
    plain, _ = replayed(configuration(folder, 1, settings, **changes))
    alone, _ = replayed(configuration(folder, 1, settings, **changes), penalised=True)
    together, _ = replayed(configuration(folder, 2, settings, **changes), penalised=True)
    assert together == alone
    assert [a == b for a, b in zip(plain, alone, strict=True)] == [True] + [False] * 5


@pytest.mark.slow
def test_the_command_on_two_ranks(folder, capsys):
    options = RunOptions(out=folder / "out", plots=False, as_json=True)
    assert run_command(configuration(folder, 2), options) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["completed"] == 6
    assert summary["run"]["run"]["tp"] == 2


@pytest.mark.slow
def test_a_rank_that_is_gone_ends_the_run(folder, monkeypatch):
    monkeypatch.setattr("executor.ranks.processes._rank", leaves)
    with (
        pytest.raises(SuperInferError, match="a rank has ended before its time"),
        ranks_of(configuration(folder, 2), ModelOptions()) as channel,
    ):
        for _ in range(100):
            channel.least(3)


@pytest.mark.slow
def test_an_error_on_rank_0_stops_the_others(folder):
    with (
        pytest.raises(ZeroDivisionError),
        ranks_of(configuration(folder, 2), ModelOptions()),
    ):
        raise ZeroDivisionError
    assert not multiprocessing.active_children()


def test_groups_that_cannot_be(folder, monkeypatch):
    with (
        pytest.raises(ConfigError, match="tp=3 does not divide the 4"),
        ranks_of(configuration(folder, 3), ModelOptions()),
    ):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ConfigError, match=r"run\.tp=2: torch finds 1 CUDA devices"),
        ranks_of(configuration(folder, 2, device="h200"), ModelOptions()),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"run\.device: each of 2 ranks has its own, got 'cuda:1'"),
        ranks_of(configuration(folder, 2, device="cuda:1"), ModelOptions()),
    ):
        pass


def test_ranks_that_main_memory_does_not_hold(folder, monkeypatch):
    """All of them are asked for before any is started."""
    weights = 4 * read_config(folder)[0].shape.gpu_parameters(2)
    monkeypatch.setattr("executor.models.free_host_bytes", lambda: 2 * weights - 1)
    with (
        pytest.raises(ConfigError, match=r"out of memory at load: .* at 4 bytes"),
        ranks_of(configuration(folder, 2), ModelOptions()),
    ):
        pass
