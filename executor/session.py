"""From a configuration to an engine that drives a model on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from executor.arrivals import Traffic
from executor.backend import Texts, TorchBackend
from executor.capacity import host_arena, sizes_of
from executor.clocks.clock import Clock, RealTime
from executor.clocks.timers import Timer
from executor.device import Device, asked_bytes, find_device, is_out_of_memory
from executor.driver import Driver
from executor.kernels.ops import ops_for
from executor.kv.arena import Arena, HostArena, arena_size
from executor.kv.manager import BlockManager
from executor.kv.streams import streams_for
from executor.kv.swap import Mover
from executor.models import Model, load_model
from executor.models.config import read_config
from executor.models.t5 import T5
from executor.opening import Stages
from executor.ranks.leading import LeadingMover, LeadingRunner
from executor.ranks.orders import Channel
from executor.step_log import StepLog
from executor.steps.runner import Runner
from executor.warm_up import compile_kernels, enter_thread, make_ready, most_rows, most_tokens
from superinfer.costs import CalibratedCost, CostModel, HostCost, StepCost, build_cost
from superinfer.costs.learned import LearnedCost
from superinfer.costs.shapes import ModelShape
from superinfer.engine import Engine
from superinfer.errors import ConfigError, SuperInferError
from superinfer.events import Sink
from superinfer.lab.config import Config
from superinfer.lab.config.policy_faults import faults_named
from superinfer.memory.base import Ladder
from superinfer.request import Request
from superinfer.schedulers.base import Scheduler, tell_true_lengths

KERNEL_BLOCKS = (16, 32, 64)
"""Tokens of a block that the kernels know."""
TINY = "tiny"
"""The model that ships with the project."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HOST = HostCost(step_s=0.001, per_sequence_s=5e-6, origin="assumed")
"""For predictions, where no profile has measured it."""
STEP_SIZES = "scheduler.max_num_batched_tokens, scheduler.max_num_seqs or --kv-blocks"
"""Settings on which the memory of a step depends."""
MOST_ROWS = 256
"""Decodes of the largest graphs, if the scheduler names no limit of its own."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How the model is loaded, beside what `[run]` says."""

    dtype: str = ""
    """`float32`, `float16` or `bfloat16`; empty: bfloat16 on a GPU, else float32."""
    int8: bool = False
    random_weights: bool = False
    graphs: bool = True
    """Replay steps from CUDA graphs."""

    def torch_dtype(self, device: torch.device) -> torch.dtype:
        """The type of a model on a device; ConfigError for an unknown name."""
        name = self.dtype or ("bfloat16" if device.type == "cuda" else "float32")
        if name not in DTYPES:
            raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}, got {name!r}")
        return DTYPES[name]


@dataclass(slots=True)
class Session:
    """A model, its memory and the engine that plans for it."""

    engine: Engine
    model: Model
    runner: Runner
    manager: BlockManager
    mover: Mover | LeadingMover
    device: Device
    cost: StepCost
    opening_s: dict[str, float]
    """Seconds that it took to open it, by stage: weights, kernels, blocks, graphs and warm-up; what
    a device does not need is not there."""

    def driver(self, answers: Texts, traffic: Traffic, clock: Clock | None = None) -> Driver:
        """A driver of this session; by real time, unless there is another clock."""
        clock = clock or self.real_time()
        backend = TorchBackend(
            self.engine, self.runner, self.manager, self.mover, answers, clock, traffic
        )
        return Driver(backend)

    def enter_thread(self) -> None:
        """To be called first in the thread that runs the driver, if it is not the one that opened
        the session.
        """
        enter_thread(self.runner)

    def real_time(
        self, skip_idle: bool = False, timer: Timer | None = None, log: StepLog | None = None
    ) -> RealTime:
        """A clock that starts now."""
        return RealTime(self.mover.poll, lambda: self.mover.busy, skip_idle, timer, log)


def open_session(
    config: Config,
    options: ModelOptions,
    sink: Sink | None = None,
    true_length: Callable[[Request], int] | None = None,
    channel: Channel | None = None,
) -> Session:
    """Load the model and set everything up; ConfigError if the parts do not fit, PolicyError for
    what a policy from outside raises meanwhile.

    `channel` connects the ranks that share the model, each of which opens a session (`ranks`).
    `true_length` answers a scheduler whose settings ask for an oracle, and nobody else.
    """
    _require(config, channel)
    device = find_device(config.run.device)
    stages = Stages(device.torch)
    scheduler, memory = config.build_scheduler(), config.build_memory()
    with faults_named(config.run.policies):
        tell_true_lengths(scheduler, true_length)
    with out_of_memory("loading the model"):
        model = _model(config, options, device, _block_tokens(config, scheduler))
    stages.end("weights")
    cost = _cost(config, device, model)
    smaller = isinstance(memory, Ladder)
    _compile(model, stages)
    lower = "--kv-blocks or run.host_memory_gib"
    with faults_named(config.run.policies), out_of_memory("laying out the KV cache", lower):
        sizes = sizes_of(config.run, model, scheduler, smaller, channel)
        size = arena_size(model.layout, sizes.total_blocks, sizes.slabs, smaller)
        arena = Arena(model.layout, size, device.torch)
        engine = Engine(scheduler, memory, cost, sizes, sink, _believed(config, cost))
        host = host_arena(engine, device.torch)
    stages.end("blocks")
    runner, mover, moves = _at_work(model, (arena, host), device, channel)
    if runner.asynchronous:
        _prepare(runner, mover, (arena, host), engine, options, stages)
    manager = BlockManager(engine, arena, host)
    return Session(engine, model, runner, manager, moves, device, cost, stages.seconds)


def load_t5(config: Config, options: ModelOptions) -> T5:
    """An encoder-decoder alone, without a session around it."""
    device = find_device(config.run.device)
    with out_of_memory("loading the model"):
        model = _model(config, options, device, config.run.block_tokens or 32)
    assert isinstance(model, T5)
    return model


@contextmanager
def out_of_memory(what: str, lower: str = "") -> Iterator[None]:
    """Say in one line what there was no memory for, how much it was, and what to `lower`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        asked = asked_bytes(error)
        parts = (f"out of memory while {what}", f"no {asked} left" if asked else "")
        hint = f"lower {lower}" if lower else ""
        raise SuperInferError(": ".join(part for part in (*parts, hint) if part)) from None


# -- inside ---------------------------------------------------------------------------------------


def _require(config: Config, channel: Channel | None) -> None:
    """ConfigError for what no session can be of."""
    run = config.run
    if run.tp != (channel.group.size if channel else 1):
        raise ConfigError(f"run.tp: expected 1 on this command, got {run.tp}")
    if read_config(source_of(run.model))[0].family == "t5":
        raise ConfigError(
            f"run.model: {run.model} is an encoder-decoder; a trace is replayed with decoders alone"
        )


def _compile(model: Model, stages: Stages) -> None:
    """On a GPU, all kernels of steps."""
    if model.device.type == "cuda":
        with out_of_memory("compiling kernels"):
            compile_kernels(model)
        stages.end("kernels")


def _at_work(
    model: Model, arenas: tuple[Arena, HostArena | None], device: Device, channel: Channel | None
) -> tuple[Runner, Mover, Mover | LeadingMover]:
    """Who computes, who moves blocks here, and who gives orders to do so; rank 0 tells the others
    of both.
    """
    arena, host = arenas
    mover = Mover(arena, host, ops_for(device.torch), streams_for(device.torch))
    if channel is not None and channel.leads:
        leading = LeadingRunner(model, arena.tensor, channel)
        return leading, mover, LeadingMover(mover, channel)
    return Runner(model, arena.tensor), mover, mover


def _prepare(
    runner: Runner,
    mover: Mover,
    arenas: tuple[Arena, HostArena | None],
    engine: Engine,
    options: ModelOptions,
    stages: Stages,
) -> None:
    """Capture graphs, and let all that a run may need run once."""
    size, scheduler = arenas[0].size, engine.scheduler
    rows = int(getattr(scheduler, "max_num_seqs", None) or MOST_ROWS)
    if options.graphs:
        with out_of_memory("capturing graphs"):
            runner.capture(min(rows, MOST_ROWS), size.nbytes // min(size.block_bytes.values()))
        stages.end("graphs")
    with out_of_memory("warming up", STEP_SIZES):
        decodes = min(most_rows(scheduler), engine.config.total_blocks)
        make_ready(runner, mover, arenas, most_tokens(scheduler), decodes)
    stages.end("warm-up")


def source_of(name: str) -> str | Path:
    """Where a model comes from: the shipped one by its name, else as given."""
    if name == TINY:
        from executor.shipped import TINY as FOLDER

        return FOLDER
    return name


def _model(config: Config, options: ModelOptions, device: Device, block_tokens: int) -> Model:
    return load_model(
        source_of(config.run.model),
        device=device.torch,
        dtype=options.torch_dtype(device.torch),
        random_weights=options.random_weights,
        int8=options.int8,
        block_tokens=block_tokens,
        max_model_len=config.run.max_model_len or None,
        seed=config.run.seed,
    )


def _block_tokens(config: Config, scheduler: Scheduler) -> int:
    """What the configuration asks for, or the scheduler's system, if the kernels know it."""
    asked = config.run.block_tokens
    if asked and asked not in KERNEL_BLOCKS:
        known = ", ".join(str(size) for size in KERNEL_BLOCKS)
        raise ConfigError(f"run.block_tokens: expected one of {known} on a device, got {asked}")
    return asked or (scheduler.block_tokens if scheduler.block_tokens in KERNEL_BLOCKS else 32)


def _shape(config: Config, model: Model) -> ModelShape:
    shape = read_config(source_of(config.run.model))[0].shape
    return replace(shape, dtype_bytes=model.layout.dtype.itemsize)


def _cost(config: Config, device: Device, model: Model) -> StepCost:
    """The cost model with which schedulers predict."""
    shape, costs = _shape(config, model), config.run.costs
    cost = build_cost(shape, device.spec, config.run.tp, costs)
    if cost.host.origin == "assumed":
        cost = build_cost(shape, device.spec, config.run.tp, costs, HOST)
    if config.run.host_link_gb_per_s is not None:
        cost.set_link(config.run.host_link_gb_per_s * 1e9)
    return cost


def _believed(config: Config, cost: StepCost) -> CostModel:
    """What schedulers predict with: corrected by what steps take, if the configuration says so or
    nobody measured this device.
    """
    learns = config.run.learn_step_times
    if learns is None:
        learns = not isinstance(cost, CalibratedCost)
    return LearnedCost(cost) if learns else cost
