"""Steps of a model: padding, graphs, and tokens that nobody has read yet."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from executor_runs import CPU, DryGraphs, prefilled, tiny_model

from executor.steps.graphs import buckets
from executor.steps.inputs import ChunkRows, DecodeRow
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch, Runner, unread
from executor.steps.sampler import Sampling, SamplingRow

BLOCKS = 60


def runner_on(tmp_path, device, dtype=torch.float32, budget=None):
    model = tiny_model(tmp_path, device, dtype)
    arena = torch.zeros(BLOCKS * model.layout.block_bytes[16], dtype=torch.uint8, device=device)
    return Runner(model, arena, budget)


LENGTHS = (1, 15, 16, 17, 70, 100)


def decodes(tables, tokens):
    return [
        DecodeRow(table, length + 1, token)
        for table, length, token in zip(tables, LENGTHS, tokens, strict=True)
    ]


def test_batch_sizes_of_graphs():
    assert buckets(1) == [1]
    assert buckets(6) == [1, 2, 4, 6]
    assert buckets(20) == [1, 2, 4, 8, 16, 20]
    found = buckets(256)
    assert found[-1] == 256 and found == sorted(found)
    assert max(b - a for a, b in pairwise(found)) == 16


@pytest.mark.parametrize("extra", [0, 3, 40])
def test_a_padded_step_gives_the_tokens_of_the_plain_one(tmp_path, extra):
    budget = ItemBudget(extra, 1 if extra else 1 << 20)
    runner = runner_on(tmp_path, CPU, budget=budget)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    arena = runner.arena.clone()
    plain = runner.launch(Batch.of(decodes(tables, first), [])).wait()
    after = runner.arena.clone()
    assert not torch.equal(arena, after)
    for max_rows in (6, 8, 20):
        runner.arena.copy_(arena)
        graphs = DryGraphs(runner, max_rows, BLOCKS)
        logits = graphs.replay(Batch.of(decodes(tables, first), []))()
        assert logits.shape[0] >= 6 and torch.isfinite(logits).all()
        assert runner.outputs[:6].tolist() == plain
        assert torch.allclose(runner.arena.view(torch.float32), after.view(torch.float32))
    assert graphs.replay(Batch.of(decodes(tables, first) * 4, [])) is None  # 24 rows are too many


def test_a_token_need_not_be_read_before_the_next_step(tmp_path):
    runner = runner_on(tmp_path, CPU)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    arena = runner.arena.clone()
    second = runner.launch(Batch.of(decodes(tables, first), [])).wait()
    assert second != first
    runner.arena.copy_(arena)
    runner.outputs[:6] = torch.tensor(first)
    names = [unread(entry) for entry in range(6)]
    # In another order, and one of them known.
    rows = decodes(tables, names)
    rows[2].token = first[2]
    order = [4, 2, 0, 5, 1, 3]
    tokens = runner.launch(Batch.of([rows[i] for i in order], [])).wait()
    assert tokens == [second[i] for i in order]


@pytest.mark.parametrize("drawn", [False, True])
def test_a_step_may_give_more_tokens_than_graphs_keep(tmp_path, monkeypatch, drawn):
    """The step after it finds them, and runs without a graph; the one after that has one again."""
    monkeypatch.setattr("executor.steps.runner.GRAPH_OUTPUTS", 24)
    runner = runner_on(tmp_path, CPU)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    runner.graphs = DryGraphs(runner, 20, BLOCKS)
    sampling = [SamplingRow(Sampling(1.0, seed=4), 5)] * 30 if drawn else None
    given = runner.launch(Batch.of(decodes(tables, first) * 5, [], sampling)).wait()
    assert len(given) == 30
    batch = Batch.of(decodes(tables, [unread(24 + row) for row in range(6)]), [])
    assert runner._replayed(batch) is None
    found = runner.launch(batch).wait()
    assert found == runner._replayed(Batch.of(decodes(tables, given[24:]), [])).tolist()


@pytest.mark.parametrize("waves", [False, True])
def test_items_stay_within_their_budget(waves):
    generator = np.random.default_rng(3)
    for _ in range(300):
        extra, shortest, at_once = (int(generator.integers(1, most)) for most in (50, 5, 200))
        budget = ItemBudget(extra, shortest, at_once if waves else 0)
        rows = int(generator.integers(1, 60))
        counts = generator.integers(0, 40, (rows, 3))
        counts[:, 0] += 1
        size = budget.item_blocks(rows, int(counts.sum()))
        assert (-(-counts // size)).sum() <= budget.capacity(rows)


@pytest.mark.parametrize(
    ("rows", "tokens", "items"),
    [
        (128, 8192, 3),  # 3,072 programs are two waves of 1,584; 2,048 would take two as well
        (128, 1024, 3),
        (64, 4096, 3),  # one wave
        (32, 8192, 6),
        (15, 8192, 9),  # few rows: as ever
    ],
)
def test_many_rows_are_cut_into_whole_waves(rows, tokens, items):
    """On a device of 132 multiprocessors with 12 programs each, of a model with 8 KV heads."""
    blocks = tokens // 32
    usual, budget = ItemBudget(132, 2), ItemBudget(132, 2, 132 * 12 // 8)
    size = budget.item_blocks(rows, rows * blocks)
    assert -(-blocks // size) == items
    assert size <= usual.item_blocks(rows, rows * blocks)
    assert budget.capacity(rows) >= budget.capacity(rows - 1)
    assert budget.item_blocks(rows, 0) == usual.item_blocks(rows, 0)  # rows of no keys, as padding


def test_one_row_draws_beside_greedy_ones(tmp_path):
    runner = runner_on(tmp_path, CPU)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    greedy = runner.launch(Batch.of(decodes(tables, first), [])).wait()
    sampling = [SamplingRow(Sampling(0.0), 5)] * 6
    sampling[3] = SamplingRow(Sampling(50.0, seed=4), 5)
    tokens = runner.launch(Batch.of(decodes(tables, first), [], sampling)).wait()
    assert tokens[:3] + tokens[4:] == greedy[:3] + greedy[4:]
    assert tokens[3] != greedy[3]


def test_logits_are_copied_for_steps_that_draw_alone(tmp_path):
    runner = runner_on(tmp_path, CPU)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    runner.graphs = graphs = DryGraphs(runner, 20, BLOCKS)
    graphs._logits.fill_(torch.nan)
    rows = decodes(tables, first)
    greedy = runner._replayed(Batch.of(rows, [])).tolist()
    assert graphs._logits.isnan().all()
    drawn = [SamplingRow(Sampling(0.0), 5), *[SamplingRow(Sampling(1e-9, seed=4), 5)] * 5]
    assert runner._replayed(Batch.of(rows, [], drawn)).tolist() == greedy
    assert runner.replayed == 2
    assert torch.isfinite(graphs._logits[:6]).all()


def test_a_step_that_had_no_memory_to_draw_may_be_tried_again(tmp_path, monkeypatch):
    """Its graph has run by then; the tokens that nobody has read are those of the step before."""
    runner = runner_on(tmp_path, CPU)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    runner.graphs = DryGraphs(runner, 20, BLOCKS)
    runner.outputs[:6] = torch.tensor(first)
    batch = Batch.of(
        decodes(tables, [unread(entry) for entry in range(6)]),
        [],
        [SamplingRow(Sampling(1e-9, seed=4), 5)] * 6,
    )
    wanted = runner._replayed(Batch.of(decodes(tables, first), [], batch.sampling)).tolist()
    assert wanted != first

    def full(logits, rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    runner.outputs[:6] = torch.tensor(first)
    with monkeypatch.context() as changed:
        changed.setattr("executor.steps.runner.sample", full)
        with pytest.raises(torch.OutOfMemoryError):
            runner._replayed(batch)
    assert runner.replayed == 1
    assert runner._replayed(batch).tolist() == wanted


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_graph_gives_the_bits_of_the_eager_step(tmp_path, dtype):
    runner = runner_on(tmp_path, torch.device("cuda"), dtype)
    tables, first = prefilled(runner, LENGTHS, BLOCKS)
    runner.capture(20, BLOCKS)
    arena = runner.arena.clone()
    again = ChunkRows(tables[5], 40, np.arange(60), True)
    for rows, chunks in ((1, []), (3, []), (6, []), (0, [again]), (5, [again])):
        batch = Batch.of(decodes(tables, first)[:rows], chunks)
        runner.arena.copy_(arena)
        replayed = runner.graphs.replay(batch)()[: batch.wanted].clone()
        written = runner.arena.clone()
        runner.arena.copy_(arena)
        eager = runner.graphs.eager(batch)[: batch.wanted]
        assert torch.equal(replayed, eager)
        assert torch.equal(written, runner.arena)
        assert torch.isfinite(replayed).all()
        assert torch.equal(runner.outputs[: batch.wanted], eager.argmax(-1))
    assert runner.launch(Batch.of(decodes(tables, first), [])).wait() and runner.replayed == 1
