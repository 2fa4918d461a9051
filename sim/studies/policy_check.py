"""`check-policy`: policies under conditions that bring mistakes to light.

Small workloads are simulated with all memory, with little, and with less than some prompts need;
with and without a prefix cache; with plans made when they are needed and one step ahead; to the end
and cut off. With several replicas each has its share of a workload that is so many times larger,
and the router is checked as well. Held against each run:

* it ends, and no policy raises or is refused what it asks for;
* what a policy counted, and its notes, can be told;
* requests, and the lengths of their answers, are afterwards what they were before;
* every request ends once: finished, rejected or failed, unfinished only where the run is cut off;
* nothing is held afterwards, on the device or on the host, and all that is cached can be evicted;
* it comes out the same when it is run again: no clock, no random numbers, no order of a set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from sim.cluster import simulate_cluster
from sim.driver import simulate
from sim.oracle import Oracle
from sim.run import build_engine, load_model
from sim.untouched import Untouched
from sim.workload import load_workload
from superinfer.engine import Engine
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.config import Config, RunConfig
from superinfer.lab.config.policy_faults import faults_named
from superinfer.sequence import Sequence as Live
from superinfer.sequence import State
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
"""Of what arrives for one replica."""
REQUESTS: Final = 80
"""For one replica."""
REPLICAS: Final = 3
"""Of a router that is checked, where a configuration has one replica."""

_OWN: Final = (
    "trace",
    "rate_scale",
    "limit",
    "skip_bad",
    "time_unit",
    "hash_block_size",
    "seed",
    "lag",
    "prefix_caching",
    "duration_s",
    "window_s",
)
"""Settings of `[run]` in whose place a check has its own."""


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
    sent_to: list[int] | None = None
    """Requests by replica, where there are several."""
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


def with_replicas(config: Config) -> Config:
    """The configuration with replicas for the router that it names."""
    if not config.router_named or config.run.replicas > 1:
        return config
    return config.with_run(replicas=REPLICAS)


def replaced(config: Config) -> list[str]:
    """What a configuration says of a run, and a check does not go by."""
    run, usual = config.run, RunConfig()
    implied = ("lag", "prefix_caching") if run.as_released else ()
    given = [k for k in _OWN if k not in implied and getattr(run, k) != getattr(usual, k)]
    lines = [f"run.{', run.'.join(given)}: not used: a check has its own"] if given else []
    if run.kv_blocks:
        own = f"{LITTLE_TOKENS:,} and {TOO_LITTLE_TOKENS:,} tokens"
        lines.append(
            f"run.kv_blocks: {run.kv_blocks} is all KV memory; a check tries {own} as well"
        )
    return lines


def place(condition: Condition) -> str:
    """A condition as words, for a message."""
    parts = [f"KV memory {condition.memory}", f"lag {condition.lag}"]
    parts += ["prefix cache"] if condition.prefix_caching else []
    parts += [f"cut off at {condition.duration_s:g} s"] if condition.duration_s else []
    return ", ".join(parts)


# -- inside ---------------------------------------------------------------------------------------


def _under(config: Config, condition: Condition, seed: int) -> Config:
    config = config.with_run(
        trace="mixed",
        rate_scale=RATE_SCALE * config.run.replicas,
        limit=REQUESTS * config.run.replicas,
        skip_bad=False,
        time_unit="ms",
        hash_block_size=0,
        seed=seed,
        lag=condition.lag,
        prefix_caching=condition.prefix_caching,
        duration_s=condition.duration_s,
    )
    if not condition.kv_tokens:
        return config
    block_tokens = config.run.block_tokens or config.build_scheduler().block_tokens
    return config.with_run(kv_blocks=condition.kv_tokens // block_tokens)


def _check(config: Config, finding: Finding) -> None:
    """One workload under one condition, twice; what is wrong goes into `finding`."""
    workload, run = load_workload(config), config.run
    policies = run.policies | ({"router": run.router} if run.replicas > 1 else {})
    try:
        with faults_named(policies):
            done, again = _run(config, workload), _run(config, workload)
            for engine in done.engines:
                engine.recorder.build(engine)  # asks for what a policy counted, and its notes
            held = next(
                filter(None, (_held(each, bool(run.duration_s)) for each in done.engines)), ""
            )
    except ConfigError as error:
        finding.unfit = str(error)
        return
    except SuperInferError as error:
        finding.fault = str(error)
        return
    _count(finding, done)
    finding.fault = (
        _lost(done.events, len(workload.requests), bool(run.duration_s))
        or held
        or _otherwise(done.events, again.events)
    )


@dataclass(slots=True)
class _Done:
    """A run: its engines as they are afterwards, and their events."""

    engines: list[Engine]
    events: list[tuple[int, Any]]
    """With the number of the engine."""

    @property
    def sequences(self) -> list[Live]:
        return [seq for engine in self.engines for seq in engine.recorder.sequences]


def _count(finding: Finding, done: _Done) -> None:
    """Add a run to what is told of a condition."""
    ends = Counter(seq.outcome for seq in done.sequences)
    finding.requests += len(done.sequences)
    finding.outcomes = dict(Counter(finding.outcomes or {}) + ends)
    finding.preemptions += sum(seq.preemptions for seq in done.sequences)
    if len(done.engines) > 1:
        before = finding.sent_to or [0] * len(done.engines)
        taken = (len(engine.recorder.sequences) for engine in done.engines)
        finding.sent_to = [had + more for had, more in zip(before, taken, strict=True)]


def _run(config: Config, workload: Workload) -> _Done:
    """One run, on one replica or on several."""
    events: list[tuple[int, Any]] = []
    answers, run = workload.output_tokens, config.run
    before = Untouched(workload.requests, answers)

    def engine(number: int) -> Engine:
        def sink(event: Any) -> None:
            events.append((number, event))

        return build_engine(config, sink, lambda request: answers[request.index])[0]

    engines = [engine(number) for number in range(run.replicas)]
    load, stop_s = load_model(run), run.duration_s or math.inf
    if run.replicas == 1:
        oracle = Oracle(answers, engines[0].config.max_model_len)
        simulate(engines[0], workload.requests, oracle, load, stop_s, run.slowdowns.get(0, 1.0))
    else:
        router = config.build_router()
        slow = run.slowdowns
        simulate_cluster(engines, workload.requests, answers, router, load, stop_s, slow)
    before.check(engines)
    return _Done(engines, events)


def _lost(events: Sequence[tuple[int, Any]], requests: int, cut: bool) -> str:
    """Requests that did not end, or more than once."""
    ends = Counter(event[2] for _, event in events if event[1] in ENDS)
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


def _otherwise(events: Sequence[tuple[int, Any]], again: Sequence[tuple[int, Any]]) -> str:
    """Where two runs of the same part; empty where they do not."""
    if events == again:
        return ""
    parted = (pair for pair in zip(events, again, strict=False) if pair[0] != pair[1])
    before, after = next(parted, (None, None))
    where = f"{len(events)} events, then {len(again)}"
    if before is not None and after is not None:
        several = any(number for number, _ in (*events, *again))
        told = (_event(number, event, several) for number, event in (before, after))
        where = f"at {before[1][0]:g} s {', then '.join(told)}"
    return f"the same run came out otherwise: {where}"


def _event(number: int, event: Any, several: bool) -> str:
    """In words; with its replica where there are several."""
    return f"{event[1]} of {event[2]}" + (f" on replica {number}" if several else "")
