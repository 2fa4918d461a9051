"""A fixed piece of work like a step's, by whose time the speed of a CPU is known.

It is one step of the shipped model, eight decodes beside a chunk of a prompt, through the runner:
the building of its inputs in Python, many small operations, some larger products, reads of the KV
cache. Weights and cache are its own, and the same numbers every time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.clocks.timers import CLOCKS, SteadyTimer, Timer, WallTimer
from executor.models import load_model
from executor.shipped import TINY
from executor.steps.runner import Batch, Runner
from superinfer.errors import ConfigError

THREADS = "OMP_NUM_THREADS"
BLOCKS, BLOCK_TOKENS = 128, 16
DECODES, CONTEXT, CHUNK = 8, 64, 8


def require_clock(clock: str, on_cpu: bool, ranks: int = 1) -> None:
    """Raise ConfigError for an unknown clock, or where it cannot be used."""
    if clock not in CLOCKS:
        raise ConfigError(f"--clock: expected one of {', '.join(CLOCKS)}, got {clock!r}")
    if clock == "wall":
        return
    if not on_cpu:
        raise ConfigError("--clock steady: only on a CPU, which others use at the same time")
    if torch.get_num_threads() > 1:
        raise ConfigError(f"--clock steady: counts one thread; set {THREADS}=1")
    if ranks > 1:
        raise ConfigError(f"--clock steady: counts one process; run.tp is {ranks}")


def timer_for(clock: str, device: torch.device, reference_s: float = 0.0) -> Timer:
    """The timer of a name; ConfigError as `require_clock`."""
    require_clock(clock, device.type == "cpu")
    return WallTimer() if clock == "wall" else SteadyTimer(yardstick(), reference_s)


def yardstick() -> Callable[[], None]:
    """The work."""
    device = torch.device("cpu")
    model = load_model(TINY, device=device, dtype=torch.float32, block_tokens=BLOCK_TOKENS)
    source = RandomArena(model.layout, {16: BLOCKS}, device)
    runner = Runner(model, source.arena)
    vocab = model.vocab
    decodes = decode_rows(source, [CONTEXT] * DECODES, vocab)
    batch = Batch.of(decodes, chunk_rows(source, [(CHUNK, 0)], vocab))

    def work() -> None:
        runner.launch(batch).wait()

    return work
