"""A device of the user's own by its nominal figures: a TOML file in place of a preset's name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from superinfer.costs.devices import DEVICES, GIB, DeviceSpec, Link
from superinfer.errors import InputError
from superinfer.settings import did_you_mean, is_number, shown_value

NEEDED: Final[Mapping[str, str]] = {
    "memory_gib": "usable memory, GiB",
    "memory_gb_per_s": "its bandwidth, 1e9 bytes/s",
    "bf16_tflops": "dense peak in bf16, 1e12 FLOP/s",
    "host_gb_per_s": "copies between device and host, each way, 1e9 bytes/s",
}
OPTIONAL: Final[dict[str, float]] = {"peer_gb_per_s": 0.0, "all_reduce_latency_us": 20.0}
"""Between the devices of one replica. Without a speed of its own a peer is reached like the host;
20 us are what is assumed of the presets without NVLink.
"""
_SMALLEST, _LARGEST = 0.001, 1_000_000_000
"""Of a figure: beyond them times and bytes are no numbers any more that a page can show."""
_TEXTS: Final = ("name", "source")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def read_device(path: Path) -> DeviceSpec:
    """The device of a file; InputError names the key that is missing, unknown or wrong."""
    table = _table(path)
    known = ("version", *_TEXTS, *NEEDED, *OPTIONAL)
    for key in table:
        if key not in known:
            raise _wrong(path, key, f"unknown{did_you_mean(key, known)}")
    if table.get("version", 1) != 1:
        raise _wrong(path, "version", f"expected 1, got {shown_value(table['version'])}")
    name = table.get("name", path.stem)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        expected = "expected letters, digits, dots and dashes"
        raise _wrong(path, "name", f"{expected}, got {shown_value(name)}")
    if name.lower() in DEVICES:
        raise _wrong(path, "name", f"expected one that no preset has, got {name!r}")
    figures = {key: _figure(path, table, key, meaning) for key, meaning in NEEDED.items()}
    link = Link(figures["host_gb_per_s"] * 1e9)
    defaults = OPTIONAL | {"peer_gb_per_s": figures["host_gb_per_s"]}
    extra = {key: _figure(path, {key: value} | table, key, "") for key, value in defaults.items()}
    return DeviceSpec(
        name,
        int(figures["memory_gib"] * GIB),
        figures["memory_gb_per_s"] * 1e9,
        figures["bf16_tflops"] * 1e12,
        link,
        link,
        extra["peer_gb_per_s"] * 1e9,
        extra["all_reduce_latency_us"] / 1e6,
    )


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read the device: {error.strerror}", file=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"expected TOML: {error}", file=str(path)) from None


def _figure(path: Path, table: Mapping[str, Any], key: str, meaning: str) -> float:
    """A number of the file, within the bounds of all of them."""
    value = table.get(key)
    if value is None:
        raise _wrong(path, key, f"expected a number ({meaning}), got nothing")
    if not (is_number(value) and _SMALLEST <= value <= _LARGEST):
        expected = f"expected a number from {_SMALLEST} to {_LARGEST}"
        raise _wrong(path, key, f"{expected}, got {shown_value(value)}")
    return float(value)


def _wrong(path: Path, key: str, expected: str) -> InputError:
    return InputError(expected, file=str(path), field=key)
