"""What runs before a run begins, so that nothing is first used in it."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from executor_runs import CPU, LLAMA, DryGraphs, prefilled, tiny_model

from executor import session as sessions
from executor.kernels.ops import ops_for
from executor.kv.arena import Arena, HostArena, arena_size
from executor.kv.streams import InlineStreams
from executor.kv.swap import Mover
from executor.ranks.leading import LeadingRunner
from executor.session import ModelOptions, open_session
from executor.steps.packing import PINNED_AT_ONCE, SMALL_AT_ONCE, pin_ahead, pinned_sizes
from executor.steps.runner import Launched, Runner
from executor.steps.sampler import Sampling, sample
from executor.warm_up import (
    LIBRARY_ROWS,
    WARM_UP_CHUNKS,
    compile_kernels,
    make_ready,
    sizes_up_to,
    warm_up,
)
from superinfer.lab.config import load_config
from superinfer.memory.blocks.slabs import slabs_of

BUDGET = 1500
ROWS = 6
LENGTHS = (3, 16, 37)


class NotedOps:
    """Operations of a CPU; notes what is done to blocks."""

    def __init__(self):
        self.pairs, self.copied, self.addresses = [], [], []

    def __getattr__(self, name):
        return getattr(ops_for(CPU), name)

    def requantise(self, arena, layout, sources, targets, from_bits, to_bits):
        self.pairs.append((from_bits, to_bits))
        self.addresses += [sources.data_ptr(), targets.data_ptr()]
        ops_for(CPU).requantise(arena, layout, sources, targets, from_bits, to_bits)

    def copy_blocks(self, arena, sources, targets, nbytes):
        self.copied.append(nbytes)
        self.addresses += [sources.data_ptr(), targets.data_ptr()]
        ops_for(CPU).copy_blocks(arena, sources, targets, nbytes)


class LikeGpu(Runner):
    """A runner that says it runs beside the host; notes what it is asked for, in order."""

    def __init__(self, model, arena, *channel):
        super().__init__(model, arena, *channel)
        self.asked = []
        self.asynchronous = True

    def capture(self, max_rows, arena_blocks):
        self.asked.append("capture")
        self.graphs = DryGraphs(self, max_rows, arena_blocks)

    def _eager(self, batch):
        self.asked.append((len(batch.decodes), [len(chunk.tokens) for chunk in batch.chunks]))
        self.asynchronous = False  # no pinned memory here
        try:
            return super()._eager(batch)
        finally:
            self.asynchronous = True

    def pin_ahead(self, tokens, rows, blocks):
        self.pinned = tokens, rows, blocks

    def _sent(self, tokens):
        return Launched(tokens.clone(), None)


def opened(monkeypatch, tmp_path, memory="slo_aware", blocks=40, max_rows=ROWS, **options):
    """A session on what passes for a GPU, and its operations."""
    ops = NotedOps()
    monkeypatch.setattr(sessions, "ops_for", lambda device: ops)
    monkeypatch.setattr(sessions, "Runner", LikeGpu)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    settings = [f"scheduler.max_num_batched_tokens={BUDGET}", f"scheduler.max_num_seqs={max_rows}"]
    config = load_config(
        None,
        settings,
        model=str(path),
        device="cpu",
        scheduler="fcfs",
        memory=memory,
        kv_blocks=blocks,
        block_tokens=16,
        host_memory_gib=0.01,
        trace="mixed",
    )
    return open_session(config, ModelOptions(random_weights=True, **options)), ops


@pytest.mark.parametrize("blocks", [1, 2, 40])
def test_blocks_are_rewritten_moved_and_copied_once_each(monkeypatch, tmp_path, blocks):
    session, ops = opened(monkeypatch, tmp_path, blocks=blocks)
    assert sorted(ops.pairs) == [(8, 4), (16, 4), (16, 8)]
    assert sorted(ops.copied) == sorted(session.model.layout.block_bytes.values())
    # Triton makes other kernels for addresses that are no multiples of 16.
    assert not any(address % 16 for address in ops.addresses)
    assert not session.mover.busy and session.mover.poll() == []


def test_blocks_that_keep_their_bits_are_left_alone(monkeypatch, tmp_path):
    session, ops = opened(monkeypatch, tmp_path, memory="lru")
    assert not ops.pairs and not ops.copied
    assert session.runner.asked[1:]


@pytest.mark.parametrize("graphs", [True, False])
def test_steps_run_without_a_graph_after_graphs_are_captured(monkeypatch, tmp_path, graphs):
    """Decodes and chunks of all sizes, the last as large as the scheduler's budget; uncounted."""
    session, _ = opened(monkeypatch, tmp_path, graphs=graphs)
    runner, longest = session.runner, session.model.max_model_len
    assert longest == 512
    steps = runner.asked[1:] if graphs else runner.asked
    assert (runner.asked[0] == "capture") == graphs and "capture" not in steps
    assert [decodes for decodes, chunks in steps if not chunks] == [1, 2, 3, 4, 6]
    prefills = [chunks for decodes, chunks in steps if not decodes]
    assert [sum(chunks) for chunks in prefills] == sizes_up_to(BUDGET)
    assert prefills[-1] == [512, 512, 476]
    assert steps[-1] == (ROWS, [512, 512, 470])
    assert runner.steps == runner.replayed == 0
    size = session.mover._arena.size
    assert runner.pinned == (BUDGET, ROWS, size.nbytes // size.block_bytes[4])


@pytest.mark.parametrize(
    ("max_rows", "blocks", "most"), [(700, 900, 700), (1400, 1200, 1024), (700, 300, 300)]
)
def test_steps_of_more_decodes_than_graphs_have(monkeypatch, tmp_path, max_rows, blocks, most):
    """As many as the scheduler may give, each with a block of its own; at most a thousand."""
    session, _ = opened(monkeypatch, tmp_path, memory="lru", blocks=blocks, max_rows=max_rows)
    decodes = [decodes for decodes, chunks in session.runner.asked[1:] if not chunks]
    assert decodes == sizes_up_to(most)


def test_tokens_are_drawn_in_all_ways(monkeypatch, tmp_path):
    """Of one row and of several, with every setting that takes operations of its own."""
    drawn = []
    monkeypatch.setattr(
        "executor.warm_up.sample", lambda logits, rows: drawn.append(rows) or sample(logits, rows)
    )
    opened(monkeypatch, tmp_path)
    assert {len(rows) for rows in drawn} == {1, ROWS}
    first, second = drawn[0][0], drawn[1][0]
    plain = Sampling(temperature=first.sampling.temperature)
    names = [field.name for field in fields(Sampling) if field.name not in ("temperature", "seed")]
    assert all(getattr(first.sampling, name) != getattr(plain, name) for name in names)
    assert first.history.counts.sum() == 1 and second.sampling == plain


def test_it_is_known_how_long_opening_takes(monkeypatch, tmp_path):
    """A device that runs beside the host has graphs and is warmed up; a CPU needs neither."""
    session, _ = opened(monkeypatch, tmp_path)
    assert list(session.opening_s) == ["weights", "blocks", "graphs", "warm-up"]
    assert all(seconds > 0 for seconds in session.opening_s.values())
    assert "graphs" not in opened(monkeypatch, tmp_path, graphs=False)[0].opening_s
    monkeypatch.undo()
    config = load_config(None, (), model=str(tmp_path / "config.json"), device="cpu", trace="mixed")
    session = open_session(config, ModelOptions(random_weights=True))
    assert list(session.opening_s) == ["weights", "blocks"]


def test_a_cpu_has_nothing_to_warm_up(monkeypatch, tmp_path):
    """There is no compiler, and its steps would take long."""
    rehearsed = []
    never = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(LikeGpu, "asynchronous", never, raising=False)
    monkeypatch.setattr(LikeGpu, "rehearse", lambda self, batch: rehearsed.append(batch))
    _, ops = opened(monkeypatch, tmp_path)
    assert not rehearsed and not ops.pairs and not ops.copied


def test_other_ranks_are_told_nothing(monkeypatch, tmp_path):
    """Each rank rehearses by itself, before it listens to rank 0."""

    class Silent:
        def send(self, order):
            raise AssertionError(order)

    class Leading(LikeGpu, LeadingRunner):
        pass

    model = tiny_model(tmp_path)
    arena = small_arena(model.layout)
    runner = Leading(model, arena.tensor, Silent())
    make_ready(runner, Mover(arena, None, ops_for(CPU), InlineStreams()), (arena, None), 20, 2)
    assert runner.asked[-1] == (2, [18])
    with pytest.raises(AssertionError):
        prefilled(runner, (3,), 4)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (7, [1, 2, 3, 4, 6, 7]), (8, [1, 2, 3, 4, 6, 8])],
)
def test_sizes(most, sizes):
    assert sizes_up_to(most) == sizes


def small_arena(layout):
    nbytes = layout.block_bytes
    slabs = slabs_of(nbytes[16], nbytes[8], nbytes[4], 2 * nbytes[16])
    return Arena(layout, arena_size(layout, 24, slabs), CPU)


@pytest.mark.parametrize("kind", ["torch", pytest.param("triton", marks=pytest.mark.slow)])
def test_an_arena_is_as_good_as_new(tmp_path, kind):
    """Answers are the same, whatever was in the arena and whether anything ran before."""
    ops = ops_for(CPU)
    if kind == "triton":
        pytest.importorskip("triton")
        from executor.kernels.tiles import INTERPRETED
        from executor.kernels.triton_ops import TritonOps

        if not INTERPRETED:
            pytest.skip("needs the interpreter: set TRITON_INTERPRET=1")
        ops = TritonOps()
    found = []
    for warm in (False, True):
        model = tiny_model(tmp_path, ops=ops, num_hidden_layers=1)
        arena = small_arena(model.layout)
        arena.tensor.fill_(0x3F)
        host = HostArena(model.layout.block_bytes[16], 4, pinned=False)
        runner = LikeGpu(model, arena.tensor)
        if warm:
            mover = Mover(arena, host, ops, InlineStreams())
            make_ready(runner, mover, (arena, host), 24, 3)
            assert (arena.tensor != 0x3F).any() and not mover.busy
        tables, first = prefilled(runner, LENGTHS, 20)
        held = [table.offsets[: -(-n // 16)] for table, n in zip(tables, LENGTHS, strict=True)]
        keys = [arena.tensor[at : at + 64 * 4].clone() for at in np.concatenate(held).tolist()]
        found.append((first, torch.stack(keys)))
    assert len(found[0][1]) == 5 and found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("tokens", [1, 512, 700])
def test_the_step_whose_memory_is_measured_has_all_tokens(monkeypatch, tmp_path, tokens):
    model, rows = tiny_model(tmp_path), []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda step, arena: rows.append(len(step.token_ids)) or forward(step, arena),
    )
    warm_up(model, tokens, 3)
    assert rows == [tokens, 3]


def test_steps_take_their_place_before_room_is_counted(monkeypatch, tmp_path):
    """Chunks of each size with tiles of its own, and decodes."""
    model, rows = tiny_model(tmp_path), []
    forward = model.forward

    def noted(step, arena):
        rows.append((step.decodes, len(step.token_ids) - step.decodes))
        return forward(step, arena)

    monkeypatch.setattr(model, "forward", noted)
    compile_kernels(model)
    chunks = [min(tokens, model.max_model_len) for tokens in WARM_UP_CHUNKS]
    assert rows == [step for tokens in chunks for step in ((0, tokens), (min(256, tokens), 0))]


@pytest.mark.parametrize("alone", [True, False])
def test_another_thread_runs_a_step_of_the_library_first(monkeypatch, tmp_path, alone):
    """Not where other ranks would have to run it, too."""
    session, _ = opened(monkeypatch, tmp_path)
    used, runner = [], session.runner
    monkeypatch.setattr("executor.warm_up.use", used.append)
    monkeypatch.setattr(runner, "alone", alone)
    runner.asked.clear()
    session.enter_thread()
    assert used == [runner.device]
    assert runner.asked == [(0, [min(LIBRARY_ROWS, session.model.max_model_len)])] * alone


def test_a_step_of_the_library_has_more_rows_than_our_own_products():
    pytest.importorskip("triton")
    from executor.kernels.linear import SHARED_TILES, WIDE

    assert max(tile.rows for tile in (*WIDE[80], *WIDE[90], *SHARED_TILES)) < LIBRARY_ROWS


def test_buffers_of_all_sizes_are_pinned_ahead(tmp_path, monkeypatch):
    """As many of each as are in use together, the largest for the largest step there is."""
    held, most, made = [], 0, []

    class Buffer:
        def __init__(self, nbytes):
            made.append(nbytes)
            held.append(1)
            nonlocal most
            most = max(most, len(held))

        def __del__(self):
            held.pop()

    pin_ahead(50_000, Buffer)
    small, large = ([1 << n for n in sizes] for sizes in (range(3, 15), (15, 16)))
    assert sorted(made) == sorted(small * SMALL_AT_ONCE + large * PINNED_AT_ONCE)
    assert most == SMALL_AT_ONCE > PINNED_AT_ONCE and not held
    assert [pinned_sizes(n)[-1] for n in (1, 8, 9, 1 << 20, (1 << 20) + 1)] == [
        *(8, 8, 16, 1 << 20, 2 << 20)
    ]
    runner = Runner(tiny_model(tmp_path, CPU), torch.zeros(16, dtype=torch.uint8))
    wanted = []
    monkeypatch.setattr("executor.steps.runner.pin_ahead", wanted.append)
    runner.pin_ahead(100, 8, 3000)
    runner.graphs = DryGraphs(runner, 256, 3000)
    runner.pin_ahead(100, 8, 3000)
    assert 2 * 12 * 3000 < wanted[0] < wanted[1] == runner.graphs.nbytes
