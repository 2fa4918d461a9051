"""What runs once before a run begins, so that no request waits for a compiler or a library.

Triton compiles a kernel, and CUDA loads one of a library, when it is first launched. Triton makes a
kernel of its own for addresses and numbers that are not multiples of 16, so blocks are rewritten
and moved here by the mover that does it in the run. Capturing graphs gives torch's free memory
back to the device, and pinned memory to the host, so steps run once more after it and leave their
memory in torch's cache, and pinned buffers of all sizes that steps can need are put there.
"""

from __future__ import annotations

import numpy as np
import torch

from executor.device import use
from executor.kv.arena import Arena, HostArena
from executor.kv.layout import KVLayout
from executor.kv.swap import Mover
from executor.kv.tables import BlockTable, CopyJob, MoveJob, Moves, Order, RequantiseJob
from executor.models import Model
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from executor.steps.runner import Batch, Runner
from executor.steps.sampler import ROWS_AT_ONCE, History, Sampling, SamplingRow, sample
from superinfer.schedulers.base import Scheduler

WARM_UP_TOKENS = 8192
"""Prefill tokens of a step, if the scheduler names no budget of its own."""
WARM_UP_ROWS, MOST_WARM_ROWS = 256, 1024
"""Decodes of a step, if the scheduler names no number of its own, and at the most."""
SAMPLED_ROWS = (1, 32, ROWS_AT_ONCE)
"""Rows whose tokens are drawn; the most at once leave the memory for it in torch's cache."""
WARM_UP_CHUNKS = (1, 16, 64, 256, 1024)
"""Tokens of chunks for which kernels may have tiles of their own."""
LIBRARY_ROWS = 256
"""More than products of our own with 16-bit weights take."""
PAIRS = ((16, 8), (16, 4), (8, 4))
"""Bits that blocks have and get."""


def most_tokens(scheduler: Scheduler) -> int:
    """Prefill tokens of the largest step that is run before a run begins."""
    return int(getattr(scheduler, "max_num_batched_tokens", 0) or WARM_UP_TOKENS)


def most_rows(scheduler: Scheduler) -> int:
    """Decodes of the largest step that is run before a run begins."""
    return min(int(getattr(scheduler, "max_num_seqs", None) or WARM_UP_ROWS), MOST_WARM_ROWS)


def warm_up(model: Model, tokens: int, rows: int) -> None:
    """Run a prefill of so many tokens and a decode of so many rows over one block, whose content is
    of no interest.
    """
    layout = model.layout
    arena = torch.zeros(layout.block_bytes[16], dtype=torch.uint8, device=model.device)
    for decodes, chunks in (
        ([], _chunks(layout, tokens, model.max_model_len)),
        (_decodes(rows), []),
    ):
        model.forward(build_inputs(decodes, chunks, layout, model.device, item_blocks=1), arena)


def compile_kernels(model: Model) -> None:
    """Let kernels of steps take their place in a GPU's memory before its room is counted."""
    for tokens in WARM_UP_CHUNKS:
        warm_up(model, min(tokens, model.max_model_len), min(tokens, WARM_UP_ROWS))


def make_ready(
    runner: Runner, mover: Mover, arenas: tuple[Arena, HostArena | None], tokens: int, rows: int
) -> None:
    """Carry out every kind of move, and steps without graphs of up to `tokens` prefill tokens and
    `rows` decodes, and pin what steps are sent through; to be called while no block of the arena is
    in use.

    Every rank does it by itself: all of them have the same sizes, so their sums meet.
    """
    mover.start(_moves(*arenas))
    layout, longest = runner.model.layout, runner.model.max_model_len
    for size in sizes_up_to(rows):
        runner.rehearse(Batch.of(_decodes(size), []))
    for size in sizes_up_to(tokens):
        runner.rehearse(Batch.of([], _chunks(layout, size, longest)))
    if tokens > 1:
        some = min(rows, tokens // 2)
        runner.rehearse(Batch.of(_decodes(some), _chunks(layout, tokens - some, longest)))
    for count in SAMPLED_ROWS:
        _draw(runner.model, min(count, rows))
    if runner.asynchronous:
        whole = arenas[0].size
        runner.pin_ahead(tokens, rows, whole.nbytes // min(whole.block_bytes.values()))
    mover.poll()


def enter_thread(runner: Runner) -> None:
    """Let this thread run steps where another one has made all ready, while no block of the arena
    is in use. Each thread has a current GPU, and a handle and a workspace of cuBLAS, which torch
    makes with its first product: a step of as many rows as go to the library.
    """
    use(runner.device)
    if runner.asynchronous and runner.alone:
        model = runner.model
        tokens = min(LIBRARY_ROWS, model.max_model_len)
        runner.rehearse(Batch.of([], _chunks(model.layout, tokens, model.max_model_len)))


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 and so on, and `most`: tiles of our own change at powers of two, those
    of a library where it sees fit.
    """
    sizes, power = {most}, 1
    while power < most:
        sizes |= {power, min(most, max(1, 3 * power // 2))}
        power *= 2
    return sorted(sizes)


# -- inside ---------------------------------------------------------------------------------------


def _table(blocks: int) -> BlockTable:
    """The arena's first block, again and again."""
    table = BlockTable(blocks)
    table.append(np.zeros(blocks, np.int64), 16)
    return table


def _decodes(rows: int) -> list[DecodeRow]:
    return [DecodeRow(_table(1), 1, 0)] * rows


def _chunks(layout: KVLayout, tokens: int, longest: int) -> list[ChunkRows]:
    """Prompts of so many tokens together, each as long as the model takes it."""
    lengths = [longest] * (tokens // longest) + [tokens % longest]
    return [
        ChunkRows(_table(-(-length // layout.block_tokens)), 0, np.zeros(length, np.int64), True)
        for length in lengths
        if length
    ]


def _draw(model: Model, rows: int) -> None:
    """Draw tokens in all ways at once; a library brings its kernels for each."""
    device = model.device
    history = History([0], model.vocab, device)
    all_ways = Sampling(
        temperature=1.0,
        top_k=2,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
    )
    logits = torch.zeros(rows, model.vocab, device=device)
    history.add(sample(logits, [SamplingRow(all_ways, 1, history)] * rows)[:1])
    sample(logits, [SamplingRow(Sampling(temperature=1.0), 1)] * rows)


def _moves(arena: Arena, host: HostArena | None) -> Moves:
    """A block of each precision rewritten as each other, moved, and copied to the host and back."""
    places = arena.allocator()
    held = {bits: places.take(bits, 1) for bits in arena.size.block_bytes}
    orders: list[Order] = []
    if len(held) > 1:
        orders += [RequantiseJob(old, new, held[old], held[new]) for old, new in PAIRS]
        orders += [MoveJob(bits, place, place) for bits, place in held.items()]
    if host is not None:
        bits, start = np.full(1, 16, np.int8), np.zeros(1, np.int64)
        orders.append(CopyJob(None, "d2h", held[16], bits, start))
        orders.append(CopyJob(None, "h2d", held[16], bits, start))
    return Moves(orders)
