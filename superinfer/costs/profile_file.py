"""The file of a profile: read and checked, and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from superinfer.costs.devices import Link
from superinfer.costs.graphs import Graphs, MixedGraph
from superinfer.costs.json_reader import Reader
from superinfer.costs.profile import (
    AXES,
    HOST_TIMES,
    MODELS,
    OPTIONAL_HOST_TIMES,
    ORIGINS,
    HostCost,
    Kernel,
    Profile,
)
from superinfer.costs.shapes import CACHE_DTYPES, ONE_BYTE_DTYPES
from superinfer.errors import InputError
from superinfer.settings import is_number

VERSION = 1
_DIRECTIONS = ("h2d", "d2h")
_LINK = ("bytes_per_s", "setup_s")
_HOST = (*HOST_TIMES, "origin")
_GRAPHS = ("decodes", "mixed", "chunks")
_MEMORY = ("device_bytes", "kv_blocks", "block_tokens", "copy_bytes_per_s", "gemm_flops")
_KERNEL = ("axes", "seconds", "model", "coefficients")
_TOP = (
    *("version", "device", "model", "dtype", "weight_dtype", "kv_dtype", "tp"),
    *("kernels", "links", "host", "graphs", "sources", "versions", "made_s"),
)
"""Beside `_SECTIONS`, whose tables are open: what they hold is kept as it is."""
LEAST_BYTES_PER_S = 1.0
"""Of a link: what is slower takes for ever."""
LEAST_BOTH_SHARE = 1e-6
"""Of a direction's speed, what copies both ways at once leave of it at least."""


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile; InputError names the file, the field and what was expected."""
    try:
        content = Path(path).read_bytes()
        data = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {error}", file=str(path)) from None
    return parse_profile(data, str(path), hashlib.sha256(content).hexdigest())


def parse_profile(data: object, file: str = "", sha256: str = "") -> Profile:
    """Check decoded JSON and build the profile; raises InputError like `load_profile`.

    Fields and kernels that are not known are left out, and one of its `notes` names them. `sha256`
    is of the bytes of the file.
    """
    top = Reader(data, file, "")
    if top.get("version") != VERSION:
        top.fail("version", f"expected {VERSION}")
    top.known((*_TOP, *_SECTIONS))
    kernels = top.child("kernels")
    return Profile(
        device=top.text("device"),
        model=top.text("model"),
        tp=top.whole("tp", 1),
        kernels={name: _kernel(kernels.child(name), name) for name in kernels.known(AXES)},
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
        sha256=sha256,
        notes=_notes(file, top.ignored),  # the last, for by now all has been read
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
        "host": _host_json(profile.host),
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


def _host_json(host: HostCost) -> dict[str, Any]:
    optional = {name: getattr(host, name) for name in OPTIONAL_HOST_TIMES}
    return {
        "step_s": host.step_s,
        "per_sequence_s": host.per_sequence_s,
        "origin": host.origin,
        **{name: seconds for name, seconds in optional.items() if seconds},
    }


def _graphs_json(graphs: Graphs) -> dict[str, Any]:
    mixed = [list(size) for size in graphs.mixed]
    return {"decodes": list(graphs.decodes), "mixed": mixed, "chunks": graphs.chunks}


# -- inside ---------------------------------------------------------------------------------------


def _notes(file: str, ignored: list[str]) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (f"{file or 'profile'}: ignored as unknown: {', '.join(ignored)}",)


def _kernel(reader: Reader, name: str) -> Kernel:
    reader.known(_KERNEL)
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


def _smooth(reader: Reader, name: str) -> Kernel:
    model, expected = reader.text("model"), _model_of(name)
    if model != expected:
        reader.fail("model", f"expected {expected or 'a table'}")
    coefficients = reader.child("coefficients")
    coefficients.known(MODELS[model])
    return Kernel(
        {},
        None,
        model,
        {name: coefficients.seconds(name) for name in MODELS[model]},
    )


def _model_of(name: str) -> str | None:
    """The named model that can stand for a kernel's table."""
    if name == "attention_prefill":
        return "causal_linear"
    return "linear" if len(AXES[name]) == 1 else None


def _increasing(reader: Reader, key: str) -> tuple[float, ...]:
    values = reader.numbers(key)
    if any(a >= b for a, b in pairwise(values)):
        reader.fail(key, "expected increasing numbers")
    return values


def _table(reader: Reader, lengths: list[int]) -> tuple[Any, ...]:
    if len(lengths) == 1:
        flat = reader.times("seconds")
        if len(flat) != lengths[0]:
            reader.fail("seconds", f"expected {lengths[0]} numbers, one per axis point")
        return flat
    rows = reader.get("seconds")
    if not isinstance(rows, list | tuple) or len(rows) != lengths[0]:
        reader.fail("seconds", f"expected {lengths[0]} rows")
    names = {str(index): row for index, row in enumerate(reader.data["seconds"])}
    inner = Reader(names, reader.file, f"{reader.path}.seconds")
    table = tuple(inner.times(index) for index in names)
    for index, row in enumerate(table):
        if len(row) != lengths[1]:
            inner.fail(str(index), f"expected {lengths[1]} numbers")
    return table


def _fit(reader: Reader) -> dict[str, Any]:
    for name in reader.data:
        entry = reader.child(name)
        for key, value in entry.data.items():
            if value is not None and not is_number(value, 0.0):
                entry.fail(key, "expected a number >= 0 or null")
    return reader.data


def _memory(reader: Reader) -> dict[str, Any]:
    """Sizes and rates; null is not known."""
    for key, value in reader.data.items():
        if key in _MEMORY and value is not None and not is_number(value, 0.0):
            reader.fail(key, "expected a number >= 0 or null")
    if reader.get("kv_blocks"):
        reader.whole("kv_blocks", 1)
        reader.whole("block_tokens", 1)
    return reader.data


def _yardstick(reader: Reader) -> dict[str, Any]:
    if reader.data and not reader.number("yardstick_s", 0.0):
        reader.fail("yardstick_s", "expected a number > 0")
    return reader.data


def _texts(reader: Reader) -> dict[str, str]:
    return {name: reader.text(name) for name in reader.data}


def _range(reader: Reader) -> dict[str, Any]:
    for name in reader.data:
        bounds = reader.child(name)
        for axis in bounds.data:
            if len(_increasing(bounds, axis)) != 2:
                bounds.fail(axis, "expected [first, last]")
    return reader.data


def _quality(reader: Reader) -> dict[str, Any]:
    for bits in reader.data:
        measures = reader.child(bits)
        for key, least in (("kl", 0.0), ("perplexity_change", -1.0)):
            value = measures.get(key)
            if value is not None and not is_number(value, least):
                measures.fail(key, f"expected a number >= {least:g} or null")
    return reader.data


_SECTIONS: Mapping[str, Callable[[Reader], dict[str, Any]]] = {
    "memory": _memory,
    "quality": _quality,
    "fit": _fit,
    "range": _range,
    "assumed": _texts,
    "yardstick": _yardstick,
}


def _links(reader: Reader) -> dict[str, Link]:
    """Both directions, and `both` where it was measured: it may be empty."""
    reader.known((*_DIRECTIONS, "both"))
    links = {name: _link(reader.child(name), LEAST_BYTES_PER_S) for name in _DIRECTIONS}
    if reader.get("both") not in (None, {}):
        least = LEAST_BOTH_SHARE * min(link.bytes_per_s for link in links.values())
        links["both"] = _link(reader.child("both"), least)
    return links


def _link(reader: Reader, least_bytes_per_s: float) -> Link:
    reader.known(_LINK)
    return Link(reader.number("bytes_per_s", least_bytes_per_s), reader.seconds("setup_s"))


def _graphs(reader: Reader) -> Graphs:
    reader.known(_GRAPHS)
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
        and all(isinstance(size, int) and is_number(size, 0.0) for size in value)
    )


def _host(reader: Reader) -> HostCost:
    reader.known(_HOST)
    if reader.get("origin") not in ORIGINS:
        reader.fail("origin", f"expected one of {', '.join(ORIGINS)}")
    step_s, per_sequence_s = reader.seconds("step_s"), reader.seconds("per_sequence_s")
    more = {name: reader.seconds(name) for name in OPTIONAL_HOST_TIMES if name in reader.data}
    return HostCost(step_s, per_sequence_s, reader.text("origin"), **more)
