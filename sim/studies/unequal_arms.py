"""What to say where the arms of a comparison differ by more than their schedulers: in KV memory, or
in what their releases ship with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from superinfer.engine import Engine
from superinfer.lab.config import Config
from superinfer.lab.config.run import RunConfig

MACHINE: Final = ("model", "device", "tp", "gpu_memory_utilization", "costs", "max_model_len")
"""Settings of a run: where arms have others, other memory is no surprise."""
ROUNDING: Final = 1e-3
"""Share by which caches differ that hold whole blocks of different sizes in the same memory."""
_SHOWN: Final = {
    "prefix_caching": ("--prefix-caching", "prefix caching"),
    "lag": ("--lag 1", "lag"),
}
"""The option that gives it to all arms, and how it is called."""


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


def unequal_release(arms: Mapping[str, Config]) -> str:
    """One line where arms differ in prefix caching or lag because releases do; empty otherwise.

    Where no arm is as released the arms were made so, one by one.
    """
    runs = {name: config.run for name, config in arms.items()}
    if not any(run.as_released for run in runs.values()):
        return ""
    differ = [key for key in _SHOWN if len({getattr(run, key) for run in runs.values()}) > 1]
    if not differ:
        return ""
    each = "; ".join(f"{_SHOWN[key][1]} {_by_value(key, runs)}" for key in differ)
    options = " ".join(_SHOWN[key][0] for key in differ)
    return (
        f"note: run.as_released: arms differ by more than their schedulers ({each}): {options} "
        "gives all of them the same"
    )


def kv_tokens_of(engine: Engine) -> int:
    """Tokens that the KV cache of an engine holds at 16 bits."""
    return engine.config.total_blocks * engine.config.block_tokens


# -- inside ---------------------------------------------------------------------------------------


def _alike(kv_tokens: Mapping[str, int]) -> dict[int, list[str]]:
    """Names of arms whose caches hold the same, by the tokens of the first of them."""
    alike: dict[int, list[str]] = {}
    for name, tokens in kv_tokens.items():
        near = (each for each in alike if abs(each - tokens) <= ROUNDING * tokens)
        alike.setdefault(next(near, tokens), []).append(name)
    return alike


def _by_value(key: str, runs: Mapping[str, RunConfig]) -> str:
    """Such as `0 rotating, 1 vllm_v1, vllm`."""
    names: dict[str, list[str]] = {}
    for name, run in runs.items():
        value = getattr(run, key)
        shown = ("off", "on")[value] if isinstance(value, bool) else str(value)
        names.setdefault(shown, []).append(name)
    return ", ".join(f"{value} {', '.join(each)}" for value, each in names.items())
