"""Named service classes: the presets, and the classes that a TOML file adds to them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from superinfer.errors import ConfigError, InputError
from superinfer.pipes import refuse_pipe
from superinfer.request import DEFAULT_CLASS, SLO, SLOClass
from superinfer.settings import did_you_mean, shown_value

_T = TypeVar("_T")

MAX_LENGTH_TOKENS = 10_000_000
"""No prompt, answer or answer limit may be longer."""

# Autoregressive video: every latent frame is a fixed number of tokens, shown at a fixed pace.
VIDEO_TOKENS_PER_FRAME = 8
VIDEO_FRAMES_PER_S = 5

# Targets of `mlperf.conf` (p99), in ms: TTFT and TPOT of the server and interactive scenarios.
_MLPERF_MS = {
    "llama2-70b": {"server": (2000, 200), "interactive": (450, 40)},
    "mixtral-8x7b": {"server": (2000, 200)},
    "llama3.1-8b": {"server": (2000, 100), "interactive": (500, 30)},
    "llama3.1-405b": {"server": (6000, 175), "interactive": (4500, 80)},
    "deepseek-r1": {"server": (2000, 80), "interactive": (1500, 15)},
    "gpt-oss-120b": {"server": (3000, 80), "interactive": (2000, 15)},
}

_TARGET_KEYS = ("ttft_ms", "tpot_ms", "e2el_ms", "min_tokens_per_s")
_KEYS = (
    *_TARGET_KEYS,
    "weight",
    "max_stall_ms",
    "min_kv_bits",
    "max_tokens",
    "delivery",
)
_KV_BITS = (16, 8, 4)
_DELIVERIES = ("strict", "paced")


def _mlperf_presets() -> list[SLOClass]:
    return [
        SLOClass(
            f"mlperf-{model}-{scenario}",
            SLO(ttft_s=ttft_ms / 1000, tpot_s=tpot_ms / 1000),
        )
        for model, scenarios in _MLPERF_MS.items()
        for scenario, (ttft_ms, tpot_ms) in scenarios.items()
    ]


def _presets() -> dict[str, SLOClass]:
    frame_token_s = 1 / (VIDEO_TOKENS_PER_FRAME * VIDEO_FRAMES_PER_S)
    named = [
        DEFAULT_CLASS,
        SLOClass("chat", SLO(ttft_s=1.0, tpot_s=0.1), max_stall_s=1.0, max_tokens=1024),
        # guidellm's examples, each for 99 % of the requests: an agent's whole step in 5 s, code
        # generation 500 ms / 150 ms, answers from retrieved documents 300 ms / 100 ms and 3 s.
        SLOClass("agent", SLO(e2el_s=5.0), max_stall_s=5.0, max_tokens=4096),
        SLOClass("code", SLO(ttft_s=0.5, tpot_s=0.15), max_stall_s=5.0, max_tokens=256),
        SLOClass("rag", SLO(ttft_s=0.3, tpot_s=0.1, e2el_s=3.0), max_stall_s=1.0),
        SLOClass("batch", max_tokens=2048),
        SLOClass(
            "video",
            SLO(ttft_s=2.0, tpot_s=frame_token_s),
            max_tokens=4096,
            delivery="paced",
        ),
    ]
    return {preset.name: preset for preset in [*named, *_mlperf_presets()]}


PRESETS: Mapping[str, SLOClass] = _presets()
"""The classes that need no file, by name."""


def class_from_table(name: str, table: object, base: SLOClass = DEFAULT_CLASS) -> SLOClass:
    """Class `name`: `base` with the keys of a `[classes.<name>]` table (ms); else `ConfigError`."""
    return _ClassTable(name, table).build(base)


def load_classes(path: str | Path) -> dict[str, SLOClass]:
    """The presets plus the classes of a TOML file; `InputError` or `ConfigError` if it is bad."""
    document = _read_toml(Path(path))
    for key in document.keys() - {"classes", "version"}:
        raise ConfigError(f"{path}: {key}: expected only [classes.<name>] tables")
    if document.get("version", 1) != 1:
        raise ConfigError(f"{path}: version: expected 1, got {shown_value(document['version'])}")
    tables = document.get("classes", {})
    if not isinstance(tables, dict):
        raise ConfigError(
            f"{path}: classes: expected [classes.<name>] tables, got {shown_value(tables)}"
        )
    return _add_tables(path, tables)


def _add_tables(path: str | Path, tables: dict[str, Any]) -> dict[str, SLOClass]:
    classes = dict(PRESETS)
    for name, table in tables.items():
        try:
            classes[name] = class_from_table(name, table, PRESETS.get(name, DEFAULT_CLASS))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return classes


def _read_toml(path: Path) -> dict[str, Any]:
    refuse_pipe(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"expected a readable file, got {error.strerror}", file=str(path)
        ) from None
    except UnicodeDecodeError:
        raise InputError("expected UTF-8 text", file=str(path)) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"expected a TOML file, got: {text}", file=str(path)) from None


class _ClassTable:
    """One table, read key by key; every fault is a `ConfigError` that names the key."""

    def __init__(self, name: str, table: object) -> None:
        self._place = f"classes.{name}"
        self._name = name
        if not isinstance(table, Mapping):
            raise ConfigError(f"{self._place}: expected a table, got {shown_value(table)}")
        self._table = table
        for key, value in table.items():
            if key not in _KEYS:
                raise self._unknown(key, value)

    def build(self, base: SLOClass) -> SLOClass:
        """`base` with this table's keys laid over it."""
        return SLOClass(
            name=self._name,
            slo=self._slo(base.slo),
            weight=self._weight(base.weight),
            max_stall_s=self._optional("max_stall_ms", 1000, base.max_stall_s),
            min_kv_bits=self._choice("min_kv_bits", _KV_BITS, base.min_kv_bits),
            max_tokens=self._max_tokens(base.max_tokens),
            delivery=self._choice("delivery", _DELIVERIES, base.delivery),
        )

    def _slo(self, base: SLO) -> SLO:
        return replace(
            base,
            ttft_s=self._optional("ttft_ms", 1000, base.ttft_s),
            tpot_s=self._optional("tpot_ms", 1000, base.tpot_s),
            e2el_s=self._optional("e2el_ms", 1000, base.e2el_s),
            min_tokens_per_s=self._optional("min_tokens_per_s", 1, base.min_tokens_per_s),
        )

    def _optional(self, key: str, units: int, base: float | None) -> float | None:
        """A number over `units`; zero means none."""
        if key not in self._table:
            return base
        return self._number(key) / units or None

    def _weight(self, base: float) -> float:
        if "weight" not in self._table:
            return base
        weight = self._number("weight")
        if weight == 0:
            raise self._fault("weight", "a number > 0")
        return weight

    def _number(self, key: str) -> float:
        value = self._table[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fault(key, "a number >= 0")
        if not 0 <= value <= 2**53:
            raise self._fault(key, "a number from 0 to 2**53")
        return float(value)

    def _max_tokens(self, base: int) -> int:
        value = self._table.get("max_tokens", base)
        if type(value) is not int or not 1 <= value <= MAX_LENGTH_TOKENS:
            raise self._fault("max_tokens", f"an integer from 1 to {MAX_LENGTH_TOKENS}")
        return value

    def _choice(self, key: str, choices: tuple[_T, ...], base: _T) -> _T:
        value = self._table.get(key, base)
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise self._fault(key, f"one of {', '.join(map(repr, choices))}")

    def _unknown(self, key: str, value: object) -> ConfigError:
        """A key that no class has; a table is what TOML makes of a name with a dot."""
        if not isinstance(value, Mapping):
            known = f"a known key (one of {', '.join(_KEYS)})"
            return self._fault(key, known + did_you_mean(key, _KEYS))
        while len(value) == 1 and isinstance(inner := next(iter(value.values())), Mapping):
            key, value = f"{key}.{next(iter(value))}", inner
        quoted = f'classes."{self._name}.{key}"'
        hint = f"expected quotes around a name with a dot: {quoted}"
        return ConfigError(f"{self._place}.{key}: {hint}")

    def _fault(self, key: str, expected: str) -> ConfigError:
        got = shown_value(self._table[key])
        return ConfigError(f"{self._place}.{key}: expected {expected}, got {got}")
