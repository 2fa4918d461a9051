"""The profile file: what calibration writes and the calibrated cost model reads.

A profile is for one device, model and tensor-parallel degree. Everything is in seconds and bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from superinfer.costs.devices import Link
from superinfer.costs.graphs import Graphs, MixedGraph
from superinfer.costs.shapes import CACHE_DTYPES, ONE_BYTE_DTYPES
from superinfer.errors import InputError

VERSION = 1
PARTLY_FITTED = "partly fitted"
"""Of a host whose `chunked_s` was fitted to a run, while the rest is assumed."""
ORIGINS = ("measured", "published", "assumed", PARTLY_FITTED)
_DIRECTIONS = ("h2d", "d2h")
_OPTIONAL_HOST = ("launch_s", "chunked_s", "next_chunk_s")
HOST_TIMES = ("step_s", "per_sequence_s", *_OPTIONAL_HOST)
_HOST = (*HOST_TIMES, "origin")
_GRAPHS = ("decodes", "mixed", "chunks")
LEAST_BOTH_SHARE = 1e-6
"""Of a direction's speed, what copies both ways at once leave of it at least."""

# Axes that each kernel is measured over. `seconds` are per layer where a kernel belongs to one.
AXES: Mapping[str, tuple[str, ...]] = {
    **{f"gemm_{part}": ("tokens",) for part in ("qkv", "o", "gate_up", "down", "lm_head")},
    **dict.fromkeys(("norm", "rope_write", "activation", "embed"), ("tokens",)),
    **dict.fromkeys(("moe_route", "moe_gemm"), ("tokens",)),
    "attention_prefill": ("chunk_tokens", "context_tokens"),
    **{f"attention_decode_{bits}": ("sequences", "context_tokens") for bits in (16, 8, 4)},
    "attention_mixed_16": ("sequences", "context_tokens"),
    "attention_idle": ("sequence_tokens",),
    **dict.fromkeys(("attention_uneven", "attention_busy"), ("sequences",)),
    "cross_attention": ("sequences", "context_tokens"),
    "sample": ("sequences",),
    "all_reduce": ("bytes",),
    **dict.fromkeys(("requantise_8", "requantise_4", "block_copy"), ("bytes",)),
}

# Coefficients of each named smooth model; `calibrated.py` states the formulas.
MODELS: Mapping[str, tuple[str, ...]] = {
    "linear": ("base_s", "per_unit_s"),
    "causal_linear": (
        "floor_s",
        "per_sequence_s",
        "per_token_s",
        "per_pair_s",
        "per_key_s",
    ),
}


def decode_kernel(kv_dtype: str) -> str:
    """The kernel of decode attention over a cache of this dtype; empty is that of the profile."""
    return f"attention_decode_{8 if kv_dtype else 16}"


@dataclass(frozen=True, slots=True)
class Kernel:
    """Seconds of one kernel: a table over `axes`, or a named model with coefficients."""

    axes: dict[str, tuple[float, ...]]
    seconds: tuple[Any, ...] | None = None
    model: str | None = None
    coefficients: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostCost:
    """Host seconds before a step: `step_s + per_sequence_s * sequences`, and where it is from."""

    step_s: float
    per_sequence_s: float
    origin: str = "assumed"
    launch_s: float = 0.0
    """A step with chunks of prompts takes at least so long: its kernels are launched one by one,
    while steps of decodes alone are replayed from a graph. 0: launching is never what takes long.
    """
    chunked_s: float = 0.0
    """The device waits so long in each step with chunks of prompts, also where hosts plan ahead."""
    next_chunk_s: float = 0.0
    """Each chunk but a step's first takes so much more than its kernels: a CPU computes them one
    after the other."""

    def seconds(self, sequences: int) -> float:
        """Host seconds of one step over `sequences` requests."""
        return self.step_s + self.per_sequence_s * sequences


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole profile; `range` holds measured bounds where they are not the table's ends."""

    device: str
    model: str
    tp: int
    kernels: dict[str, Kernel]
    links: dict[str, Link]
    host: HostCost
    dtype: str = "bf16"
    graphs: Graphs | None = None
    """Of the executor that was measured, if it replays its steps from graphs."""
    weight_dtype: str = ""
    """Of the matrices of the layers, where that is another; `fp8` or `fp8_block`."""
    kv_dtype: str = ""
    """Of the cache, likewise; `fp8` makes `attention_decode_8` the attention of every step."""
    memory: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    range: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    """Kernels whose shape lies outside what was measured, each with what stands in for it."""
    sources: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    yardstick: dict[str, Any] = field(default_factory=dict)
    """Of times that are no wall time: the reference of a CPU's steady clock, `yardstick_s`, and how
    its samples lay about it (`executor/timers.py`)."""
    made_s: float = 0.0
    path: str = ""


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile; InputError names the file, the field and what was expected."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except ValueError as error:
        raise InputError(f"expected JSON: {error}", file=str(path)) from None
    return parse_profile(data, str(path))


def parse_profile(data: object, file: str = "") -> Profile:
    """Check decoded JSON and build the profile; raises InputError like `load_profile`."""
    top = _Reader(data, file, "")
    if top.get("version") != VERSION:
        top.fail("version", f"expected {VERSION}")
    kernels = top.child("kernels")
    kernels.only(AXES, "kernel")
    return Profile(
        device=top.text("device"),
        model=top.text("model"),
        tp=top.whole("tp", 1),
        kernels={name: _kernel(kernels.child(name), name) for name in kernels.data},
        links=_links(top.child("links")),
        host=_host(top.child("host")),
        dtype=top.text("dtype"),
        graphs=None if top.get("graphs") is None else _graphs(top.child("graphs")),
        weight_dtype=top.one_byte("weight_dtype", ONE_BYTE_DTYPES),
        kv_dtype=top.one_byte("kv_dtype", CACHE_DTYPES),
        **{name: check(top.child(name)) for name, check in _SECTIONS.items() if name in top.data},
        sources=top.texts("sources"),
        versions={} if top.get("versions") is None else _texts(top.child("versions")),
        made_s=0.0 if top.get("made_s") is None else top.number("made_s", 0.0),
        path=file,
    )


def profile_json(profile: Profile) -> dict[str, Any]:
    """The JSON object of a profile, with every field of the format."""
    return {
        "version": VERSION,
        "device": profile.device,
        "model": profile.model,
        "dtype": profile.dtype,
        **({"weight_dtype": profile.weight_dtype} if profile.weight_dtype else {}),
        **({"kv_dtype": profile.kv_dtype} if profile.kv_dtype else {}),
        "tp": profile.tp,
        "kernels": {name: _kernel_json(kernel) for name, kernel in profile.kernels.items()},
        "links": {
            name: {"bytes_per_s": link.bytes_per_s, "setup_s": link.setup_s}
            for name, link in profile.links.items()
        },
        "host": {
            "step_s": profile.host.step_s,
            "per_sequence_s": profile.host.per_sequence_s,
            "origin": profile.host.origin,
            **{name: value for name in _OPTIONAL_HOST if (value := getattr(profile.host, name))},
        },
        **({"graphs": _graphs_json(profile.graphs)} if profile.graphs else {}),
        "memory": profile.memory,
        "quality": profile.quality,
        "fit": profile.fit,
        "range": profile.range,
        **({"assumed": profile.assumed} if profile.assumed else {}),
        "sources": profile.sources,
        "versions": profile.versions,
        **({"yardstick": profile.yardstick} if profile.yardstick else {}),
        "made_s": profile.made_s,
    }


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as JSON, one kernel or section to a line; checks it first."""
    data = profile_json(profile)
    parse_profile(data, str(path))
    kernels = ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in data.pop("kernels").items())
    rest = ",\n".join(f' "{k}": {json.dumps(v)}' for k, v in data.items())
    text = f'{{\n{rest},\n "kernels": {{\n{kernels}\n }}\n}}\n'
    Path(path).write_text(text, encoding="utf-8")


def _kernel_json(kernel: Kernel) -> dict[str, Any]:
    if kernel.model is not None:
        coefficients = kernel.coefficients
        return {
            "axes": {},
            "seconds": None,
            "model": kernel.model,
            "coefficients": coefficients,
        }
    return {"axes": kernel.axes, "seconds": kernel.seconds, "model": None}


def _graphs_json(graphs: Graphs) -> dict[str, Any]:
    mixed = [list(size) for size in graphs.mixed]
    return {"decodes": list(graphs.decodes), "mixed": mixed, "chunks": graphs.chunks}


class _Reader:
    """One JSON object with the path to it, so that every error can name its field."""

    def __init__(self, data: object, file: str, path: str) -> None:
        self.file, self.path = file, path
        if not isinstance(data, dict):
            raise InputError("expected an object", file=file, field=path)
        self.data: dict[str, Any] = data

    def fail(self, key: str, expected: str) -> None:
        """Raise InputError for one field."""
        place = f"{self.path}.{key}" if self.path else key
        found = "" if key not in self.data else f", found {str(self.data[key])[:40]}"
        raise InputError(expected + found, file=self.file, field=place)

    def get(self, key: str) -> Any:
        """The value, or None where it is absent."""
        return self.data.get(key)

    def only(self, known: Iterable[str], what: str = "field") -> None:
        """Refuse every field that is not among those known."""
        for key in self.data:
            if key not in known:
                place = f"{self.path}.{key}"
                message = f"unknown {what}; known: {', '.join(known)}"
                raise InputError(message, file=self.file, field=place)

    def child(self, key: str) -> _Reader:
        """The object under `key`."""
        if not isinstance(self.get(key), dict):
            self.fail(key, "expected an object")
        return _Reader(self.data[key], self.file, f"{self.path}.{key}" if self.path else key)

    def text(self, key: str) -> str:
        """The non-empty string under `key`."""
        if not isinstance(self.get(key), str) or not self.data[key]:
            self.fail(key, "expected a string")
        return str(self.data[key])

    def texts(self, key: str) -> list[str]:
        """The strings under `key`; none where it is absent."""
        values = [] if self.get(key) is None else self.data[key]
        if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
            self.fail(key, "expected a list of strings")
        return list(values)

    def one_byte(self, key: str, known: tuple[str, ...]) -> str:
        """The optional dtype of 8 bits under `key`, one of `known`; empty where there is none."""
        if self.get(key) is None:
            return ""
        if self.get(key) not in known:
            self.fail(key, f"expected {'one of ' * (len(known) > 1)}{', '.join(known)}")
        return str(self.data[key])

    def number(self, key: str, least: float) -> float:
        """The finite number under `key`, `least` or more."""
        if not _is_number(self.get(key), least):
            self.fail(key, f"expected a number >= {least:g}")
        return float(self.data[key])

    def whole(self, key: str, least: int) -> int:
        """The whole number under `key`, `least` or more."""
        if not _is_number(self.get(key), least) or self.data[key] % 1:
            self.fail(key, f"expected a whole number >= {least}")
        return int(self.data[key])

    def numbers(self, key: str) -> tuple[float, ...]:
        """The non-empty list of numbers >= 0 under `key`."""
        values = self.get(key)
        if not isinstance(values, list | tuple) or not values:
            self.fail(key, "expected a list of numbers")
        if not all(_is_number(value, 0.0) for value in self.data[key]):
            self.fail(key, "expected numbers >= 0")
        return tuple(float(value) for value in self.data[key])


def _is_number(value: object, least: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and least <= value <= sys.float_info.max
    )


def _kernel(reader: _Reader, name: str) -> Kernel:
    if reader.get("model") is not None:
        return _smooth(reader, name)
    axes_reader = reader.child("axes")
    if set(axes_reader.data) != set(AXES[name]):
        reader.fail("axes", f"expected {' and '.join(AXES[name])}")
    axes = {axis: _increasing(axes_reader, axis) for axis in AXES[name]}
    lengths = [len(axis) for axis in axes.values()]
    table = _table(reader, lengths)
    if name == "attention_idle" and any(a > b for a, b in pairwise(table)):
        reader.fail("seconds", "expected numbers that do not fall")
    return Kernel(axes, table)


def _smooth(reader: _Reader, name: str) -> Kernel:
    model, expected = reader.text("model"), _model_of(name)
    if model != expected:
        reader.fail("model", f"expected {expected or 'a table'}")
    coefficients = reader.child("coefficients")
    return Kernel(
        {},
        None,
        model,
        {name: coefficients.number(name, 0.0) for name in MODELS[model]},
    )


def _model_of(name: str) -> str | None:
    """The named model that can stand for a kernel's table."""
    if name == "attention_prefill":
        return "causal_linear"
    return "linear" if len(AXES[name]) == 1 else None


def _increasing(reader: _Reader, key: str) -> tuple[float, ...]:
    values = reader.numbers(key)
    if any(a >= b for a, b in pairwise(values)):
        reader.fail(key, "expected increasing numbers")
    return values


def _table(reader: _Reader, lengths: list[int]) -> tuple[Any, ...]:
    if len(lengths) == 1:
        flat = reader.numbers("seconds")
        if len(flat) != lengths[0]:
            reader.fail("seconds", f"expected {lengths[0]} numbers, one per axis point")
        return flat
    rows = reader.get("seconds")
    if not isinstance(rows, list | tuple) or len(rows) != lengths[0]:
        reader.fail("seconds", f"expected {lengths[0]} rows")
    names = {str(index): row for index, row in enumerate(reader.data["seconds"])}
    inner = _Reader(names, reader.file, f"{reader.path}.seconds")
    table = tuple(inner.numbers(index) for index in names)
    for index, row in enumerate(table):
        if len(row) != lengths[1]:
            inner.fail(str(index), f"expected {lengths[1]} numbers")
    return table


def _fit(reader: _Reader) -> dict[str, Any]:
    for name in reader.data:
        entry = reader.child(name)
        for key, value in entry.data.items():
            if value is not None and not _is_number(value, 0.0):
                entry.fail(key, "expected a number >= 0 or null")
    return reader.data


def _yardstick(reader: _Reader) -> dict[str, Any]:
    if reader.data and not reader.number("yardstick_s", 0.0):
        reader.fail("yardstick_s", "expected a number > 0")
    return reader.data


def _texts(reader: _Reader) -> dict[str, str]:
    return {name: reader.text(name) for name in reader.data}


def _range(reader: _Reader) -> dict[str, Any]:
    for name in reader.data:
        bounds = reader.child(name)
        for axis in bounds.data:
            if len(_increasing(bounds, axis)) != 2:
                bounds.fail(axis, "expected [first, last]")
    return reader.data


def _quality(reader: _Reader) -> dict[str, Any]:
    for bits in reader.data:
        measures = reader.child(bits)
        for key, least in (("kl", 0.0), ("perplexity_change", -1.0)):
            value = measures.get(key)
            if value is not None and not _is_number(value, least):
                measures.fail(key, f"expected a number >= {least:g} or null")
    return reader.data


_SECTIONS: Mapping[str, Callable[[_Reader], dict[str, Any]]] = {
    "memory": lambda reader: reader.data,
    "quality": _quality,
    "fit": _fit,
    "range": _range,
    "assumed": _texts,
    "yardstick": _yardstick,
}


def _links(reader: _Reader) -> dict[str, Link]:
    """Both directions, and `both` where it was measured."""
    reader.only((*_DIRECTIONS, "both"))
    links = {name: _link(reader.child(name)) for name in _DIRECTIONS}
    if reader.get("both") is not None:
        least = LEAST_BOTH_SHARE * min(link.bytes_per_s for link in links.values())
        links["both"] = both = _link(reader.child("both"))
        if both.bytes_per_s < least:
            reader.child("both").fail("bytes_per_s", f"expected a number >= {least:g}")
    return links


def _link(reader: _Reader) -> Link:
    if reader.number("bytes_per_s", 0.0) == 0.0:
        reader.fail("bytes_per_s", "expected a number > 0")
    return Link(reader.number("bytes_per_s", 0.0), reader.number("setup_s", 0.0))


def _graphs(reader: _Reader) -> Graphs:
    reader.only(_GRAPHS)
    decodes = tuple(int(size) for size in _increasing(reader, "decodes"))
    if any(size < 1 or size % 1 for size in reader.data["decodes"]):
        reader.fail("decodes", "expected whole numbers >= 1")
    pairs = reader.get("mixed")
    if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        reader.fail("mixed", "expected pairs of whole numbers: rows, decodes among them")
    mixed = tuple(MixedGraph(*pair) for pair in reader.data["mixed"])
    if any(a >= b for a, b in pairwise(mixed)) or any(rows < least for rows, least in mixed):
        reader.fail("mixed", "expected increasing pairs of rows and no more decodes")
    return Graphs(decodes, mixed, reader.whole("chunks", 0))


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(size, int) and _is_number(size, 0.0) for size in value)
    )


def _host(reader: _Reader) -> HostCost:
    reader.only(_HOST)
    if reader.get("origin") not in ORIGINS:
        reader.fail("origin", f"expected one of {', '.join(ORIGINS)}")
    step_s, per_sequence_s = (
        reader.number("step_s", 0.0),
        reader.number("per_sequence_s", 0.0),
    )
    more = {name: reader.number(name, 0.0) for name in _OPTIONAL_HOST if name in reader.data}
    return HostCost(step_s, per_sequence_s, reader.text("origin"), **more)
