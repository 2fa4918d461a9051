"""Whether the arms of a comparison have the same KV memory, and what to say where they have not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from superinfer.engine import Engine
from superinfer.lab.config import Config

MACHINE: Final = ("model", "device", "tp", "gpu_memory_utilization", "costs", "max_model_len")
"""Settings of a run: where arms have others, other memory is no surprise."""
ROUNDING: Final = 1e-3
"""Share by which caches differ that hold whole blocks of different sizes in the same memory."""


def unequal_memory(arms: Mapping[str, Config], kv_tokens: Mapping[str, int]) -> str:
    """One line where the KV caches of arms differ though all state the same number of blocks, or
    though none states one and all have the same machine; empty otherwise.

    `kv_tokens`: tokens that the cache of each arm holds.
    """
    given = {config.run.kv_blocks for config in arms.values()}
    alike = _alike(kv_tokens)
    if len(given) > 1 or len(alike) == 1:
        return ""
    each = "; ".join(f"{', '.join(names)} {tokens:,}" for tokens, names in alike.items())
    if blocks := given.pop():
        return (
            f"warning: run.kv_blocks: {blocks:,} blocks are not the same memory (tokens: {each}): "
            "run.block_tokens gives all arms the same"
        )
    if len({tuple(getattr(config.run, key) for key in MACHINE) for config in arms.values()}) > 1:
        return ""
    return (
        f"note: run.kv_blocks: what fits differs by arm (tokens: {each}), for systems keep "
        "different amounts of memory free: run.kv_blocks with run.block_tokens gives all arms the "
        "same"
    )


def kv_tokens_of(engine: Engine) -> int:
    """Tokens that the KV cache of an engine holds at 16 bits."""
    return engine.config.total_blocks * engine.config.block_tokens


def _alike(kv_tokens: Mapping[str, int]) -> dict[int, list[str]]:
    """Names of arms whose caches hold the same, by the tokens of the first of them."""
    alike: dict[int, list[str]] = {}
    for name, tokens in kv_tokens.items():
        near = (each for each in alike if abs(each - tokens) <= ROUNDING * tokens)
        alike.setdefault(next(near, tokens), []).append(name)
    return alike
