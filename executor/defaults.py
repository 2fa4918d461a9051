"""What the executor takes where neither the command line nor a configuration says anything."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from executor.device import default_device
from executor.session import TINY


def device_and_model(
    device: str | None, model: str | None, config: Path | None, settings: Iterable[str]
) -> dict[str, str | None]:
    """Overrides of `[run]`: as given; else what the configuration has; else the shipped model, on
    the GPU if there is one.

    The defaults of `[run]` itself are the simulator's.
    """
    given = named(config, settings)
    return {
        "device": device or (None if "run.device" in given else default_device()),
        "model": model or (None if "run.model" in given else TINY),
    }


def named(config: Path | None, settings: Iterable[str]) -> set[str]:
    """What a configuration or `--set` says, of `[run]` and elsewhere."""
    return set(_keys(config)) | {setting.partition("=")[0].strip() for setting in settings}


def _keys(config: Path | None) -> Iterable[str]:
    """The settings of `[run]` in a file; a bundled configuration is for simulated hardware."""
    if config is None or not config.is_file():
        return ()
    try:
        tables = tomllib.loads(config.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return ()  # `load_config` says what is wrong
    run = tables.get("run", {})
    return [f"run.{key}" for key in run] if isinstance(run, dict) else ()
