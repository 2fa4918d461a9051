"""What to say where some arms run as their releases ship and others have not what these have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from superinfer.lab.config import Config
from superinfer.lab.config.run import RunConfig

_SHOWN: Final = {
    "prefix_caching": ("--prefix-caching", "prefix caching"),
    "lag": ("--lag 1", "lag"),
}
"""The option that gives it to all arms, and how it is called."""


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


def _by_value(key: str, runs: Mapping[str, RunConfig]) -> str:
    """Such as `0 rotating, 1 vllm_v1, vllm`."""
    names: dict[str, list[str]] = {}
    for name, run in runs.items():
        value = getattr(run, key)
        shown = ("off", "on")[value] if isinstance(value, bool) else str(value)
        names.setdefault(shown, []).append(name)
    return ", ".join(f"{value} {', '.join(each)}" for value, each in names.items())
