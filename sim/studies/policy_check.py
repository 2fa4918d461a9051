"""`check-policy`: a scheduler and a memory policy under conditions that bring mistakes to light.

Small workloads are simulated with all memory, with little, and with less than some prompts need;
with and without a prefix cache; with plans made when they are needed and one step ahead; to the end
and cut off. Held against each run:

* it ends, and neither policy raises or is refused what it asks for;
* every request ends once: finished, rejected or failed, unfinished only where the run is cut off;
* nothing is held afterwards, on the device or on the host, and all that is cached can be evicted;
* it comes out the same when it is run again: no clock, no random numbers, no order of a set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from sim.driver import simulate
from sim.oracle import Oracle
from sim.run import build_engine, load_model
from sim.workload import load_workload
from superinfer.engine import Engine
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.config import Config
from superinfer.lab.config.policy_faults import faults_named
from superinfer.sequence import State

if TYPE_CHECKING:
    from rich.table import Table

    from traces.workload import Workload

ENDS: Final = ("finish", "reject", "fail", "cancel")
"""Events that end a request."""
LITTLE_TOKENS: Final = 24_000
"""KV memory for two to ten of the requests."""
TOO_LITTLE_TOKENS: Final = 4_000
"""KV memory that the longest prompts do not fit into."""
CUT_S: Final = 20.0
"""When a run that is cut off ends; all requests have come by then, and most are under way."""
RATE_SCALE: Final = 3.0
REQUESTS: Final = 80


@dataclass(frozen=True, slots=True)
class Condition:
    """How one of the runs is made."""

    kv_tokens: int
    """Tokens of KV memory; 0: all that the device has."""
    lag: int
    prefix_caching: bool
    duration_s: float
    """0: to the end."""

    @property
    def memory(self) -> str:
        """In words."""
        return f"{self.kv_tokens:,} tokens" if self.kv_tokens else "all"


@dataclass(slots=True)
class Finding:
    """What came of a condition."""

    condition: Condition
    requests: int = 0
    outcomes: dict[str, int] | None = None
    """Requests by how they ended."""
    preemptions: int = 0
    fault: str = ""
    """What is wrong, in one line; empty if nothing was found."""
    unfit: str = ""
    """Why the policies cannot run under this condition, if they say so themselves."""


def conditions() -> Iterator[Condition]:
    """All of them, in the order of the table."""
    for kv_tokens, lag, caching in product((0, LITTLE_TOKENS, TOO_LITTLE_TOKENS), (0, 1), (0, 1)):
        yield Condition(kv_tokens, lag, bool(caching), 0.0)
    for lag in (0, 1):
        yield Condition(LITTLE_TOKENS, lag, True, CUT_S)


def check_policies(config: Config, seeds: Sequence[int]) -> list[Finding]:
    """A finding for each condition: the first fault that any of the seeds shows."""
    found = []
    for condition in conditions():
        finding = Finding(condition)
        for seed in seeds:
            _check(_under(config, condition, seed), finding)
            if finding.fault or finding.unfit:
                break
        found.append(finding)
    if all(finding.unfit for finding in found):
        raise ConfigError(found[0].unfit)
    return found


def findings_table(found: Sequence[Finding]) -> Table:
    """A row for each condition."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("KV memory", "Lag", "Prefix cache", "Cut off"):
        table.add_column(name)
    for name in ("Requests", "Finished", "Rejected", "Failed", "Preemptions"):
        table.add_column(name, justify="right")
    table.add_column("")
    for finding in found:
        condition, ends = finding.condition, finding.outcomes or {}
        cut = f"{condition.duration_s:g} s" if condition.duration_s else "no"
        caching = "yes" if condition.prefix_caching else "no"
        counts = (
            finding.requests,
            *(ends.get(end, 0) for end in ("finished", "rejected", "failed")),
        )
        verdict = "FAULT" if finding.fault else "not possible" if finding.unfit else "ok"
        cells = (str(count) for count in (*counts, finding.preemptions))
        table.add_row(condition.memory, str(condition.lag), caching, cut, *cells, verdict)
    return table


def findings_json(config: Config, found: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    names = {"scheduler": config.run.scheduler, "memory": config.run.memory}
    return {**names, "conditions": [asdict(finding) for finding in found]}


def place(condition: Condition) -> str:
    """A condition as words, for a message."""
    parts = [f"KV memory {condition.memory}", f"lag {condition.lag}"]
    parts += ["prefix cache"] if condition.prefix_caching else []
    parts += [f"cut off at {condition.duration_s:g} s"] if condition.duration_s else []
    return ", ".join(parts)


# -- inside ---------------------------------------------------------------------------------------


def _under(config: Config, condition: Condition, seed: int) -> Config:
    run = structs.replace(
        config.run,
        trace="mixed",
        rate_scale=RATE_SCALE,
        limit=REQUESTS,
        seed=seed,
        lag=condition.lag,
        prefix_caching=condition.prefix_caching,
        duration_s=condition.duration_s,
    )
    if condition.kv_tokens:
        block_tokens = run.block_tokens or config.build_scheduler().block_tokens
        run = structs.replace(run, kv_blocks=condition.kv_tokens // block_tokens)
    return replace(config, run=run)


def _check(config: Config, finding: Finding) -> None:
    """One workload under one condition, twice; what is wrong goes into `finding`."""
    workload, run = load_workload(config), config.run
    try:
        with faults_named({"scheduler": run.scheduler, "memory": run.memory}):
            engine, events = _run(config, workload)
            _, again = _run(config, workload)
            held = _held(engine, cut=bool(run.duration_s))
    except ConfigError as error:
        finding.unfit = str(error)
        return
    except SuperInferError as error:
        finding.fault = str(error)
        return
    sequences = engine.recorder.sequences
    ends = Counter(seq.outcome for seq in sequences)
    finding.requests += len(sequences)
    finding.outcomes = dict(Counter(finding.outcomes or {}) + ends)
    finding.preemptions += sum(seq.preemptions for seq in sequences)
    finding.fault = (
        _lost(events, len(workload.requests), cut=bool(run.duration_s))
        or held
        or ("" if events == again else f"the same run came out otherwise: {_first(events, again)}")
    )


def _run(config: Config, workload: Workload) -> tuple[Engine, list[Any]]:
    """One run; the engine as it is afterwards, and its events."""
    events: list[Any] = []
    answers, run = workload.output_tokens, config.run
    engine, _ = build_engine(config, events.append, lambda request: answers[request.index])
    oracle = Oracle(answers, engine.config.max_model_len)
    stop_s = run.duration_s or math.inf
    simulate(engine, workload.requests, oracle, load_model(run), stop_s)
    return engine, events


def _lost(events: Sequence[Any], requests: int, cut: bool) -> str:
    """Requests that did not end, or more than once."""
    ends = Counter(event[2] for event in events if event[1] in ENDS)
    twice = [name for name, count in ends.items() if count > 1]
    if twice:
        return f"request {twice[0]} ended {ends[twice[0]]} times"
    if not cut and len(ends) < requests:
        return f"{requests - len(ends)} of {requests} requests did not end"
    return ""


def _held(engine: Engine, cut: bool) -> str:
    """What is still held after the run."""
    on_the_way = any(seq.transfer for seq in engine.recorder.sequences)
    if cut and on_the_way:
        return ""
    pool, host = engine.pool, engine.host
    for count, what in (
        (pool.referenced, "device blocks are held"),
        (host.used, "host blocks are held"),
        (engine.resident, "requests count as resident"),
        (sum(seq.state is not State.ENDED for seq in engine.recorder.sequences), "are under way"),
    ):
        if count:
            return f"after the run {count} {what}"
    if engine.prefix is not None:
        engine.prefix.reclaim(pool.cached)
    return f"{pool.cached} cached blocks cannot be evicted" if pool.cached else ""


def _first(events: Sequence[Any], again: Sequence[Any]) -> str:
    """Where two runs part."""
    for one, other in zip(events, again, strict=False):
        if one != other:
            return f"at {one[0]:g} s {one[1]} of {one[2]}, then {other[1]} of {other[2]}"
    return f"{len(events)} events, then {len(again)}"
