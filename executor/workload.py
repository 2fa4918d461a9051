"""The workload of a run, and the tokens that stand for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np

from executor.answers import Answer, Answers, Tokens
from superinfer.errors import ConfigError
from superinfer.lab.config import Config, RunConfig
from superinfer.request import Request
from traces.loading import load
from traces.workload import Workload

_GOLDEN, _MIX_1, _MIX_2 = (
    np.uint64(constant) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""

_UNHEEDED = (
    "host_step_ms",
    "host_per_sequence_us",
    "links_per_bridge",
    "slow_replicas",
    "router",
    "believed_costs",
)
"""Settings of `[run]` for simulations alone."""
_OF_A_TRACE = (
    *("limit", "rate_scale", "burstiness", "spread", "time_unit", "hash_block_size", "skip_bad"),
    *("without_slo", "slo_scale", "window_s"),
)
"""Those that say what is made of a trace; a server has none."""


def load_workload(config: Config) -> Workload:
    """The requests of `run.trace`: a trace file, or a specification that is drawn from."""
    refuse_simulated(config)
    return load(config.run, config.service_classes(), config.workload)


def refuse_simulated(config: Config) -> None:
    """Arrivals follow the trace alone; a load that answers to the system is simulated only, and so
    are several engines behind a router.
    """
    run = config.run
    if run.replicas > 1:
        raise ConfigError(f"run.replicas: expected 1 on a device, got {run.replicas}")
    for name in ("concurrency", "backlog", "in_flight", "duration_s"):
        if getattr(run, name):
            raise ConfigError(f"run.{name}: for superinfer-sim alone; a device replays the trace")
    if run.sessions != "open":
        raise ConfigError(f"run.sessions: expected open on a device, got {run.sessions}")


def unheeded(config: Config) -> list[str]:
    """Warnings of settings that a device does not heed, because its times are its own."""
    warnings = _without_effect(config, _UNHEEDED, "no effect on a device")
    if config.run.host_link_gb_per_s is not None:
        warnings.append("run.host_link_gb_per_s: schedulers predict with it alone")
    return warnings


def unheeded_by_servers(config: Config) -> list[str]:
    """Warnings of settings that a server does not heed."""
    return unheeded(config) + _without_effect(config, _OF_A_TRACE, "no effect on a server")


def answers_of(workload: Workload, vocab: int, max_model_len: int, seed: int) -> Answers:
    """Prompts by a seeded function of their content ids, and answers of the lengths of the trace,
    whatever tokens the model gives.
    """
    limits = zip(workload.requests, workload.output_tokens, strict=True)
    return Answers(
        Answer(
            prompt_tokens(request, vocab, seed),
            forced_tokens(request, answer_tokens, max_model_len),
        )
        for request, answer_tokens in limits
    )


def forced_tokens(request: Request, answer_tokens: int, max_model_len: int) -> int:
    """Tokens after which a request ends: its answer, its limit or the model's."""
    room = max(1, max_model_len - request.prompt_tokens)
    return min(answer_tokens, request.max_tokens, room)


def prompt_tokens(request: Request, vocab: int, seed: int) -> Tokens:
    """The tokens of a prompt. Those of a hash block are a function of its id, so that requests
    share tokens where they share ids; a request without ids has its own.
    """
    parts = [
        _drawn(_state(seed, request.namespace, name), tokens, vocab)
        for name, tokens in _stretches(request)
    ]
    return np.concatenate(parts)


# -- inside ---------------------------------------------------------------------------------------


def _without_effect(config: Config, settings: Iterable[str], words: str) -> list[str]:
    """A warning of those that differ from what is usual, if any does."""
    run, usual = config.run, RunConfig()
    names = [f"run.{name}" for name in settings if getattr(run, name) != getattr(usual, name)]
    return [f"{', '.join(names)}: {words}"] if names else []


def _stretches(request: Request) -> Iterator[tuple[str, int]]:
    """Name and length of each part of a prompt that is drawn at once."""
    left = request.prompt_tokens
    for hash_id in request.hash_ids:
        tokens = min(left, request.hash_block_tokens)
        if tokens:
            yield f"hash {hash_id}", tokens
        left -= tokens
    if left:
        yield f"request {request.request_id}", left


def _state(seed: int, namespace: str, name: str) -> np.uint64:
    text = f"{seed} {namespace} {name}".encode()
    return np.uint64(int.from_bytes(blake2b(text, digest_size=8).digest(), "little"))


def _drawn(state: np.uint64, count: int, vocab: int) -> Tokens:
    """`count` numbers below `vocab` from a state of SplitMix64."""
    x = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + state
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    x ^= x >> np.uint64(31)
    return (x % np.uint64(vocab)).astype(np.int64)
