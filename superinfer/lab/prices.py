"""What a GPU costs: the table that is shipped, all of it examples, and the user's own over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from superinfer.costs import DEVICES
from superinfer.errors import ConfigError, InputError
from superinfer.lab.config.toml_files import read_toml
from superinfer.lab.config.values import convert_setting
from superinfer.settings import did_you_mean, shown_value

T = TypeVar("T", bound=msgspec.Struct)
EXAMPLES = Path(__file__).with_name("prices.toml")


class Price(msgspec.Struct, frozen=True):
    """Of one GPU."""

    per_gpu_hour: Annotated[float, Meta(ge=0, le=1e9)]
    source: str = "not named"


class _File(msgspec.Struct, frozen=True):
    version: int
    currency: str = "USD"
    devices: dict[str, Any] = {}
    """Tables, each a `Price`."""


@dataclass(slots=True, frozen=True)
class Prices:
    """Prices by device."""

    currency: str
    devices: Mapping[str, Price]

    def per_million(self, device: str, gpus: int, tokens_per_s: float | None) -> float | None:
        """What a million tokens cost on so many GPUs; None without a price or without tokens."""
        price = self.devices.get(device)
        if price is None or not tokens_per_s:
            return None
        return price.per_gpu_hour * gpus / (3600 * tokens_per_s) * 1e6


def load_prices(file: Path | None = None, devices: Sequence[str] = ()) -> Prices:
    """The shipped examples, with the prices of `file` over them.

    InputError for a bad file, and for a device that is neither a preset nor among `devices`.
    """
    shipped = _read(EXAMPLES)
    if file is None:
        return shipped
    own = _read(file)
    known = (*DEVICES, *devices)
    for name in own.devices:
        if name not in known:
            expected = f"expected a device that is known, got {name!r}{did_you_mean(name, known)}"
            raise InputError(expected, file=str(file), field=f"devices.{name}")
    if own.currency != shipped.currency:  # an example in another currency would be no example
        return own
    return Prices(own.currency, {**shipped.devices, **own.devices})


# -- inside ---------------------------------------------------------------------------------------


def _read(path: Path) -> Prices:
    table = read_toml(path)
    if table.get("version", 1) != 1:
        got = shown_value(table["version"])
        raise InputError(f"version: expected 1, got {got}", file=str(path))
    found = _entry(path, "", table, _File)
    devices = {
        name: _entry(path, f"devices.{name}.", table, Price)
        for name, table in found.devices.items()
    }
    return Prices(found.currency, devices)


def _entry(path: Path, place: str, table: Any, kind: type[T]) -> T:
    """What a table stands for; InputError names the key that is missing, unknown or wrong."""
    if not isinstance(table, Mapping):
        expected = f"expected a table, got {shown_value(table)}"
        raise InputError(expected, file=str(path), field=place.rstrip("."))
    hints = get_type_hints(kind, include_extras=True)
    for key in table:
        if key not in hints:
            expected = f"unknown{did_you_mean(key, hints)}; expected one of {', '.join(hints)}"
            raise InputError(expected, file=str(path), field=f"{place}{key}")
    try:
        values = {key: convert_setting(f"{place}{key}", table[key], hints[key]) for key in table}
    except ConfigError as error:
        raise InputError(str(error), file=str(path)) from None
    for each in msgspec.structs.fields(kind):
        if each.required and each.name not in values:
            expected = "expected a number, got nothing"
            raise InputError(expected, file=str(path), field=f"{place}{each.name}")
    return kind(**values)
