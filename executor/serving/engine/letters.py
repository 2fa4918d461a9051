"""What the server's process and the engine's write to each other: lists of letters, in order.

The server sends `Ask`, `Leave`, `Look` and `Stop`. The engine sends `Facts` first, then `Said`,
`Begun`, `Ended` and `EngineState`, and `Over` in the end.
"""

from __future__ import annotations

import copyreg
from dataclasses import dataclass, fields
from typing import Any

from executor.answers import Tokens
from executor.serving.objectives import Objective
from executor.serving.prompts import Naming
from executor.steps.sampler import Sampling
from superinfer.engine import Engine
from superinfer.request import SLO, Request, SLOClass
from superinfer.sequence import Sequence

Said = tuple[int, int, str | None, float]
"""Index of a request, its next token, the text that the token gave if that is known, and when it
was said by `time.perf_counter`, which is one clock for all processes. The most frequent letter by
far, so it is no class."""


def _fields(value: Any) -> tuple[type, tuple[Any, ...]]:
    return type(value), tuple(getattr(value, field.name) for field in fields(value))


for _compiled in (SLO, SLOClass):  # as machine code they cannot be pickled by themselves
    copyreg.pickle(_compiled, _fields)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server has to know of its engine; the engine is ready."""

    block_tokens: int
    total_blocks: int
    max_model_len: int
    """Most tokens of a request with its answer, by the model's context and the KV cache."""
    caches_prefixes: bool
    measured_costs: bool
    """A profile says how long steps take, and not nominal figures."""
    started_s: float
    """When the engine's clock began, by `time.perf_counter`."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One answer that a client wants."""

    tokens: Tokens
    content: tuple[int, ...]
    """Ids of its blocks, by which caches are found."""
    naming: Naming
    limit: int
    ends: frozenset[int]
    """Tokens that end the answer."""
    stop: tuple[str, ...]
    """Texts that do."""
    sampling: Sampling
    objective: Objective


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish is to be served."""

    index: int
    name: str
    arrival_s: float
    """By the engine's clock."""
    wish: Wish


def request_of(ask: Ask, block_tokens: int) -> Request:
    """What is asked for as the core has it; either side makes its own."""
    wish, objective = ask.wish, ask.wish.objective
    return Request(
        ask.name,
        ask.arrival_s,
        len(wish.tokens),
        wish.limit,
        objective.slo,
        objective.slo_class,
        objective.tenant,
        objective.session_id,
        objective.priority,
        hash_ids=wish.content,
        hash_block_tokens=block_tokens,
        index=ask.index,
    )


@dataclass(frozen=True, slots=True)
class Leave:
    """Whoever asked has gone away."""

    index: int


@dataclass(frozen=True, slots=True)
class Look:
    """How is the engine? It answers with its state."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End at the next step boundary."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A request has its first step."""

    index: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended, in seconds of the engine's clock."""

    index: int
    outcome: str
    """`finished`, `rejected`, `failed`, `cancelled` or `unfinished`."""
    reason: str | None
    first_scheduled_s: float | None
    first_token_s: float | None
    finish_s: float
    output_tokens: int
    cached_tokens: int
    preemptions: int
    rest: str = ""
    """Text that might have become one to stop at, and did not."""
    stopped: bool = False
    """A text to stop at was there."""

    @classmethod
    def of(cls, seq: Sequence, now: float, rest: str = "", stopped: bool = False) -> Ended:
        """Of a sequence that has ended."""
        return cls(
            seq.request.index,
            seq.outcome,
            seq.end_reason,
            seq.first_scheduled_s,
            seq.first_token_s,
            now,
            seq.output_tokens,
            seq.cached_tokens,
            seq.preemptions,
            rest,
            stopped,
        )


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine has at the moment. It is read while the engine works, so that two figures may
    be a step apart.
    """

    running: int = 0
    kv_usage: float = 0.0
    """Share of the blocks that requests hold."""
    host_usage: float | None = None
    """The same of host memory; None without any."""
    small_blocks: tuple[int, int] = (0, 0)
    """Blocks of 8 and of 4 bits."""
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    rotations: int = 0
    d2h_bytes: int = 0
    h2d_bytes: int = 0
    step_time_factors: tuple[float, float] | None = None
    """Measured over predicted time of steps of decodes alone, and of those with prefill, as
    schedulers have learned it; None where they do not learn."""
    progress_s: float = 0.0
    """When it was last between two steps or had nothing to do, by its clock."""

    @classmethod
    def of(cls, engine: Engine, progress_s: float) -> EngineState:
        """Of this one."""
        pool, host, recorder = engine.pool, engine.host, engine.recorder
        learned = engine.learned
        eight, four = pool.small_blocks
        return cls(
            engine.resident,
            pool.taken / pool.size,
            host.occupancy if host.total else None,
            (eight, four),
            recorder.prefix_query_tokens,
            recorder.prefix_hit_tokens,
            recorder.rotations,
            recorder.d2h_bytes + recorder.cache_d2h_bytes,
            recorder.h2d_bytes,
            None if learned is None else (learned.decodes.factor, learned.prefills.factor),
            progress_s,
        )


@dataclass(frozen=True, slots=True)
class Over:
    """The engine runs no more: it was told so, or it has failed."""

    error: BaseException | None = None
