"""Runs of the executor on the CPU: small models, and given step times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import caller
from torch import Tensor

from executor import cli
from executor.answers import Answer, Answers
from executor.arrivals import Arrivals
from executor.backend import TorchBackend
from executor.clocks.clock import Clock, GivenTimes, RealTime
from executor.driver import Driver
from executor.kernels.ops import ops_for
from executor.kv.arena import Arena, HostArena, arena_size
from executor.kv.checks import check
from executor.kv.layout import KVLayout
from executor.kv.manager import BlockManager
from executor.kv.streams import InlineStreams
from executor.kv.swap import Mover
from executor.kv.tables import BlockTable
from executor.models import load_model
from executor.steps.graphs import Captured, StepGraphs
from executor.steps.inputs import ChunkRows
from executor.steps.packing import Sizes
from executor.steps.runner import Batch, Runner
from executor.steps.step import StepInputs
from executor.workload import forced_tokens
from superinfer.engine import Engine, EngineConfig
from superinfer.memory.base import Ladder
from superinfer.memory.blocks.slabs import NO_SMALL, ONE_BLOCK_SLABS, slabs_of
from superinfer.plan import Plan
from superinfer.request import Request

CPU = torch.device("cpu")
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 128,
    "vocab_size": 131,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
"""Sizes of a small Llama."""


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command of `superinfer-exec`."""
    answer = caller(cli.main, "superinfer-exec", monkeypatch, capsys)(*arguments)
    return answer.code, answer.out, answer.err


class IdleModel:
    """Says 0 at once, whatever it is asked."""

    def __init__(self, block_tokens: int, max_model_len: int = 512) -> None:
        self.layout = KVLayout(1, 1, 8, block_tokens, torch.float32)
        self.vocab = 4
        self.max_model_len = max_model_len
        self.device = CPU

    def forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        """Zeros for each wanted row."""
        return torch.zeros(len(step.logit_rows), self.vocab)


def sizes_for(layout: KVLayout, memory: Any, blocks: int, **more: Any) -> EngineConfig:
    """An engine's sizes for a model's blocks; slabs of four blocks where some lose bits."""
    nbytes, small = layout.block_bytes, isinstance(memory, Ladder)
    more.setdefault("host_blocks", 200)
    return EngineConfig(
        total_blocks=blocks,
        block_tokens=layout.block_tokens,
        block_bytes=nbytes[16],
        small_block_bytes=(nbytes[8], nbytes[4]) if small else NO_SMALL,
        slabs=slabs_of(nbytes[16], nbytes[8], nbytes[4], 4 * nbytes[16])
        if small
        else ONE_BLOCK_SLABS,
        layers=layout.layers,
        **more,
    )


class CheckedManager(BlockManager):
    """A manager whose places are compared with the core's counts after every plan."""

    def __init__(self, engine: Engine, arena: Arena, host: HostArena | None) -> None:
        super().__init__(engine, arena, host)
        self.follows = 0
        self.orders: list[Any] = []

    def follow(self, plan: Plan | None) -> Any:
        moves = super().follow(plan)
        check(self)
        self.follows += 1
        self.orders += moves.orders
        return moves


@dataclass
class Rig:
    """An engine with a device, ready to run."""

    engine: Engine
    model: Any
    ahead: bool = False
    """Queue steps as on a device that runs beside the host."""
    manager: CheckedManager = field(init=False)
    mover: Mover = field(init=False)
    runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        sizes, layout = self.engine.config, self.model.layout
        smaller = sizes.small_block_bytes != NO_SMALL
        size = arena_size(layout, sizes.total_blocks, sizes.slabs, smaller)
        arena = Arena(layout, size, CPU)
        arena.tensor.fill_(0x7F)  # as floating-point numbers not small
        host_blocks = self.engine.host.total + self.engine.host.cache_total
        nbytes, slab_blocks = layout.block_bytes[16], sizes.slabs.blocks_16
        host = (
            HostArena(nbytes, host_blocks, pinned=False, slab_blocks=slab_blocks)
            if host_blocks
            else None
        )
        self.manager = CheckedManager(self.engine, arena, host)
        self.mover = Mover(arena, host, ops_for(CPU), InlineStreams())
        self.runner = Runner(self.model, arena.tensor)

    def given_times(self) -> GivenTimes:
        """A clock that goes by the engine's cost model."""
        return GivenTimes(self.engine.cost, self.engine.config.lag, self.mover.poll)

    def real_time(self) -> RealTime:
        """The clock on the wall, without idle time."""
        return RealTime(self.mover.poll, lambda: self.mover.busy, skip_idle=True)

    def run(
        self, requests: Iterable[Request], answers: Answers, clock: Clock | None = None
    ) -> Driver:
        """To the end of the requests; by given times, unless there is another clock."""
        backend = TorchBackend(
            self.engine,
            self.runner,
            self.manager,
            self.mover,
            answers,
            clock or self.given_times(),
            Arrivals(requests),
        )
        backend.ahead = backend.ahead or self.ahead
        driver = Driver(backend)
        driver.run()
        return driver


def tiny_model(
    folder: Path,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    ops: Any = None,
    **changes: Any,
) -> Any:
    """A random Llama with heads of the kernels' sizes."""
    path = folder / "config.json"
    path.write_text(json.dumps({**LLAMA, **changes}))
    return load_model(
        path, device=device, dtype=dtype, random_weights=True, block_tokens=16, ops=ops, seed=2
    )


class DryGraphs(StepGraphs):
    """Graphs for a device that has none: a replay does the work again."""

    def _capture(self, sizes: Sizes, pool: Any) -> Captured:
        return Captured(DryGraph(partial(self.work, sizes)), DryGraph(partial(self.keep, sizes)))

    def work(self, sizes: Sizes) -> None:
        """What a graph would do."""
        self.latest = self._runner.forward(self._step(sizes))
        self._runner.take_likeliest(self.latest)

    def keep(self, sizes: Sizes) -> None:
        """What the small graph for logits would do."""
        self._logits[: sizes.wanted].copy_(self.latest)


@dataclass
class DryGraph:
    """One of them."""

    action: Callable[[], None]

    def replay(self) -> None:
        """Do it."""
        self.action()

    def pool(self) -> int:
        """Of no interest."""
        return 1


def prefilled(
    runner: Runner, lengths: Sequence[int], blocks: int, seed: int = 0
) -> tuple[list[BlockTable], list[int]]:
    """Sequences whose prompts are computed: their tables, with room for one token more, and the
    first tokens of their answers.
    """
    generator = np.random.default_rng(seed)
    size, step = runner.model.layout.block_tokens, runner.model.layout.block_bytes[16]
    places = generator.permutation(blocks - 1)
    tables, chunks = [], []
    for length in lengths:
        held = length // size + 1
        table = BlockTable()
        table.append(places[:held].astype(np.int64) * step, 16)
        places = places[held:]
        tables.append(table)
        chunks.append(ChunkRows(table, 0, generator.integers(0, 131, length), True))
    return tables, runner.launch(Batch.of([], chunks)).wait()


def forced(
    requests: Sequence[Request], output_tokens: Sequence[int], max_model_len: int = 512
) -> Answers:
    """Answers of given lengths to prompts of no interest."""
    return Answers(
        Answer(
            np.zeros(request.prompt_tokens, np.int64),
            forced_tokens(request, output_tokens[request.index], max_model_len),
        )
        for request in requests
    )
