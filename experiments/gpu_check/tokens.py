"""Swapping under load changes no token.

Step times are given by the cost model and not by the clock, so that plans do not depend on the
device. Two things are compared with a run under memory pressure:

* the same plans with a device on which nothing happens beside anything else: every action is waited
  for. Batches are the same, so tokens have to be, bit for bit; what a race changes shows.
* the same requests with memory for all of them, in float32, where another order of additions (a
  product takes other kernels for other numbers of rows) decides a token only where two logits are
  equal but for rounding (of 14,818 tokens on a CPU two, the same one in both runs). Where two runs
  part there, at just these two tokens, that counts as a tie and is told. Nothing moves with memory
  for all, so whatever a swap or a resumption does wrong shows. Both use torch's operations:
  Triton's tiles are made for types of 16 bits.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from executor import models
from executor import session as sessions
from executor.arrivals import Arrivals
from executor.clocks.clock import GivenTimes
from executor.kernels.reference import TorchOps
from executor.kv.streams import Lane, Mark, Streams, streams_for
from executor.session import ModelOptions, Session, open_session
from executor.steps import runner as runners
from executor.steps.runner import Runner
from executor.workload import answers_of, load_workload
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.scenarios.scenes import HERE
from experiments.gpu_check.small import config_file, tiny_config
from superinfer.lab.config import Config, load_config
from superinfer.metrics import RunMetrics

EIGHT_LAYERS = {
    "hidden_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 32000,
}
"""Of Llama-3.1-8B: blocks of 1 MiB."""
THREE_LAYERS = {"head_dim": 128, "num_attention_heads": 8, "num_key_value_heads": 2}
"""In float32; with the heads for which kernels have tiles."""
ROOMY = {"rotating": EIGHT_LAYERS, "fcfs": THREE_LAYERS}
"""`rotating` copies a cache only where computing it again takes longer: not a small model's."""
MANY, FEW = (220, 32), (80, 12)
"""Blocks and requests; few where steps take tens of milliseconds, by torch's operations."""
ROOM = 4000
"""Blocks that are enough for all requests."""
SPEC = f"{HERE}/scenario-m.toml"
LOAD = ("workload.clients.batch.rate_per_s=0.5", "workload.clients.chat.rate_per_s=8")
FAST_LINK = "run.host_link_gb_per_s=200"
"""By which steps are planned: in float32 a block has twice as many bytes, for the same products."""
POLICIES: dict[str, tuple[str, ...]] = {
    "rotating": ("run.scheduler=rotating", FAST_LINK),
    "slo_aware": (
        "run.scheduler=rotating",
        "run.memory=slo_aware",
        "classes.batch.min_kv_bits=4",
        "classes.chat.min_kv_bits=8",
    ),
    "fcfs": ("run.scheduler=fcfs", "memory.preemption=swap", "memory.swap_in_timing=background"),
}
"""`slo_aware` is the memory policy, under `rotating`: blocks are requantised and moved, too."""
NEAR = 1e-5
"""Of the logits' spread: two that are no further apart are a tie. Float32 knows 1.2e-7 of a number,
and a sum of a thousand products some times that."""
MOVED = ("preemptions", "rotations", "h2d_bytes", "d2h_bytes", "kv_bits_mean")
"""Metrics that tell what happened to memory."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a run came to."""

    tokens: list[list[int]]
    moved: dict[str, float]
    """What happened to memory, so that a run in which nothing did is no proof."""


class Waiting:
    """Lanes on which everything is waited for: nothing happens beside anything else."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def run(self, lane: Lane, action: Callable[[], None]) -> None:
        """Start it when all that was before is over, and wait for it."""
        wait_for_device()
        self._streams.run(lane, action)
        wait_for_device()

    def mark(self, lane: Lane) -> Mark:
        """As it is."""
        return self._streams.mark(lane)

    def wait(self, lane: Lane, mark: Mark) -> None:
        """As it is."""
        self._streams.wait(lane, mark)

    def reached(self, mark: Mark) -> bool:
        """As it is; everything is."""
        return self._streams.reached(mark)


def wait_for_device() -> None:
    """Until nothing is under way."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def one_after_the_other() -> Iterator[None]:
    """Sessions that are opened meanwhile have lanes that wait."""
    with patch.object(sessions, "streams_for", lambda device: Waiting(streams_for(device))):
        yield


@contextmanager
def torch_operations() -> Iterator[None]:
    """Sessions that are opened meanwhile compute with torch's operations, on whatever device."""
    with (
        patch.object(sessions, "ops_for", lambda device: TorchOps()),
        patch.object(models, "ops_for", lambda device: TorchOps()),
        patch.object(runners, "ops_for", lambda device: TorchOps()),
    ):
        yield


def beside(context: Context, policy: str) -> Result:
    """Copies beside steps, against the same plans with copies that everything waits for."""
    config = config_of(context, source_of(context, EIGHT_LAYERS), policy)
    options = ModelOptions(random_weights=True)
    found = play(config, options)
    with one_after_the_other():
        wanted = play(config, options)
    return compared(found, wanted)


def roomy(context: Context, policy: str) -> Result:
    """Memory for a few requests, against memory for all of them; in float32."""
    source = source_of(context, ROOMY[policy])
    options = ModelOptions(dtype="float32", random_weights=True, graphs=False)
    with torch_operations(), near_ties() as ties:
        found = play(config_of(context, source, policy, FEW), options)
        wanted = play(config_of(context, source, policy, FEW, kv_blocks=ROOM), options)
    if wanted.moved["preemptions"]:
        return {"ok": False, "error": f"not enough memory for all: {wanted.moved}"}
    return compared(found, wanted, ties)


@contextmanager
def near_ties() -> Iterator[set[frozenset[int]]]:
    """Pairs of tokens between which rounding may decide, of steps that run eagerly meanwhile."""
    found: set[frozenset[int]] = set()
    choose = Runner._choose

    def watched(runner: Runner, logits: Tensor, sampling: Any) -> Tensor:
        if len(logits):
            found.update(pairs_near(logits))
        return choose(runner, logits, sampling)

    with patch.object(Runner, "_choose", watched):
        yield found


def pairs_near(logits: Tensor) -> list[frozenset[int]]:
    """The two likeliest tokens of each row [rows, vocab] in which rounding may decide."""
    values, tokens = logits.topk(2, -1)
    near = values[:, 0] - values[:, 1] < NEAR * logits.std(-1)
    return [frozenset(pair) for pair in tokens[near].tolist()]


def config_of(
    context: Context, model: str, policy: str, size: tuple[int, int] = MANY, kv_blocks: int = 0
) -> Config:
    """Few blocks for requests that come at about once: many go to the host and come back."""
    blocks, limit = (100, 8) if context.tiny else size
    # Pinned, and for several runs at a time; no more rows have graphs than there are requests.
    sizes = (f"run.host_memory_gib={0.5 if context.tiny else 2}", f"scheduler.max_num_seqs={limit}")
    return load_config(
        None,
        [*sizes, *LOAD, *POLICIES[policy]],
        trace=SPEC,
        model=model,
        device=context.device,
        kv_blocks=kv_blocks or blocks,
        block_tokens=32,
        max_model_len=4096,
        limit=limit,
        rate_scale=10.0,
        lag=1,
    )


def source_of(context: Context, changes: dict[str, int]) -> str:
    """A `config.json` of a model that is small enough to play whole runs quickly."""
    return tiny_config(context) if context.tiny else config_file(context, "layers", changes)


def play(config: Config, options: ModelOptions) -> Played:
    """Run a configuration by given times; its session's memory is free afterwards."""
    try:
        return _played(config, options)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _played(config: Config, options: ModelOptions) -> Played:
    workload = load_workload(config)
    lengths = workload.output_tokens
    session = open_session(config, options, None, lambda request: lengths[request.index])
    model, engine = session.model, session.engine
    answers = answers_of(workload, model.vocab, model.max_model_len, config.run.seed)
    clock = GivenTimes(session.cost, engine.config.lag, session.mover.poll)
    session.driver(answers, Arrivals(workload.requests), clock).run()
    tokens = [answers[request].tokens for request in workload.requests]
    return Played(tokens, _moved(session))


def _moved(session: Session) -> dict[str, float]:
    engine = session.engine
    summary = RunMetrics(engine.recorder.build(engine)).summary({})
    return {name: float(summary[name]) for name in MOVED}


def compared(
    found: Played, wanted: Played, ties: Collection[frozenset[int]] = frozenset()
) -> Result:
    """Equal, token for token, but for `ties`; and something had to move."""
    parted = [
        (index, *place)
        for index, pair in enumerate(zip(found.tokens, wanted.tokens, strict=True))
        if (place := parting(*pair)) is not None
    ]
    unlike = [(index, place) for index, place, chosen in parted if chosen not in ties]
    swapped = found.moved["h2d_bytes"] > 0 or found.moved["kv_bits_mean"] < 16
    result: Result = {
        "ok": swapped and not unlike,
        "requests": len(found.tokens),
        "tokens": sum(len(tokens) for tokens in found.tokens),
        "unlike": len(unlike),
        "parted_by_ties": len(parted) - len(unlike),
        **found.moved,
    }
    if unlike:
        first, where = unlike[0]
        result["error"] = f"{len(unlike)} requests differ, {first} from token {where} on"
    elif not swapped:
        result["error"] = f"nothing had to move, so nothing is shown: {found.moved}"
    return result


def parting(ours: list[int], theirs: list[int]) -> tuple[int, frozenset[int]] | None:
    """The first place where two answers differ, and the two tokens there (none where one ends)."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((index for index, (a, b) in pairs if a != b), None)
    if place is not None:
        return place, frozenset((ours[place], theirs[place]))
    shorter = min(len(ours), len(theirs))
    return None if len(ours) == len(theirs) else (shorter, frozenset())


CHECKS: dict[str, Check] = {
    **{f"beside-{policy}": partial(beside, policy=policy) for policy in ("rotating", "slo_aware")},
    **{f"roomy-{policy}": partial(roomy, policy=policy) for policy in ("rotating", "fcfs")},
}
