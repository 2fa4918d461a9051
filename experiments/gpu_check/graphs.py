"""Replays of captured steps, their kernels launched early, against the same steps run eagerly and
late: equal bit for bit.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from unittest.mock import patch

import torch

from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.kv.layout import KVLayout
from executor.models import Model, load_model
from executor.steps.inputs import build_inputs
from executor.steps.runner import Batch, Runner
from executor.steps.step import StepInputs
from executor.warm_up import enter_thread
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.kernels.cases import MIXES
from experiments.gpu_check.setting import device_of, poison, randn, tolerance, verdict
from experiments.gpu_check.small import config_file, small_model

DECODES = (
    ((1, ()), "16"),
    ((2, ()), "mixed"),
    ((3, ()), "4"),
    ((7, ()), "8"),
    ((16, ()), "mixed"),
)
MIXED = (
    ((0, ((1, 0),)), "16"),
    ((0, ((100, 300), (7, 0), (60, 64), (33, 1000))), "mixed"),
    ((1, ((31, 500),)), "8"),
    ((3, ((62, 0), (128, 700))), "4"),
    ((16, ((200, 333),)), "mixed"),
    ((7, ((505, 900),)), "16"),
    ((2, ((1000, 40), (5, 800))), "mixed"),
)
MOST_ROWS = 16
"""Of these steps that decode."""
STEPS = DECODES + MIXED
"""Decodes and `(tokens, context before)` of chunks, and a mix of precisions."""


def late() -> AbstractContextManager[object]:
    """Every kernel launched after the end of the one before, for a while."""
    from executor.kernels.early import EARLY

    return patch.dict(EARLY, dict.fromkeys(EARLY, False))


def replay(context: Context) -> Result:
    """Small batches in all mixes of precisions, each with keys of its own."""
    if context.tiny:
        return {"skipped": "CUDA graphs need a GPU"}
    return _compare(context, small_model(context))


def replay_int8(context: Context) -> Result:
    """The same with int8 weights, and Llama-3.1-8B's head dimension."""
    if context.tiny:
        return {"skipped": "CUDA graphs need a GPU"}
    return _compare(context, small_model(context, int8=True, head_dim=128))


def _compare(context: Context, model: Model) -> Result:
    source = RandomArena(model.layout, 800, device_of(context))
    runner, capture_s = _captured(context, Runner(model, source.arena))
    errors, unlike = dict[str, float](), dict[str, float]()
    for (rows, chunks), mix in STEPS:
        name = f"{rows} rows {mix}{''.join(f' {tokens}@{before}' for tokens, before in chunks)}"
        source.reshuffle()
        lengths = [1 + (97 * i * i + 31) % 1500 for i in range(rows)]
        batch = Batch.of(
            decode_rows(source, lengths, model.vocab, MIXES[mix]),
            chunk_rows(source, list(chunks), model.vocab, MIXES[mix]),
        )
        found = _replayed(runner, batch)
        if found is None:
            errors[f"{name}: no graph took it"] = math.inf
        else:
            errors[name], unlike[name] = found
    # For other numbers of rows cuBLAS takes other kernels, so padding is within a tolerance alone.
    bound = max(1e-4, tolerance(context, 3e-2))
    errors |= {f"{name}, not padded": error for name, error in unlike.items() if error > bound}
    graphs = 0 if runner.graphs is None else len(runner.graphs)
    return verdict(errors, 0.0, graphs=graphs, capture_s=capture_s, unpadded=unlike)


def _captured(context: Context, runner: Runner) -> tuple[Runner, float]:
    """The runner with graphs, and the seconds that took; what others captured before is gone."""
    others = product_graph(context)
    begin_s = time.perf_counter()
    runner.capture(MOST_ROWS, 1200)
    torch.cuda.synchronize()
    capture_s = time.perf_counter() - begin_s
    del others
    poison(context)
    return runner, capture_s


def _replayed(runner: Runner, batch: Batch) -> tuple[float, float] | None:
    """How far logits of a replay are from those of the same step run eagerly, 0 if bits and tokens
    are the same, and, as a share, from those without padding; None where no graph takes the step.
    """
    graphs = runner.graphs
    assert graphs is not None
    with late():
        eager = graphs.eager(batch)
    replayed = graphs.replay(batch)
    if eager is None or replayed is None:
        return None
    first, tokens = replayed().clone(), runner.outputs[: batch.wanted].clone()
    repeated = graphs.replay(batch)
    again = first[:0] if repeated is None else repeated()
    torch.cuda.synchronize()
    some, first, again = (logits[: batch.wanted] for logits in (eager, first, again))
    finite = bool(torch.isfinite(some).all())
    equal = torch.equal(some, first) and torch.equal(first, again)
    equal = equal and torch.equal(tokens, some.argmax(-1))
    difference = float((some - first).abs().max())
    plain = runner.forward(_unpadded(runner, batch)).float()
    unlike = float((first - plain).norm() / plain.norm())
    return 0.0 if finite and equal else difference or math.inf, unlike


def product_graph(context: Context) -> torch.cuda.CUDAGraph:
    """A library's product as others capture it. When it goes, so does what the library had for it,
    and nothing that was captured meanwhile may miss that.
    """
    x, graph = randn(context, 512, 512), torch.cuda.CUDAGraph()
    x.mm(x)  # the library begins, which cannot be captured
    with torch.cuda.graph(graph):
        x.mm(x)
    return graph


def _unpadded(runner: Runner, batch: Batch) -> StepInputs:
    """The step with the shapes that it happens to have."""
    layout, rows = runner.model.layout, list(batch.decodes)
    item_blocks = runner.budget.item_blocks(len(rows), batch.blocks(layout.block_tokens))
    return build_inputs(rows, batch.chunks, layout, runner.model.device, item_blocks=item_blocks)


def models(context: Context) -> Result:
    """A step of the small model in 16 bits against the same weights in float32 on torch's ops."""
    from executor.calibration.cases import mixed_step
    from executor.kernels.reference import TorchOps
    from executor.steps.items import ItemBudget

    device, errors = device_of(context), {}
    narrow = small_model(context)
    file = config_file(context, "small", {})
    wide = load_model(file, device=device, dtype=torch.float32, random_weights=True, ops=TorchOps())
    copy_weights(narrow, wide)
    for name, contexts, chunks in (
        ("prefill", [], [(70, 0), (33, 0)]),
        ("decode", [1, 40, 333], []),
        ("mixed", [65, 700], [(50, 100)]),
    ):
        source = RandomArena(narrow.layout, {16: 64}, device, seed=5)
        budget = ItemBudget.of(narrow.layout, device)
        step = mixed_step(source, contexts, chunks, narrow.vocab, budget)
        wider = _widened(source, wide.layout)
        scale = wide.layout.block_bytes[16] // narrow.layout.block_bytes[16]
        found = narrow.forward(step, source.arena)
        for lists in (step.decode, step.prefill):
            if lists is not None:
                lists.blocks.offsets = lists.blocks.offsets * scale
        step.write_offsets = step.write_offsets * scale
        wanted = wide.forward(step, wider)
        errors[name] = float((found - wanted).norm() / wanted.norm())
    return verdict(errors, max(1e-4, tolerance(context, 3e-2)))


def _widened(source: RandomArena, layout: KVLayout) -> torch.Tensor:
    """The same keys and values in float32: 16-bit blocks alone."""
    values = source.arena.view(source.layout.dtype).to(layout.dtype)
    return values.view(torch.uint8)


def copy_weights(source: Model, target: Model) -> None:
    """Give `target` the weights of `source`, in its own type."""
    for mine, other in zip(_tensors(source, set()), _tensors(target, set()), strict=True):
        other.copy_(mine)


def _tensors(holder: object, seen: set[int]) -> list[torch.Tensor]:
    """All tensors that an object holds, in a fixed order."""
    if isinstance(holder, torch.Tensor):
        fresh = id(holder) not in seen
        seen.add(id(holder))
        return [holder] if fresh else []
    if isinstance(holder, list | tuple):
        return [found for item in holder for found in _tensors(item, seen)]
    if not type(holder).__module__.startswith("executor.models"):
        return []
    names = [*getattr(holder, "__dict__", {}), *getattr(type(holder), "__slots__", ())]
    return [found for name in names for found in _tensors(getattr(holder, name), seen)]


def launched(context: Context) -> Result:
    """Nothing waits for the device where steps are queued."""
    from experiments.gpu_check.queueing import queued

    return queued(context, small_model(context))


def another_thread(context: Context) -> Result:
    """Steps that another thread launches than the one that captured graphs give the same tokens."""
    model = small_model(context)
    source = RandomArena(model.layout, 100, device_of(context))
    runner, vocab = Runner(model, source.arena), model.vocab
    if runner.asynchronous:
        runner.capture(4, 300)
    decodes = decode_rows(source, [1, 40, 333], vocab)
    steps = {
        "decodes": Batch.of(decodes, []),
        "a chunk": Batch.of(decodes, chunk_rows(source, [(40, 64)], vocab)),
        "more rows than graphs have": Batch.of(decodes, chunk_rows(source, [(1200, 0)], vocab)),
    }
    with ThreadPoolExecutor(1) as other:
        other.submit(enter_thread, runner).result()
        wanted = {name: runner.launch(step).wait() for name, step in steps.items()}
        told = {name: other.submit(runner.launch, step).result() for name, step in steps.items()}
        found = {name: other.submit(step.wait).result() for name, step in told.items()}
    errors = {name: 0.0 if found[name] == wanted[name] else math.inf for name in steps}
    return verdict(errors, 0.0, replayed=runner.replayed)


CHECKS: dict[str, Check] = {
    "models": models,
    "replay": replay,
    "replay_int8": replay_int8,
    "launched": launched,
    "another_thread": another_thread,
}
