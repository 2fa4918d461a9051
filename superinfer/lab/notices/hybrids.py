"""Which memory policies belong to a scheduler, and what is said of any other pair: a hybrid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from superinfer.lab.config import Config
from superinfer.memory import MEMORY_POLICIES
from superinfer.schedulers import OWN_MEMORY

COMMON: Final = "lru"
"""What belongs to everybody who says nothing of memory, and stands for every order where prefixes
are not cached."""
MARK: Final = " *"
"""Behind the name of a run of such a pair."""


def own_memory(scheduler: str) -> tuple[str, ...]:
    """Names of the memory policies that belong to a scheduler."""
    if scheduler in OWN_MEMORY:
        return OWN_MEMORY[scheduler]
    taken = {name for names in OWN_MEMORY.values() for name in names} - {COMMON}
    return tuple(name for name in MEMORY_POLICIES if name not in taken)


def is_hybrid(config: Config) -> bool:
    """Whether the memory policy of a configuration is not one that belongs to its scheduler.

    Without prefix caching a memory policy only decides what becomes of victims, and every rival
    with one of its own computes them again: there `lru` that does so is no other policy.
    """
    run = config.run
    if run.memory in own_memory(run.scheduler):
        return False
    if run.scheduler not in OWN_MEMORY and run.memory not in MEMORY_POLICIES:
        return False  # a policy of the user's own, with a scheduler that takes any
    recomputes = config.memory.get("preemption", "recompute") == "recompute"
    return run.prefix_caching or run.memory != COMMON or not recomputes


def pair_of(config: Config) -> dict[str, Any]:
    """What the `run` block of a summary says of it."""
    return {"hybrid": is_hybrid(config), "own_memory": list(own_memory(config.run.scheduler))}


def hybrid_note(config: Config) -> str:
    """One line on a hybrid; empty for any other pair."""
    run = config.run
    if not is_hybrid(config):
        return ""
    return f"a hybrid: {_words(run.scheduler, run.memory, own_memory(run.scheduler))}"


def marked(name: str, summary: Mapping[str, Any]) -> str:
    """The name of a run, with a mark if its summary says that it is a hybrid."""
    return name + MARK if _block(summary).get("hybrid") else name


def footnote(summaries: Iterable[Mapping[str, Any]]) -> str:
    """What the mark stands for and which pairs have it; empty where none has."""
    found = dict.fromkeys(pair_words(summary) for summary in summaries)
    pairs = "; ".join(pair for pair in found if pair)
    return f"{MARK.strip()} A hybrid: {pairs}." if pairs else ""


def pair_words(summary: Mapping[str, Any]) -> str:
    """Scheduler and memory policy of a hybrid, and what belongs; empty for any other pair."""
    block = _block(summary)
    if not block.get("hybrid"):
        return ""
    settings, own = block.get("run") or {}, block.get("own_memory") or ()
    return _words(settings.get("scheduler"), settings.get("memory"), own)


def _block(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary.get("run") or {}


def _words(scheduler: object, memory: object, own: Sequence[str]) -> str:
    return f"{scheduler} with the memory policy {memory} (its own: {', '.join(own)})"
