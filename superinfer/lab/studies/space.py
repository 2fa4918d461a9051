"""What a tuning may change: the ranges and choices of settings, by their key.

Without a file they come from the scheduler's own parameters: a number may lie from a quarter to
four times what it is, a share not above 1, as far as the scheduler accepts it; a word may be any of
those that the parameter allows. Switches stay as they are unless they are asked for by name.

    [scheduler]                                           # a file of one's own
    max_num_seqs = { low = 64, high = 512, log = true }
    preemption = ["recompute", "swap"]
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from superinfer.errors import ConfigError
from superinfer.lab.config import SECTIONS, Config
from superinfer.lab.config.policies import parameters_of
from superinfer.lab.config.toml_files import read_toml
from superinfer.lab.studies.axes import Value
from superinfer.settings import is_number, shown_value, unknown

NOT_TUNED = frozenset(
    ("block_tokens", "full_duplex", "layout", "length_scale", "lengths", "tile_tokens")
)
"""Parameters that say what the machine or a study is like, not how it is run."""
_FACTORS = (4.0, 2.0, 1.5, 1.25)
"""How far a number may go from what it is; the first that the scheduler accepts."""
_RANGE_KEYS = frozenset(("low", "high", "log"))


@dataclass(slots=True, frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly by ratio."""
    whole: bool = False

    def ends(self) -> tuple[Value, ...]:
        """The smallest and the largest."""
        return (self.low, self.high)

    def holds(self, value: object) -> bool:
        """Whether a value lies within, as a whole number where these alone are drawn."""
        if not is_number(value) or (self.whole and value != round(value)):
            return False
        return self.low <= value <= self.high

    def tidy(self, value: Value) -> Value:
        """A drawn number with four digits, which files show better, within the bounds."""
        if self.whole:
            return int(value)
        return min(max(float(f"{float(value):.4g}"), self.low), self.high)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as in a file."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(slots=True, frozen=True)
class Choices:
    """A few values."""

    values: tuple[Value, ...]

    def ends(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values

    def holds(self, value: object) -> bool:
        """Whether a value is one of them."""
        return any(type(value) is type(each) and value == each for each in self.values)

    def tidy(self, value: Value) -> Value:
        """The value itself."""
        return value

    def as_json(self) -> list[Value]:
        """Plain values, as in a file."""
        return list(self.values)


Span = Range | Choices
Build = Callable[[Config], object]
Space = Mapping[str, Span]
"""By key, such as `scheduler.max_num_seqs`."""


def derived_space(
    config: Config, names: Sequence[str] = (), build: Build = Config.build_scheduler
) -> Space:
    """The space of a configuration's scheduler: of the parameters `names`, else of all that are
    tuned. `build` raises ConfigError for values that the scheduler refuses. ConfigError for a name
    that it does not have or that no range follows from.
    """
    hints = parameters_of("scheduler", config.run.scheduler)
    for name in names:
        if "=" in name:
            raise ConfigError(f"--params {name!r}: expected names alone; ranges go into --space")
        if name not in hints:
            lead = f"{config.run.scheduler} takes"
            raise ConfigError(f"--params {unknown(f'{name!r}', name, hints, lead)}")
    found: dict[str, Span] = {}
    for name in names or hints:
        span = _derived(config, name, hints[name], build, asked=name in names)
        if span is not None:
            found[f"scheduler.{name}"] = span
        elif name in names:
            raise ConfigError(
                f"--params {name}: no range follows from its value: give one in --space"
            )
    if not found:
        raise ConfigError(
            f"{config.run.scheduler} has no parameters to tune: name switches with --params, or "
            "settings of other sections in --space"
        )
    return found


def read_space(path: Path, names: Sequence[str] = ()) -> Space:
    """The space of a file, or only `names` of it (keys, or the last parts of keys)."""
    tables = read_toml(path)
    for name in tables:
        if name not in SECTIONS:
            raise ConfigError(f"{path}: {unknown(f'[{name}]', name, SECTIONS, 'sections are')}")
    found = dict(_spans(path, tables, ""))
    short = {key.rpartition(".")[2]: key for key in found}
    for name in names:
        if name not in found and name not in short:
            raise ConfigError(f"--params {unknown(f'{name!r}', name, short, f'{path} has')}")
    kept = {short.get(name, name) for name in names} or set(found)
    if not found:
        raise ConfigError(f"{path}: expected at least one setting with a range or choices")
    return {key: span for key, span in found.items() if key in kept}


def check_space(space: Space, build_at: Callable[[Mapping[str, Value]], object]) -> None:
    """ConfigError for a setting that is not known, or a value that is refused by itself; `build_at`
    raises it.
    """
    for key, span in space.items():
        for value in span.ends():
            try:
                build_at({key: value})
            except ConfigError as error:
                raise ConfigError(f"space of {key}: {error}") from None


# -- inside ---------------------------------------------------------------------------------------


def _derived(config: Config, name: str, hint: Any, build: Build, *, asked: bool) -> Span | None:
    """The span of a parameter; None where none follows, or nobody asked for it."""
    if name in NOT_TUNED and not asked:
        return None
    value = getattr(config.build_scheduler(), name)
    if isinstance(value, bool):
        return Choices((True, False)) if asked else None
    words = _words(hint)
    if words:
        return Choices(words) if len(words) > 1 else None
    if not is_number(value) or value <= 0:
        return None
    low, high = (
        _end(value, factors, lambda end: _is_accepted(config, name, end, build))
        for factors in ([1 / factor for factor in _FACTORS], _FACTORS)
    )
    if not low < high:
        return None
    share = isinstance(value, float) and value <= 1
    return Range(low, high, log=not share, whole=isinstance(value, int))


def _words(hint: Any) -> tuple[Value, ...]:
    """The values of a Literal, also of one that is a part of a union."""
    for option in (hint, *typing.get_args(hint)):
        if typing.get_origin(option) is Literal:
            return tuple(v for v in typing.get_args(option) if isinstance(v, str | int | float))
    return ()


def _end(value: float, factors: Iterable[float], is_accepted: Callable[[float], bool]) -> float:
    """The farthest multiple of a value that the scheduler accepts; the value if it accepts none."""
    for factor in factors:
        end: float = value * factor
        if isinstance(value, int):
            end = max(1, round(end))
        elif value <= 1:
            end = min(1.0, end)
        if is_accepted(end):
            return end if isinstance(value, int) else float(f"{end:.4g}")
    return value


def _is_accepted(config: Config, name: str, value: float, build: Build) -> bool:
    try:
        build(replace(config, scheduler={**config.scheduler, name: value}))
    except ConfigError:
        return False
    return True


def _spans(path: Path, table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Span]]:
    for name, value in table.items():
        key = f"{before}{name}"
        if isinstance(value, dict) and not value.keys() & _RANGE_KEYS:
            yield from _spans(path, value, f"{key}.")
        else:
            yield key, _span(path, key, value)


def _span(path: Path, key: str, value: Any) -> Span:
    if isinstance(value, list):
        known = tuple(v for v in value if isinstance(v, bool | int | float | str))
        if value and len(known) == len(value) == len(set(map(repr, value))):
            return Choices(known)
        raise ConfigError(f"{path}: {key}: expected different values, got {shown_value(value)}")
    if isinstance(value, dict) and value.keys() <= _RANGE_KEYS and {"low", "high"} <= value.keys():
        low, high, log = value["low"], value["high"], value.get("log", False)
        if (
            is_number(low)
            and is_number(high)
            and low < high
            and type(log) is bool
            and (low > 0 or not log)
        ):
            return Range(low, high, log, whole=type(low) is int and type(high) is int)
    raise ConfigError(
        f"{path}: {key}: expected a list, or low < high and perhaps log = true (then low > 0), as "
        f"in {{ low = 64, high = 512 }}, got {shown_value(value)}"
    )
