"""Build a profile from a folder of measurements.

Every table is non-decreasing and thinned to the knots that keep it within half a percent; its error
is measured on points that were held out of the fit (every third one in turn, never an end point).
The final tables use all points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from superinfer.costs import DEFAULT_HOST, ModelShape, load_device
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.profile import Kernel, Profile, decode_kernel
from superinfer.costs.profile_file import parse_profile, profile_json, write_profile
from superinfer.costs.shapes import canonical_name
from superinfer.errors import ConfigError, InputError
from superinfer.lab.profiles import serving_sim
from superinfer.lab.profiles.fits import Fitted
from superinfer.lab.profiles.kernels import (
    Entry,
    GemmTable,
    attention_rows,
    context_form_error,
    fit_all_reduce,
    fit_decode,
    fit_experts,
    fit_gemm,
    fit_prefill,
    gemm_dtype,
    gemm_shapes,
)
from superinfer.lab.profiles.measurements import LAYOUT, Measurements, holds_measurements
from superinfer.lab.profiles.pointwise import (
    END_TOKENS,
    Piece,
    fit_pointwise,
    pieces,
    scaling_error,
    streaming_kernels,
)
from superinfer.lab.profiles.sources import describe
from superinfer.outputs import replacing


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of folder that profiles can be built from."""

    layout: str
    """What such a folder holds, for the user."""
    recognises: Callable[[Path], bool]
    build: Callable[[Path, str, ModelShape, int], Profile]


def build_profile(folder: Path, device: str, shape: ModelShape, tp: int) -> Profile:
    """The profile of a model on `tp` GPUs of a device, from any folder that `SOURCES` knows.

    Raises InputError for a folder or a file that cannot be used, ConfigError for a device, model or
    degree that was not measured there.
    """
    _require_decoder(shape, tp)
    for source in SOURCES:
        if source.recognises(folder):
            return source.build(folder, load_device(device).name, shape, tp)
    known = ", or ".join(source.layout for source in SOURCES)
    raise InputError(f"expected {known}", file=str(folder))


def save_profile(profile: Profile, path: Path) -> None:
    """Write a profile whole or not at all."""
    parse_profile(profile_json(profile), str(path))  # a fault names this file, not the staged one
    with replacing(path) as staged:
        write_profile(profile, staged)


def from_measurements(folder: Path, device: str, shape: ModelShape, tp: int) -> Profile:
    """A profile from aiconfigurator's and Vidur's per-kernel measurements."""
    data, spec = Measurements(folder, device), load_device(device)
    parts = {kernel: pieces(data, shape, tp, kernel) for kernel in streaming_kernels(shape)}
    kernels = _fit_kernels(data, shape, tp, parts)
    return Profile(
        device=device,
        model=canonical_name(shape.name),
        tp=tp,
        weight_dtype=shape.weight_dtype,
        kv_dtype=shape.kv_dtype,
        kernels={name: each.fitted.kernel for name, each in kernels.items()}
        | {"sample": sampling(shape, spec)},
        links={"h2d": spec.h2d, "d2h": spec.d2h},
        host=DEFAULT_HOST,
        memory={"device_bytes": spec.memory_bytes, "kv_blocks": None, "block_tokens": 16},
        quality={"8": {"kl": None, "perplexity_change": None}, "4": {}},
        fit={name: each.fitted.entry() | each.extra for name, each in kernels.items()},
        range={name: each.range for name, each in reversed(kernels.items()) if each.range},
        assumed={name: each.assumed for name, each in kernels.items() if each.assumed},
        sources=describe(data, shape, tp, parts),
        versions={"vllm": data.files.vllm},
    )


def sampling(shape: ModelShape, spec: DeviceSpec) -> Kernel:
    """Assumed: a launch cost and two passes over 32-bit logits per sequence."""
    per_row = 2 * 4 * shape.vocab / spec.memory_bytes_per_s
    coefficients = {"base_s": 25e-6, "per_unit_s": float(f"{per_row:.4g}")}
    return Kernel({}, None, "linear", coefficients)


SOURCES = (
    Source(LAYOUT, holds_measurements, from_measurements),
    Source(serving_sim.LAYOUT, serving_sim.holds_tables, serving_sim.from_tables),
)


@dataclass(frozen=True, slots=True)
class _Fit:
    """One kernel: the fit, what its entry says beside the held-out error, the measured range."""

    fitted: Fitted
    extra: Entry = field(default_factory=dict)
    range: dict[str, list[int]] = field(default_factory=dict)
    assumed: str = ""
    """What stands in for a shape that lies outside the measured ones."""


def _fit_kernels(
    data: Measurements, shape: ModelShape, tp: int, parts: dict[str, tuple[Piece, ...]]
) -> dict[str, _Fit]:
    tables = {dtype: GemmTable(data, dtype) for dtype in {"", shape.weight_dtype}}
    found = {
        kernel: _fit_gemm(tables[gemm_dtype(shape, kernel)], shape, tp, kernel)
        for kernel in gemm_shapes(shape, tp)
    }
    head = found.pop("gemm_lm_head")
    if shape.experts:
        fitted, stand_in = fit_experts(data, shape, tp)
        found["moe_gemm"] = _Fit(fitted, assumed=stand_in)
    found |= {kernel: _fit_pointwise(data, parts[kernel], kernel) for kernel in parts}
    found["gemm_lm_head"] = head
    if tp > 1:
        found["all_reduce"] = _Fit(fit_all_reduce(data, tp))
    return found | _fit_attention(data, shape, tp)


def _fit_gemm(table: GemmTable, shape: ModelShape, tp: int, kernel: str) -> _Fit:
    gemm = gemm_shapes(shape, tp)[kernel]
    assumed = (
        f"n {gemm.n}, k {gemm.k} on the line of the nearest measured shapes, outside all of them"
        if table.outside(gemm)
        else ""
    )
    return _Fit(*fit_gemm(table, shape, tp, kernel), assumed=assumed)


def _fit_pointwise(data: Measurements, parts: tuple[Piece, ...], kernel: str) -> _Fit:
    fitted, measured_to = fit_pointwise(data, parts, kernel)
    extra, bounds = {}, {}
    if data.files.scaled_from:
        extra["scaling_mape"] = round(scaling_error(data, parts, kernel), 4)
    if measured_to < END_TOKENS:
        bounds["tokens"] = [1, int(measured_to)]
    stretched = [part for part in parts if part.stretch != 1.0]
    assumed = "".join(
        f"{part.model} at tp {part.tp}, scaled by {part.stretch:.4g}: a width outside the measured"
        for part in stretched
    )
    return _Fit(fitted, extra, bounds, assumed)


def _fit_attention(data: Measurements, shape: ModelShape, tp: int) -> dict[str, _Fit]:
    prefill, keys_end = fit_prefill(data, shape, tp)
    decode, context_end = fit_decode(data, shape, tp)
    form_error = context_form_error(data)
    extra = {} if form_error is None else {"context_form_mape": round(form_error, 4)}
    stands_in = {
        phase: attention_rows(data, phase, shape, tp)[1] for phase in ("context", "generation")
    }
    keys, contexts = [1, int(keys_end)], [1, int(context_end)]
    return {
        "attention_prefill": _Fit(prefill, extra, {"keys": keys}, stands_in["context"]),
        decode_kernel(shape.kv_dtype): _Fit(
            decode, {}, {"total_context_tokens": contexts}, stands_in["generation"]
        ),
    }


def _require_decoder(shape: ModelShape, tp: int) -> None:
    """Refuse what these kernels do not make up: an encoder beside the decoder."""
    shape.require_tp(tp)
    if shape.encoder_layers:
        raise ConfigError(f"{shape.name}: profiles are built for decoder-only models")
