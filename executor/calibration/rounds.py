"""All kernels of a model, one after the other, and on a CPU all of them several times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from executor.bench.steps import arena_room
from executor.calibration import kernels, products
from executor.calibration.bench import Bench
from executor.calibration.cases import RandomArena
from executor.calibration.subject import Subject
from executor.calibration.tables import Family, middle
from executor.calibration.timing import Deadline, rounds_within

WEIGHTS = {
    **dict.fromkeys(("gemm_qkv", "gemm_o", "gemm_gate_up", "gemm_down"), 2.0),
    **{"attention_decode_16": 2.0, "attention_prefill": 4.0},
    **dict.fromkeys(("embed", "requantise_8", "requantise_4", "block_copy"), 0.5),
}
"""Of the time for kernels, where 1 is what each of the others has: by their part in steps, and by
how many points their tables need. What one leaves over goes to those after it.
"""
Say = Callable[[str], None]


def kernels_in_rounds(subject: Subject, deadline: Deadline, say: Say) -> dict[str, Family]:
    """Every kernel, once or on a CPU some times."""
    found: dict[str, list[Family]] = {}
    for done in rounds_within(subject.rounds, deadline):
        if subject.rounds > 1:
            say(f"kernels, round {done + 1} of {subject.rounds}")
        part = Deadline(deadline.left_s / (subject.rounds - done))
        for name, family in measure_kernels(subject, part, say):
            found.setdefault(name, []).append(family)
    return {name: middle(families) for name, families in found.items()}


def measure_kernels(subject: Subject, deadline: Deadline, say: Say) -> Iterator[tuple[str, Family]]:
    """Every kernel that the cost model reads of this model, and `block_copy`, by which one can tell
    how little it leaves out (docs/limits.md), one after the other.
    """
    bench = subject.bench()
    todo = [*_dense(bench), *_blocks(subject, bench)]
    weights = [WEIGHTS.get(name, 1.0) for name, _ in todo]
    for position, (name, measure) in enumerate(todo):
        share = weights[position] / sum(weights[position:])
        say(f"{name}")
        made = measure(Deadline(max(0.2, share * deadline.left_s)))
        yield from ([(name, made)] if isinstance(made, Family) else made)
        if subject.gpu:
            torch.cuda.empty_cache()


Measure = Callable[[Deadline], Any]


def _dense(bench: Bench) -> Iterator[tuple[str, Measure]]:
    """What needs no arena."""
    for part, size in products.gemm_sizes(bench.shape).items():
        yield f"gemm_{part}", partial(products.measure_gemm, bench, part, size)
    yield "norm", partial(kernels.measure_norm, bench)
    if bench.shape.experts:
        yield "moe", partial(kernels.measure_moe, bench)
    else:
        yield "activation", partial(kernels.measure_activation, bench)
    yield "embed", partial(kernels.measure_embed, bench)
    yield "sample", partial(kernels.measure_sample, bench)


def _blocks(subject: Subject, bench: Bench) -> Iterator[tuple[str, Measure]]:
    """What reads or writes blocks; an arena for each precision, one at a time."""

    def over(bits: tuple[int, ...], measure: Callable[..., Family], *more: int) -> Measure:
        return lambda deadline: measure(bench, _arena(subject, bits), *more, deadline)

    yield "rope_write", over((16,), kernels.measure_rope)
    for bits in (16, 8, 4):
        yield f"attention_decode_{bits}", over((bits,), kernels.measure_decode, bits)
    yield "attention_prefill", over((16,), kernels.measure_prefill)
    for bits in (8, 4):
        yield f"requantise_{bits}", over((16, bits), kernels.measure_requantise, bits)
    yield "block_copy", over((16,), kernels.measure_copy)


def _arena(subject: Subject, bits: tuple[int, ...]) -> RandomArena:
    """Blocks far beyond the cache, or as many as fit; with 16-bit blocks for the newest tokens."""
    layout, grids = subject.layout, subject.grids()
    tails = grids.sequences[-1] + 2
    wanted = min(grids.most_context // layout.block_tokens, 16384 if subject.gpu else 1024)
    sizes = layout.block_bytes
    room = arena_room(subject.device) * 3 // 4 - (tails * sizes[16] if 16 not in bits else 0)
    count = max(8, min(wanted, room // sum(sizes[kind] for kind in bits)))
    counts = {16: tails, **dict.fromkeys(bits, count)}
    return RandomArena(layout, counts, subject.device)
