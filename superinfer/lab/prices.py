"""What a GPU costs: the table that is shipped, all of it examples, and the user's own over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from superinfer.costs import DEVICES
from superinfer.errors import InputError
from superinfer.lab.config.toml_files import read_toml
from superinfer.settings import did_you_mean

EXAMPLES = Path(__file__).with_name("prices.toml")


class Price(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Of one GPU."""

    per_gpu_hour: Annotated[float, Meta(ge=0, le=1e9)]
    source: str = "not named"


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    version: int
    currency: str = "USD"
    devices: dict[str, Price] = {}


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
        return Prices(shipped.currency, shipped.devices)
    own = _read(file)
    known = (*DEVICES, *devices)
    for name in own.devices:
        if name not in known:
            expected = f"expected a device that is known, got {name!r}{did_you_mean(name, known)}"
            raise InputError(expected, file=str(file), field=f"devices.{name}")
    if own.currency != shipped.currency:  # an example in another currency would be no example
        return Prices(own.currency, own.devices)
    return Prices(own.currency, {**shipped.devices, **own.devices})


# -- inside ---------------------------------------------------------------------------------------


def _read(path: Path) -> _File:
    try:
        found = msgspec.convert(read_toml(path), _File)
    except msgspec.ValidationError as error:
        raise InputError(f"expected a table of prices: {error}", file=str(path)) from None
    if found.version != 1:
        raise InputError(f"version: expected 1, got {found.version}", file=str(path))
    return found
