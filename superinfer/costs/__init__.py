"""Cost models: how long a step and a transfer take, from nominal figures or from a profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from superinfer.costs.base import Chunk, CostModel, PrefillWork, SliceLine
from superinfer.costs.calibrated import CalibratedCost
from superinfer.costs.capacity import LargestStep, activation_reserve_bytes, kv_capacity_blocks
from superinfer.costs.coverage import Coverage, Limits
from superinfer.costs.device_file import read_device
from superinfer.costs.devices import DEVICES, DeviceSpec, load_device
from superinfer.costs.encoder_decoder import EncoderDecoderCost
from superinfer.costs.flexgen import FlexGenCost
from superinfer.costs.flexgen_placement import Placement
from superinfer.costs.flexgen_search import best_placement
from superinfer.costs.profile import HostCost, Profile
from superinfer.costs.profile_file import load_profile, write_profile
from superinfer.costs.roofline import RooflineCost
from superinfer.costs.shapes import PRESETS, ModelShape, canonical_name, load_shape
from superinfer.costs.step import DEFAULT_HOST, StepCost, between_s, hides_host
from superinfer.errors import ConfigError
from superinfer.settings import did_you_mean

__all__ = [
    "DEFAULT_HOST",
    "DEVICES",
    "PRESETS",
    "CalibratedCost",
    "Chunk",
    "CostModel",
    "Coverage",
    "DeviceSpec",
    "EncoderDecoderCost",
    "FlexGenCost",
    "HostCost",
    "LargestStep",
    "Limits",
    "ModelShape",
    "Placement",
    "PrefillWork",
    "Profile",
    "ProfileName",
    "RooflineCost",
    "SliceLine",
    "StepCost",
    "activation_reserve_bytes",
    "between_s",
    "build_cost",
    "find_device",
    "hides_host",
    "kv_capacity_blocks",
    "list_profiles",
    "load_device",
    "load_profile",
    "load_shape",
    "write_profile",
]


class ProfileName(NamedTuple):
    """A shipped profile: what it is for, and its file."""

    device: str
    model: str
    tp: int
    path: Path


def list_profiles() -> list[ProfileName]:
    """The shipped profiles, by file name alone."""
    return [_profile_name(path) for path in sorted(_folder().glob("*_tp*.json"))]


def build_cost(
    model: str | ModelShape,
    device: str | DeviceSpec,
    tp: int = 1,
    costs: str = "auto",
    host: HostCost | None = None,
    placement: Placement | None = None,
    link_bytes_per_s: float | None = None,
) -> StepCost:
    """The cost model for a run. `host` replaces the host overhead, `link_bytes_per_s` the speed of
    the link to the host, both ways.

    `costs`: `auto` (a shipped profile where there is one, else roofline), `roofline`, `calibrated`
    (a shipped profile or ConfigError) or the path of a profile. With a `placement` that gives the
    times of compute, and FlexGen's streaming is put around them (`flexgen`: around the roofline).
    """
    shape = load_shape(model) if isinstance(model, str) else model
    if costs == "flexgen" and placement is None:
        raise ConfigError("costs='flexgen': expected a scheduler with a placement: flexgen")
    spec = load_device(device) if isinstance(device, str) else device
    cost = _compute(shape, spec, tp, "roofline" if costs == "flexgen" else costs, host)
    if placement is not None:
        if placement.search_tokens is not None:
            placement = best_placement(cost, spec, placement, link_bytes_per_s)
        cost = FlexGenCost(cost, spec, placement)
    if link_bytes_per_s is not None:
        cost.set_link(link_bytes_per_s)
    return cost


def find_device(name: str, costs: str = "auto") -> DeviceSpec:
    """A preset by name, a TOML file of nominal figures, or a device that the profile `costs` was
    measured on, as that found it: of a preset its memory.

    Raises ConfigError for one that is none of them, InputError for a file that cannot be used.
    """
    if name.endswith(".toml"):
        return read_device(Path(name))
    profile = _profile_of(name, costs)
    if profile is None:
        return load_device(name)
    if _device_key(name) not in DEVICES:
        return _measured(profile)
    preset, measured = load_device(name), int(profile.memory.get("device_bytes") or 0)
    return replace(preset, memory_bytes=measured or preset.memory_bytes)


def _profile_of(device: str, costs: str) -> Profile | None:
    """The profile in the file `costs`, if it is one of the device."""
    path = Path(costs)
    if path.suffix != ".json" or not path.is_file():
        return None
    profile = load_profile(path)
    return profile if _device_key(profile.device) == _device_key(device) else None


def _measured(profile: Profile) -> DeviceSpec:
    """The figures that a profile has of its device; 0 for those that it lacks."""
    known = profile.memory
    link = profile.links["h2d"]
    return DeviceSpec(
        profile.device,
        int(known.get("device_bytes") or 0),
        float(known.get("copy_bytes_per_s") or 0.0),
        float(known.get("gemm_flops") or 0.0),
        link,
        profile.links.get("d2h", link),
        0.0,
        0.0,
    )


def _compute(
    shape: ModelShape, device: str | DeviceSpec, tp: int, costs: str, host: HostCost | None
) -> StepCost:
    """The cost model of a device that holds everything."""
    if costs not in ("auto", "roofline", "calibrated"):
        return _from_file(costs, shape, device, tp, host)
    spec = load_device(device) if isinstance(device, str) else device
    shape.require_tp(tp)
    path = None if costs == "roofline" else _shipped(shape, spec, tp)
    if path is not None:
        return CalibratedCost(load_profile(path), shape, host)
    if costs == "calibrated":
        shipped = ", ".join(name.path.stem for name in list_profiles())
        raise ConfigError(f"no profile for {spec.name}, {shape.name}, tp={tp}; shipped: {shipped}")
    kind = EncoderDecoderCost if shape.encoder_layers else RooflineCost
    return kind(shape, spec, tp, host or DEFAULT_HOST)


_NAMED = ("auto", "roofline", "calibrated", "flexgen")


def _from_file(
    path: str,
    shape: ModelShape,
    device: str | DeviceSpec,
    tp: int,
    host: HostCost | None,
) -> StepCost:
    if not Path(path).is_file():
        expected = "expected auto, roofline, calibrated, flexgen or a profile file"
        hint = "" if Path(path).suffix else did_you_mean(path, _NAMED)
        raise ConfigError(f"costs={path!r}: {expected}{hint}")
    profile = load_profile(path)
    wanted = device if isinstance(device, str) else device.name
    found = (_device_key(profile.device), profile.tp)
    if found != (_device_key(wanted), tp):
        raise ConfigError(
            f"{path} is for {profile.device} at tp={profile.tp}, not for {wanted} at tp={tp}"
        )
    return CalibratedCost(profile, shape, host)


def _shipped(shape: ModelShape, device: DeviceSpec, tp: int) -> Path | None:
    wanted = (device.name, canonical_name(shape.name), tp)
    return next((name.path for name in list_profiles() if name[:3] == wanted), None)


def _profile_name(path: Path) -> ProfileName:
    device, model, tp = path.stem.split("_")
    return ProfileName(device, model, int(tp.removeprefix("tp")), path)


def _folder() -> Path:
    return Path(__file__).parent / "profiles"


def _device_key(name: str) -> str:
    return name.lower().removesuffix("-sxm")
