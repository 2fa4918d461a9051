"""Which graph a step goes to, and that its padding changes nothing."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from executor_runs import CPU, DryGraphs, IdleModel, tiny_model

from executor.calibration import timing
from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.steps.graphs import MIXED_ROWS, MOST_CHUNKS, StepGraphs, mixed_buckets
from executor.steps.inputs import build_inputs
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch, Runner

BLOCKS = 120
MIXES = {
    "16": {},
    "8": {8: 1.0},
    "4": {4: 1.0},
    "mixed": {8: 0.4, 4: 0.3},
}


# -- sizes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def idle():
    """Graphs of a model that does nothing, for up to 256 decodes."""
    runner = Runner(IdleModel(16), torch.zeros(1024, dtype=torch.uint8))
    return DryGraphs(runner, 256, 1000)


@pytest.mark.parametrize(
    ("decodes", "tokens", "chunks", "wanted"),
    [
        (0, 1, 1, (32, 0)),
        (0, 32, 4, (32, 0)),
        (0, 33, 1, (64, 0)),
        (1, 31, 1, (32, 32)),
        (1, 32, 1, (64, 64)),
        (64, 64, 2, (128, 64)),
        (65, 63, 2, (128, 128)),
        (64, 65, 2, (192, 64)),
        (256, 1, 1, (320, 256)),
        (256, 768, 4, (1024, 256)),
        (0, 512, 1, (512, 0)),
        (5, 1024, 1, None),
        (257, 1, 1, None),
        (1, 100, MOST_CHUNKS + 1, None),
        (7, 0, 0, (8, 8)),
        (256, 0, 0, (256, 256)),
        (257, 0, 0, None),
    ],
)
def test_a_step_goes_to_the_smallest_graph_that_holds_it(idle, decodes, tokens, chunks, wanted):
    found = idle.sizes_for(decodes, tokens, chunks)
    assert (found and (found.rows, found.decodes)) == wanted


def test_a_cost_model_is_told_of_the_same_graphs(idle):
    known = idle.known
    for decodes, tokens, chunks in (
        *((n, 0, 0) for n in range(1, 260)),
        *((n % 70, 3 + 7 * n, n % 6) for n in range(1, 160) if n % 6),
    ):
        found = idle.sizes_for(decodes, tokens, chunks)
        if not chunks:
            assert known.held_decodes(decodes) == (found.rows if found else decodes)
            continue
        graph = known.holding(decodes + tokens, decodes, chunks)
        assert graph == (found and (found.rows, found.decodes))
        assert graph is None or found.wanted == graph.decodes + known.chunks


def test_padding_stays_within_its_bounds(idle):
    for rows in range(1, MIXED_ROWS[-1] + 1):
        found = idle.sizes_for(0, rows, 1)
        assert found.rows <= 1.5 * rows + 32
        assert rows > 512 or found.rows < rows + 64


@pytest.mark.parametrize("max_rows", [1, 4, 64, 100, 256])
def test_there_are_few_graphs(max_rows):
    sizes = mixed_buckets(max_rows)
    assert len(sizes) <= 36 and len(set(sizes)) == len(sizes)
    assert all(decodes <= min(rows, max_rows) for rows, decodes in sizes)


# -- padding ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small Llama over random blocks of all precisions."""
    model = tiny_model(tmp_path_factory.mktemp("small"))
    source = RandomArena(model.layout, BLOCKS, CPU)
    runner = Runner(model, source.arena, ItemBudget(7, 1))
    return source, runner, DryGraphs(runner, 20, 4 * BLOCKS)


CASES = {
    "one token": ([], [(1, 0)]),
    "one token far on": ([3, 100], [(1, 170)]),
    "no decodes": ([], [(20, 50), (12, 0)]),
    "rows at the edge": ([9, 40, 64], [(29, 64)]),
    "rows past the edge": ([9, 40, 64], [(30, 64)]),
    "four chunks": ([5, 17], [(3, 40), (16, 16), (1, 5), (7, 100)]),
    "most decodes": ([1 + 7 * i for i in range(20)], [(12, 33)]),
    "a long chunk": ([30], [(150, 80)]),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("case", CASES)
def test_padding_changes_no_logits_and_writes_nothing(small, case, mix):
    source, runner, graphs = small
    lengths, chunks = CASES[case]
    source.reshuffle()
    vocab = runner.model.vocab
    batch = Batch.of(
        decode_rows(source, lengths, vocab, MIXES[mix]),
        chunk_rows(source, chunks, vocab, MIXES[mix]),
    )
    batch.chunks[0].wants_logits = len(chunks) == 1
    before = runner.arena.clone()
    plain = build_inputs(batch.decodes, batch.chunks, source.layout, CPU, item_blocks=2)
    wanted = runner.forward(plain)
    written = runner.arena.clone()
    assert wanted.shape[0] == batch.wanted and not torch.equal(before, written)
    runner.arena.copy_(before)
    found = graphs.replay(batch)()
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[: batch.wanted], wanted, rtol=1e-5, atol=1e-5)
    assert runner.outputs[: batch.wanted].tolist() == wanted.argmax(-1).tolist()
    before, written, after = (raw.view(torch.int32) for raw in (before, written, runner.arena))
    touched = written != before
    assert torch.equal(after[~touched], before[~touched])
    there, here = (raw[touched].view(torch.float32) for raw in (written, after))
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_a_step_leaves_nothing_behind_for_the_next(small):
    """Longer lists, more chunks and more rows before it do not change a step."""
    source, runner, graphs = small
    found, arena = [], runner.arena.clone()
    for lengths, chunks in (([60], [(9, 30)]), ([90] * 6, [(5, 90)] * 4), ([60], [(9, 30)])):
        source.reshuffle()
        source.random = np.random.default_rng(5)
        vocab = runner.model.vocab
        batch = Batch.of(decode_rows(source, lengths, vocab), chunk_rows(source, chunks, vocab))
        runner.arena.copy_(arena)
        found.append(graphs.replay(batch)()[: batch.wanted].clone())
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1][:2])


def test_a_step_with_too_many_blocks_runs_eagerly(small):
    source, runner, _ = small
    graphs = DryGraphs(runner, 4, 1)
    batch = Batch.of([], chunk_rows(source, [(5, 200)], runner.model.vocab))
    assert graphs.replay(batch) is None and graphs.eager(batch) is None


# -- captures -----------------------------------------------------------------------------------


class NoGpu:
    """Stands for what `torch.cuda` has for captures, and notes what happens on which stream."""

    class Stream:
        def __init__(self, device=None):
            self.ran, self.captured = 0, []

        def wait_stream(self, other):
            pass

    class CUDAGraph:
        def __init__(self):
            self.replayed = 0

        def pool(self):
            return self.shared

        def replay(self):
            self.replayed += 1

    def __init__(self):
        self.default = self.Stream()
        self.now = self.default

    def current_stream(self, device=None):
        return self.now

    @contextmanager
    def stream(self, stream):
        stream.ran += 1
        self.now, before = stream, self.now
        yield
        self.now = before

    @contextmanager
    def graph(self, graph, pool=None, stream=None):
        assert self.now is self.default, "a capture inside another"
        graph.shared = pool or object()
        (stream or self.default).captured.append(graph)
        self.now = stream or self.default
        yield
        self.now = self.default


@pytest.fixture
def no_gpu(monkeypatch):
    found = NoGpu()
    for name in ("Stream", "CUDAGraph", "current_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(found, name))
    return found


def test_graphs_are_captured_on_a_stream_of_their_own_and_share_memory(tmp_path, no_gpu):
    model = tiny_model(tmp_path)
    source = RandomArena(model.layout, BLOCKS, CPU)
    graphs = StepGraphs(Runner(model, source.arena), 2, BLOCKS)
    side = graphs._side
    assert no_gpu.default.captured == [] and side.ran == len(graphs)
    assert len(side.captured) == 2 * len(graphs)
    assert len({id(graph.pool()) for graph in side.captured}) == 1
    assert all(graph.replayed == 1 for graph in side.captured)


def test_what_is_timed_is_captured_on_a_stream_of_its_own(no_gpu):
    """The graph that is timed last outlives the one that told how long it is."""
    ran = []
    replays = [timing.captured([lambda: ran.append(no_gpu.now)] * count) for count in (1, 3)]
    assert ran[0] is ran[1] is ran[2] and ran[3] is ran[7]
    assert ran[0] is not ran[3] and no_gpu.default not in ran
    assert len(ran) == 8 and all(replay.__self__.replayed == 0 for replay in replays)
