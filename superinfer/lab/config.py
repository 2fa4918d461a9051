"""Run configuration: one TOML file, `--set` overrides, and the policies that they name.

Sections: `[run]` (`RunConfig`), `[scheduler]` and `[memory]` (the constructor arguments of the
chosen policies), `[classes.<name>]` (service classes). Every mistake is a ConfigError of one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from superinfer.errors import ConfigError, InputError
from superinfer.memory import MEMORY_POLICIES
from superinfer.schedulers import SCHEDULERS

SECTIONS = ("run", "scheduler", "memory", "classes")


class RunConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The `[run]` section: everything about a run that is not a policy's own parameter."""

    trace: str = ""
    scheduler: str = "vllm"
    memory: str = "lru"
    model: str = "llama-3.1-8b"
    """Preset name, or path of a Hugging Face `config.json`."""
    device: str = "a100-80g"
    tp: int = 1
    seed: int = 0
    costs: str = "auto"
    """`auto`, `roofline`, `calibrated`, or the path of a profile."""
    lag: int = 0
    """1: plan the next step while the current one runs."""
    prefix_caching: bool = False
    block_tokens: int = 0
    """0: what the scheduler's system uses."""
    kv_blocks: int = 0
    """Exact number of device blocks; 0: from memory, weights and activations."""
    gpu_memory_utilization: float = 0.9
    host_memory_gib: float = 4.0
    """Host memory for swapped KV cache, per GPU (vLLM's default is 4 GiB)."""
    max_model_len: int = 0
    """0: the model's own."""
    host_step_ms: float | None = None
    """Host time before each step; absent: the cost model's."""
    host_per_sequence_us: float | None = None
    limit: int = 0
    """Use only the first so many requests; 0: all."""
    spread: bool = False
    skip_bad: bool = False
    without_slo: bool = False


@dataclasses.dataclass(slots=True, frozen=True)
class Config:
    """A whole configuration, as given; `resolved` fills in the defaults."""

    run: RunConfig
    scheduler: dict[str, Any]
    memory: dict[str, Any]
    classes: dict[str, Any]

    def build_scheduler(self) -> Any:
        """A fresh instance of the scheduler."""
        return build_policy("scheduler", self.run.scheduler, SCHEDULERS, self.scheduler)

    def build_memory(self) -> Any:
        """A fresh instance of the memory policy."""
        return build_policy("memory", self.run.memory, MEMORY_POLICIES, self.memory)

    def resolved(self) -> dict[str, Any]:
        """All settings with their defaults, as nested tables."""
        return {
            "run": msgspec.to_builtins(self.run),
            "scheduler": _parameters(self.build_scheduler()),
            "memory": _parameters(self.build_memory()),
            "classes": self.classes,
        }


def load_config(
    path: Path | None = None,
    settings: Iterable[str] = (),
    **overrides: object,
) -> Config:
    """Read `path` (TOML), then apply `key=value` settings, then overrides of `[run]` that are set.

    A setting is `section.key=value` with a TOML value; a bare word is taken as a string.
    """
    tables = _read(path) if path is not None else {}
    for setting in settings:
        _apply(tables, setting)
    run = dict(tables.get("run", {}))
    run.update({key: value for key, value in overrides.items() if value is not None})
    for name in ("scheduler", "memory", "classes"):
        if not isinstance(tables.get(name, {}), dict):
            raise ConfigError(f"{name}: expected a table, got {tables[name]!r}")
    config = Config(
        run=_run_config(run),
        scheduler=dict(tables.get("scheduler", {})),
        memory=dict(tables.get("memory", {})),
        classes=dict(tables.get("classes", {})),
    )
    config.build_scheduler(), config.build_memory()
    return config


def build_policy(
    section: str, name: str, known: Mapping[str, str], parameters: Mapping[str, Any]
) -> Any:
    """An instance of a policy by its name, or by `package.module:Class` for outside code."""
    cls = _load(section, name, known)
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in parameters.items():
        if key not in fields:
            raise ConfigError(_unknown(f"{section}.{key}", key, fields, f"{name} takes"))
        try:
            values[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            raise ConfigError(f"{section}.{key}: {_plain(error)}") from None
    return cls(**values)


def _load(section: str, name: str, known: Mapping[str, str]) -> Any:
    target = known.get(name, name)
    if ":" not in target:
        raise ConfigError(_unknown(f"{section} {name!r}", name, known, "known are"))
    module, _, attribute = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{section} {name!r}: {error}") from None
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(f"{section} {name!r}: expected a dataclass, got {cls!r}")
    return cls


def _parameters(policy: Any) -> dict[str, Any]:
    return {
        field.name: getattr(policy, field.name)
        for field in dataclasses.fields(policy)
        if field.init
    }


def _run_config(table: Mapping[str, Any]) -> RunConfig:
    fields = RunConfig.__struct_fields__
    for key in table:
        if key not in fields:
            raise ConfigError(_unknown(f"run.{key}", key, fields, "known are"))
    try:
        config = msgspec.convert(dict(table), RunConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"run{_path(error)}: {_plain(error)}") from None
    _check_ranges(config)
    return config


def _check_ranges(config: RunConfig) -> None:
    """Refuse numbers that no run can have."""
    least = {
        "tp": 1,
        "block_tokens": 0,
        "kv_blocks": 0,
        "host_memory_gib": 0,
        "limit": 0,
    }
    least |= {
        "max_model_len": 0,
        "host_step_ms": 0,
        "host_per_sequence_us": 0,
        "lag": 0,
    }
    for key, bound in least.items():
        value = getattr(config, key)
        if value is not None and not value >= bound:
            raise ConfigError(f"run.{key}: expected at least {bound}, got {value}")
    if config.lag > 1:
        raise ConfigError(f"run.lag: expected 0 or 1, got {config.lag}")
    if not 0 < config.gpu_memory_utilization <= 1:
        given = config.gpu_memory_utilization
        raise ConfigError(
            f"run.gpu_memory_utilization: expected above 0 and at most 1, got {given}"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"expected TOML: {error}", file=str(path)) from None
    for name in tables:
        if name not in SECTIONS:
            message = _unknown(f"[{name}]", name, SECTIONS, "sections are")
            raise InputError(message, file=str(path))
    return tables


def _apply(tables: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set {setting!r}: expected section.key=value")
    if parts[0] not in SECTIONS:
        raise ConfigError(_unknown(f"--set {setting!r}", parts[0], SECTIONS, "sections are"))
    table = tables
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {setting!r}: {part} is not a table")
    table[parts[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _unknown(what: str, key: str, known: Iterable[str], lead: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(key, names, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{what}: unknown{hint}; {lead}: {', '.join(names)}"


def _path(error: msgspec.ValidationError) -> str:
    """`.key` out of msgspec's message."""
    _, _, place = str(error).partition("at `$")
    return place.rstrip("`")


def _plain(error: msgspec.ValidationError) -> str:
    text = str(error).partition(" - at `")[0]
    return text[:1].lower() + text[1:].replace("`", "")
