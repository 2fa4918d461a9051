"""What a sweep varies: `--over rate=0.5:1.5:0.25`.

NAME=VALUES, where NAME is a short name of `SHORT` or the key of any setting (`run.kv_blocks`,
`scheduler.max_num_seqs`, `classes.chat.ttft_ms`), and VALUES is a list, divided by commas, of

* single values, as TOML or as text: `32`, `0.5`, `true`, `histogram`;
* `from:to:step`: from, from + step, ... up to and including to;
* `from:to:xFACTOR`: from, from x FACTOR, ... up to and including to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from superinfer.errors import ConfigError
from superinfer.lab.config import SECTIONS
from superinfer.lab.config.run import RunConfig
from superinfer.settings import did_you_mean, is_number, parse_settings, shown_value

SHORT = {
    "rate": "run.rate_scale",
    "slo": "run.slo_scale",
    "burstiness": "run.burstiness",
    "kv_blocks": "run.kv_blocks",
    "link": "run.host_link_gb_per_s",
}
"""Settings that are swept most, by their short names."""
LABELS = {
    "rate": "arrival rate (multiple of the trace's)",
    "slo": "targets (multiple of what they are)",
    "burstiness": "burstiness (multiple of the trace's)",
    "kv_blocks": "KV blocks",
    "link": "host link (GB/s each way)",
}
RATE = "rate"
MOST_VALUES = 1000
"""Of one axis; more are a mistake."""
_FORM = "expected NAME=VALUES such as rate=0.5:1.5:0.25, link=25:400:x2 or kv_blocks=500,1000"
_RANGE = "expected from:to:step or from:to:xFACTOR"
_CLOSE = 1e-9

Value = float | int | bool | str
Place = tuple[Value, ...]
"""One value of each axis."""


@dataclass(slots=True, frozen=True)
class Axis:
    """One setting and the values that it takes."""

    name: str
    """As it was given: a short name or a key."""
    key: str
    """Such as `run.rate_scale`."""
    values: tuple[Value, ...]

    @property
    def label(self) -> str:
        """What a picture calls it."""
        return LABELS.get(self.name, self.key.removeprefix("run."))

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers, which have places on a line."""
        return all(is_number(value) for value in self.values)


def parse_axes(texts: str | Sequence[str]) -> list[Axis]:
    """The axes of `--over` texts, or of one; ConfigError for one that is no axis or comes twice."""
    axes: list[Axis] = []
    for text in [texts] if isinstance(texts, str) else texts:
        axis = _parse(text)
        if axis.key in (known.key for known in axes):
            raise ConfigError(f"--over {text!r}: expected {axis.key} once")
        axes.append(axis)
    if not axes:
        raise ConfigError(f"--over: {_FORM}")
    return axes


def places(axes: Sequence[Axis]) -> list[Place]:
    """Every combination of the values, the last axis fastest; ConfigError for what is no axis."""
    along = list(axes)
    if not all(isinstance(axis, Axis) for axis in along):
        raise ConfigError(f"axes: expected what parse_axes gives, got {shown_value(axes)}")
    return list(product(*(axis.values for axis in along)))


def setting_text(value: Value) -> str:
    """A value as `--set` reads it back."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Value) -> str:
    """A value as a table shows it: six digits of a fraction, all of a whole number."""
    return f"{value:.6g}" if isinstance(value, float) else setting_text(value)


def place_text(axes: Sequence[Axis], place: Place) -> str:
    """Such as `rate=0.5 kv_blocks=1000`: different texts for different places."""
    return " ".join(f"{a.name}={setting_text(v)}" for a, v in zip(axes, place, strict=True))


# -- inside ---------------------------------------------------------------------------------------


def _parse(text: str) -> Axis:
    name, equals, listed = (part.strip() for part in text.partition("="))
    if not (equals and name and listed):
        raise ConfigError(f"--over {text!r}: {_FORM}")
    key = _key(text, name)
    values = [value for item in listed.split(",") for value in _values(text, item.strip())]
    different = tuple(dict.fromkeys(values))
    if len(different) > MOST_VALUES:
        raise ConfigError(f"--over {text!r}: expected at most {MOST_VALUES} values")
    return Axis(name, key, different)


def _key(text: str, name: str) -> str:
    if name in SHORT:
        return SHORT[name]
    section, dot, rest = name.partition(".")
    if not (dot and rest and section in SECTIONS):
        raise ConfigError(
            f"--over {text!r}: unknown axis {name!r}{_meant(name)}; expected one of "
            f"{', '.join(SHORT)} or a key such as scheduler.max_num_seqs"
        )
    return name


def _meant(name: str) -> str:
    """What an axis that is not known may be: a setting of the run, or a short name."""
    if name in RunConfig.__struct_fields__:
        return f" (did you mean 'run.{name}'?)"
    return did_you_mean(name, SHORT)


def _values(text: str, item: str) -> Iterator[Value]:
    if not item:
        raise ConfigError(f"--over {text!r}: expected a value between the commas")
    if item.count(":") != 2:
        if ":" in item and all(_is_number(part) for part in item.split(":")):
            raise ConfigError(f"--over {text!r}: {_RANGE}, got {item!r}")
        yield _single(text, item)
        return
    start, stop, step = (part.strip() for part in item.split(":"))
    by_factor = step.startswith("x")
    numbers = [_number(text, part) for part in (start, stop, step.removeprefix("x"))]
    yield from _factors(text, *numbers) if by_factor else _steps(text, *numbers)


def _single(text: str, item: str) -> Value:
    found: Mapping[str, object] = parse_settings([f"value={item}"])
    value = found["value"]
    if not isinstance(value, int | float | str):
        raise ConfigError(f"--over {text!r}: expected a number or a word, got {item!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--over {text!r}: expected a finite number, got {item!r}")
    return value


def _number(text: str, part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"--over {text!r}: {_RANGE} in numbers, got {part!r}")
    return value


def _is_number(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _steps(text: str, start: float, stop: float, step: float) -> Iterator[Value]:
    if not (step > 0 and stop >= start):
        raise ConfigError(f"--over {text!r}: expected from <= to and a step > 0")
    count = _checked(text, (stop - start) / step)
    yield from (_plain(start + step * number) for number in range(count + 1))


def _factors(text: str, start: float, stop: float, factor: float) -> Iterator[Value]:
    if not (factor > 1 and stop >= start > 0):
        raise ConfigError(f"--over {text!r}: expected 0 < from <= to and a factor > 1")
    count = _checked(text, math.log(stop / start, factor))
    yield from (_plain(start * factor**number) for number in range(count + 1))


def _checked(text: str, steps: float) -> int:
    """Whole steps that fit; one that misses the end by the last digit counts."""
    if steps >= MOST_VALUES:
        raise ConfigError(f"--over {text!r}: expected at most {MOST_VALUES} values")
    return math.floor(steps + _CLOSE * max(1.0, steps))


def _plain(value: float) -> Value:
    """Without the dust of additions; a whole number as one, which counts of things are."""
    rounded = float(f"{value:.12g}")
    return int(rounded) if rounded.is_integer() else rounded
