"""The profile file: what calibration writes and the calibrated cost model reads.

A profile is for one device, model and tensor-parallel degree. Everything is in seconds and bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from superinfer.costs.devices import Link
from superinfer.costs.graphs import Graphs, MixedGraph
from superinfer.costs.shapes import ONE_BYTE_DTYPES
from superinfer.errors import InputError

VERSION = 1
PARTLY_FITTED = "partly fitted"
"""Of a host whose `chunked_s` was fitted to a run, while the rest is assumed."""
ORIGINS = ("measured", "published", "assumed", PARTLY_FITTED)
_OPTIONAL_HOST = ("launch_s", "chunked_s")

# Axes that each kernel is measured over. `seconds` are per layer where a kernel belongs to one.
AXES: Mapping[str, tuple[str, ...]] = {
    **{f"gemm_{part}": ("tokens",) for part in ("qkv", "o", "gate_up", "down", "lm_head")},
    **dict.fromkeys(("norm", "rope_write", "activation", "embed"), ("tokens",)),
    **dict.fromkeys(("moe_route", "moe_gemm"), ("tokens",)),
    "attention_prefill": ("chunk_tokens", "context_tokens"),
    **{f"attention_decode_{bits}": ("sequences", "context_tokens") for bits in (16, 8, 4)},
    "attention_mixed_16": ("sequences", "context_tokens"),
    "attention_idle": ("sequence_tokens",),
    "attention_uneven": ("sequences",),
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
    kernels, links = top.child("kernels"), top.child("links")
    return Profile(
        device=top.text("device"),
        model=top.text("model"),
        tp=int(top.number("tp", 1)),
        kernels={name: _kernel(kernels.child(name), name) for name in kernels.data},
        links={name: _link(links.child(name)) for name in links.data if links.get(name)},
        host=_host(top.child("host")),
        dtype=top.text("dtype"),
        graphs=_graphs(top.child("graphs")) if top.get("graphs") else None,
        weight_dtype=top.one_byte("weight_dtype"),
        kv_dtype=top.one_byte("kv_dtype"),
        **{name: check(top.child(name)) for name, check in _SECTIONS.items() if name in top.data},
        sources=list(top.get("sources") or ()),
        versions=dict(top.get("versions") or {}),
        made_s=float(top.get("made_s") or 0.0),
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

    def one_byte(self, key: str) -> str:
        """The optional dtype of 8 bits under `key`; empty where there is none."""
        if self.get(key) is None:
            return ""
        if self.get(key) not in ONE_BYTE_DTYPES:
            self.fail(key, f"expected one of {', '.join(ONE_BYTE_DTYPES)}")
        return str(self.data[key])

    def number(self, key: str, least: float) -> float:
        """The finite number under `key`, `least` or more."""
        if not _is_number(self.get(key), least):
            self.fail(key, f"expected a number >= {least:g}")
        return float(self.data[key])

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
        and least <= value < float("inf")
    )


def _kernel(reader: _Reader, name: str) -> Kernel:
    if name not in AXES:
        raise InputError(
            f"unknown kernel; known: {', '.join(AXES)}",
            file=reader.file,
            field=reader.path,
        )
    if reader.get("model") is not None:
        return _smooth(reader)
    axes_reader = reader.child("axes")
    if set(axes_reader.data) != set(AXES[name]):
        reader.fail("axes", f"expected {' and '.join(AXES[name])}")
    axes = {axis: _increasing(axes_reader, axis) for axis in AXES[name]}
    lengths = [len(axis) for axis in axes.values()]
    return Kernel(axes, _table(reader, lengths))


def _smooth(reader: _Reader) -> Kernel:
    model = reader.text("model")
    if model not in MODELS:
        reader.fail("model", f"expected one of {', '.join(MODELS)}")
    coefficients = reader.child("coefficients")
    return Kernel(
        {},
        None,
        model,
        {name: coefficients.number(name, 0.0) for name in MODELS[model]},
    )


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


def _assumed(reader: _Reader) -> dict[str, Any]:
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
    "assumed": _assumed,
}


def _link(reader: _Reader) -> Link:
    if reader.number("bytes_per_s", 0.0) == 0.0:
        reader.fail("bytes_per_s", "expected a number > 0")
    return Link(reader.number("bytes_per_s", 0.0), reader.number("setup_s", 0.0))


def _graphs(reader: _Reader) -> Graphs:
    decodes = tuple(int(size) for size in _increasing(reader, "decodes"))
    pairs = reader.get("mixed")
    if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        reader.fail("mixed", "expected pairs of whole numbers: rows, decodes among them")
    mixed = tuple(MixedGraph(*pair) for pair in reader.data["mixed"])
    if any(a >= b for a, b in pairwise(mixed)) or any(rows < least for rows, least in mixed):
        reader.fail("mixed", "expected increasing pairs of rows and no more decodes")
    return Graphs(decodes, mixed, int(reader.number("chunks", 0.0)))


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(size, int) and _is_number(size, 0.0) for size in value)
    )


def _host(reader: _Reader) -> HostCost:
    if reader.get("origin") not in ORIGINS:
        reader.fail("origin", f"expected one of {', '.join(ORIGINS)}")
    step_s, per_sequence_s = (
        reader.number("step_s", 0.0),
        reader.number("per_sequence_s", 0.0),
    )
    more = {name: reader.number(name, 0.0) for name in _OPTIONAL_HOST if name in reader.data}
    return HostCost(step_s, per_sequence_s, reader.text("origin"), **more)
