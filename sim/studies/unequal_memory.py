"""Whether arms that were given the same number of KV blocks have the same memory."""

from __future__ import annotations

from collections.abc import Mapping

from superinfer.engine import Engine
from superinfer.lab.config import Config


def unequal_memory(arms: Mapping[str, Config], kv_tokens: Mapping[str, int]) -> str:
    """One line where arms got the same `run.kv_blocks`, but the blocks of their schedulers hold
    different numbers of tokens; empty otherwise. `kv_tokens`: what the cache of each arm holds.
    """
    given = {config.run.kv_blocks for config in arms.values()}
    names: dict[int, list[str]] = {}
    for name, tokens in kv_tokens.items():
        names.setdefault(tokens, []).append(name)
    if given == {0} or len(given) > 1 or len(names) == 1:
        return ""
    each = "; ".join(f"{', '.join(same)} {tokens:,}" for tokens, same in names.items())
    return (
        f"run.kv_blocks: {given.pop():,} blocks are not the same memory (tokens: {each}): "
        "run.block_tokens gives all arms the same"
    )


def kv_tokens_of(engine: Engine) -> int:
    """Tokens that the KV cache of an engine holds at 16 bits."""
    return engine.config.total_blocks * engine.config.block_tokens
