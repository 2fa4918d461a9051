"""Every form of a kernel that a run needs has been launched before its first request.

Triton compiles a kernel anew for other constants and types, for numbers that are 1 or multiples of
16 where others were not, and for addresses that are multiples of 16 or not. Here launches are noted
by all that, and nothing is computed.
"""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from executor_runs import CPU, LLAMA, DryGraphs
from triton.runtime.interpreter import InterpretedFunction

from executor import models
from executor import session as sessions
from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.kernels import decode_attention, linear, linear_fused, widen
from executor.kernels.tiles import INTERPRETED
from executor.kernels.triton_ops import TritonOps
from executor.session import ModelOptions, open_session
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch, Launched, Runner
from executor.warm_up import compile_kernels
from superinfer.lab.config import load_config

BUDGET, ROWS = 600, 48
PAIRS = ((16, 8), (16, 4), (8, 4))
MODELS = {
    "llama": {},
    "seven heads": {"num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 448},
    "experts": {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
}


class LikeGpu(Runner):
    """A runner that says it runs beside the host, with as many work items as on an H200."""

    def __init__(self, model, arena):
        budget = ItemBudget(132 * 8 // model.layout.kv_heads, 64 // model.layout.block_tokens)
        super().__init__(model, arena, budget)
        self.asynchronous, self._ops = True, TritonOps()

    def pin_ahead(self, tokens, rows, blocks):
        pass  # no pinned memory here

    def capture(self, max_rows, arena_blocks):
        self.asynchronous = False  # no pinned memory here
        self.graphs = DryGraphs(self, max_rows, arena_blocks)
        for sizes in self.graphs._graphs:
            self.graphs.work(sizes)

    def _eager(self, batch):
        self.asynchronous = False
        return super()._eager(batch)

    def _sent(self, tokens):
        self.asynchronous = True
        return Launched(tokens.clone(), None)


def form(kernel, args, kwargs):
    """What Triton compiles a launch for."""
    parameters = inspect.signature(kernel.fn).parameters
    free = kernel.kwargs["do_not_specialize"] or ()
    given = dict(zip(parameters, args, strict=False)) | kwargs
    found = [(kernel.fn.__name__,)]
    for name, value in sorted(given.items()):
        if isinstance(value, torch.Tensor):
            found.append((name, value.dtype, value.data_ptr() % 16 == 0))
        elif name not in parameters or "constexpr" in str(parameters[name].annotation):
            found.append((name, str(value)))
        elif type(value) is int:
            special = "any" if name in free else value == 1 or (value % 16 == 0 and "16")
            found.append((name, special, value.bit_length() > 31))
        else:
            found.append((name, type(value)))
    return tuple(found)


@pytest.fixture
def forms(monkeypatch):
    """Those launched so far."""
    if not INTERPRETED:
        pytest.skip("needs the interpreter: set TRITON_INTERPRET=1")
    found = set()

    def note(kernel, *args, grid, warmup, **kwargs):
        found.add(form(kernel, args, kwargs))

    monkeypatch.setattr(InterpretedFunction, "run", note)
    monkeypatch.setattr(sessions, "Runner", LikeGpu)
    for module in (sessions, models):
        monkeypatch.setattr(module, "ops_for", lambda device: TritonOps())
    return found


def opened(folder, changes, int8):
    """A session as on a GPU."""
    path = folder / "config.json"
    path.write_text(json.dumps({**LLAMA, "num_hidden_layers": 1, **changes}))
    config = load_config(
        None,
        [f"scheduler.max_num_batched_tokens={BUDGET}", f"scheduler.max_num_seqs={ROWS}"],
        model=str(path),
        device="cpu",
        scheduler="fcfs",
        memory="slo_aware",
        kv_blocks=40,
        block_tokens=32,
        host_memory_gib=0.01,
        trace="mixed",
    )
    session = open_session(config, ModelOptions(dtype="bfloat16", random_weights=True, int8=int8))
    compile_kernels(session.model)
    return session


def random_batch(random, source, vocab, longest):
    """Decodes and chunks of any lengths and precisions, within the scheduler's limits."""
    contexts = random.integers(1, longest, int(random.integers(0, ROWS + 1))).tolist()
    chunks = []
    for _ in range(int(random.integers(0 if contexts else 1, 6))):
        left = BUDGET - len(contexts) - sum(tokens for tokens, _ in chunks)
        tokens = min(int(longest ** random.random()), left)
        chunks += [(tokens, int(random.integers(0, longest - tokens + 1)))] if tokens else []
    mix = ({}, {8: 0.5, 4: 0.3})[int(random.integers(2))]
    decodes = decode_rows(source, contexts, vocab, mix)
    return Batch.of(decodes, chunk_rows(source, chunks, vocab, mix))


@pytest.fixture
def _prepared(monkeypatch):
    """All that is off by default on, as if a device had found it faster."""
    monkeypatch.setitem(linear_fused.FUSED, 90, True)
    monkeypatch.setitem(linear.NARROW, 90, linear.SHARED_TILES)
    monkeypatch.setitem(widen.WIDEN_FROM, 90, 200)
    tiles = decode_attention.TILES[90] | decode_attention.COPIED
    monkeypatch.setitem(decode_attention.TILES, 90, tiles)


@pytest.mark.usefixtures("_prepared")
@pytest.mark.parametrize("int8", [False, True])
def test_nor_of_what_may_be_adopted(tmp_path, forms, int8):
    launched = runs_compile_nothing(tmp_path, forms, MODELS["llama"], int8)
    assert ("widen_kernel" if int8 else "fused_kernel") in launched


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_compiled_during_a_run(tmp_path, forms, name, int8):
    runs_compile_nothing(tmp_path, forms, MODELS[name], int8)


def runs_compile_nothing(folder, forms, changes, int8):
    session = opened(folder, changes, int8)
    known, model = set(forms), session.model
    assert known
    forms.clear()
    source = RandomArena(model.layout, 40, CPU)
    session.runner.arena = source.arena
    random = np.random.default_rng(0)
    for _ in range(40):
        session.runner.asynchronous = False
        batch = random_batch(random, source, model.vocab, model.max_model_len)
        if session.runner._replayed(batch) is None:
            session.runner._eager(batch)
    assert session.runner.replayed and len({kernel[0] for kernel in forms}) > 5
    moved = TritonOps()
    for count in (1, 2, 16, 17):
        places = torch.zeros(count, dtype=torch.int64)
        for before, after in PAIRS:
            moved.requantise(source.arena, model.layout, places, places, before, after)
        for nbytes in model.layout.block_bytes.values():
            moved.copy_blocks(source.arena, places, places, nbytes)
    assert not forms - known
    return {name for ((name,), *_) in forms}
