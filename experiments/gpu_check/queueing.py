"""Steps, moves of blocks and draws are queued without waiting for the device: torch raises where it
would, which leaves the one wait for the tokens of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.capacity import slabs_for
from executor.kv.arena import Arena, HostArena, arena_size
from executor.kv.streams import streams_for
from executor.kv.swap import Mover
from executor.models import Model
from executor.steps.runner import Batch, Runner
from executor.steps.sampler import History, SamplingRow
from executor.warm_up import make_ready
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels.drawing import PROMPT, SETTINGS, no_waiting
from experiments.gpu_check.setting import device_of, ops_of, verdict

BLOCKS, HOST_BLOCKS, ROWS, TOKENS = 400, 8, 16, 600
WAITS = "synchronizing"
"""In what torch says when it would wait."""
CHUNKS = {"decodes": (), "a chunk": ((40, 100),), "more chunks than graphs have": ((9, 50),) * 5}


def queued(context: Context, model: Model) -> Result:
    """All that a run launches, once to compile and load it, and once more."""
    arena, host = _arenas(context, model)
    runner = Runner(model, arena.tensor)
    source = RandomArena.over(model.layout, arena.tensor, BLOCKS)
    actions = {
        f"{name}{', drawn' if drawn else ''}": _launching(runner, source, chunks, drawn)
        for name, chunks in CHUNKS.items()
        for drawn in (False, True)
    }
    if runner.asynchronous:
        runner.capture(ROWS, arena.size.nbytes // min(arena.size.block_bytes.values()))
        mover = Mover(arena, host, ops_of(context), streams_for(model.device))
        actions["moves and eager steps of all sizes"] = lambda: make_ready(
            runner, mover, (arena, host), TOKENS, ROWS
        )
    said = {name: _waits(action, model) for name, action in actions.items()}
    errors = {name: math.inf if words else 0.0 for name, words in said.items()}
    return verdict(errors, 0.0, said=said, replayed=runner.replayed)


def _arenas(context: Context, model: Model) -> tuple[Arena, HostArena]:
    layout, device = model.layout, device_of(context)
    size = arena_size(layout, BLOCKS, slabs_for(layout, BLOCKS, smaller=True))
    slab_blocks, pinned = size.per_slab[16], device.type == "cuda"
    host = HostArena(layout.block_bytes[16], HOST_BLOCKS, pinned=pinned, slab_blocks=slab_blocks)
    return Arena(layout, size, device), host


def _launching(
    runner: Runner, source: RandomArena, chunks: tuple[tuple[int, int], ...], drawn: bool
) -> Callable[[], object]:
    """Launches a step; with tokens that are drawn in all ways."""
    vocab = runner.model.vocab
    decodes = decode_rows(source, [33] * len(SETTINGS), vocab)
    batch = Batch.of(decodes, chunk_rows(source, list(chunks), vocab))
    if drawn:
        ways = [*SETTINGS.values()] * (1 + len(chunks))
        batch.sampling = [
            SamplingRow(each, 34, History(PROMPT, vocab, runner.device) if each.penalised else None)
            for each in ways[: batch.wanted]
        ]
    return lambda: runner.launch(batch)


def _waits(action: Callable[[], object], model: Model) -> str:
    """What torch says where it would have to wait; nothing where it need not."""
    action()
    try:
        with no_waiting(model.device):
            action()
    except RuntimeError as error:
        if WAITS not in str(error):
            raise
        return str(error)
    return ""
