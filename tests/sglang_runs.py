"""Small runs of the SGLang scheduler, as lines."""

from __future__ import annotations

from typing import Any

from harness import iterations

from superinfer.memory.radix import RadixMemory
from superinfer.schedulers.sglang import SglangScheduler

Jobs = dict[str, tuple[int, int, int]]
"""Prompt, output and declared limit by name."""


def run(
    scheduler: SglangScheduler,
    jobs: Jobs,
    arrivals: dict[str, int] | None = None,
    *,
    pool: int,
    more: dict[str, dict[str, Any]] | None = None,
    **engine: Any,
) -> list[str]:
    """What each step did, in a pool of so many tokens; a job arrives at the step named for it."""
    requests = {
        name: {"max_tokens": limit, **(more or {}).get(name, {})}
        for name, (_, _, limit) in jobs.items()
    }
    engine.setdefault("memory", RadixMemory())
    lengths = {name: job[:2] for name, job in jobs.items()}
    return iterations(
        scheduler, lengths, arrivals, blocks=pool, requests=requests, block_tokens=1, **engine
    )


def order(lines: list[str]) -> list[str]:
    """Names in the order of their prefills."""
    words = [word for line in lines for word in line.split()]
    return [word[0] for word in words if word[0].isalpha() and word[1:].isdigit()]
