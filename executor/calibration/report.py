"""A profile in a few lines of text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from executor.calibration.factors import HIGHEST, LOWEST, factors_of
from superinfer.costs.profile import Profile

UNSTEADY = 0.2
"""Half of the kernels of a quiet device spread by less."""
FAR_OFF = 0.25
"""Of steps, in the mean: five times what a profile of a GPU may be off, and two and a half times
what one of a shared CPU may.
"""


def warnings_of(profile: Profile) -> list[str]:
    """What is wrong with a profile as a whole, a line for each."""
    return list(filter(None, (_unsteady(profile), _far_off(profile))))


def _unsteady(profile: Profile) -> str:
    """A warning if timings were all over the place; else nothing."""
    spreads = [entry["spread"] for entry in profile.fit.values() if entry.get("spread") is not None]
    middle = median(spreads) if spreads else 0.0
    if middle <= UNSTEADY:
        return ""
    return (
        f"warning: timings of the same work differ by {middle:.0%}: something else runs on this "
        "device, and the profile is no better than that"
    )


def _far_off(profile: Profile) -> str:
    """A warning if steps take other times than the profile says; else nothing."""
    error = profile.fit.get("step", {}).get("heldout_mape") or 0.0
    if error <= FAR_OFF:
        return ""
    return (
        f"warning: steps that were measured beside are {error:.0%} off: simulate nothing by this "
        "profile; calibrate where nothing else runs, and longer (--minutes)"
    )


def profile_lines(profile: Profile) -> Iterator[str]:
    """What was measured and how well it predicts."""
    yield f"{profile.model} ({profile.dtype}) on {profile.versions.get('device', profile.device)}"
    yield from _device_lines(profile)
    yield from _host_lines(profile)
    yield f"  {'':24} {'points':>6} {'spread':>7} {'error on held-out':>18}"
    for name, entry in profile.fit.items():
        if name == "in_step":
            yield from _factor_lines(entry)
        else:
            yield _fit_line(name, entry)


def profile_json(profile: Profile, path: Path, model: str) -> dict[str, Any]:
    """Where a profile is, what it is of, and what `--json` tells of its measurements."""
    measured = {name: entry for name, entry in profile.fit.items() if "points" in entry}
    return {
        "path": str(path),
        "device": profile.device,
        "model": profile.model,
        "dtype": profile.dtype,
        "points": {name: int(entry["points"]) for name, entry in measured.items()},
        "heldout_mape": {name: entry.get("heldout_mape") for name, entry in measured.items()},
        "kv_blocks": profile.memory["kv_blocks"],
        "simulate": simulation_of(profile, path, model),
    }


def simulation_of(profile: Profile, path: Path, model: str) -> str:
    """The command that simulates a trace by a profile, with the blocks that fit on the device."""
    settings = {
        "costs": path,
        "kv_blocks": profile.memory["kv_blocks"],
        "block_tokens": profile.memory["block_tokens"],
    }
    words = ["--model", model, "--device", profile.device]
    for key, value in settings.items():
        words += ["--set", f"run.{key}={value}"]
    return f"superinfer-sim run TRACE {shlex.join(words)}"


def _device_lines(profile: Profile) -> Iterator[str]:
    """Its memory, its arithmetic, its links and its graphs."""
    memory = profile.memory
    yield (
        f"  copy {memory['copy_bytes_per_s'] / 1e9:,.0f} GB/s, "
        f"read {memory['read_bytes_per_s'] / 1e9:,.0f} GB/s, "
        f"GEMM {memory['gemm_flops'] / 1e12:,.1f} TFLOP/s, "
        f"{memory['kv_blocks']:,} KV blocks of {memory['block_tokens']} tokens"
    )
    for way, link in profile.links.items():
        rate, setup = link.bytes_per_s / 1e9, link.setup_s * 1e6
        yield f"  {way:5} {rate:6.1f} GB/s, {setup:.1f} us per copy"
    if profile.graphs is not None:
        yield f"  graphs: {profile.graphs.words}"


def _host_lines(profile: Profile) -> Iterator[str]:
    """What a step costs beside the device, and how steady the clock was."""
    host = profile.host
    step_us, sequence_us = host.step_s * 1e6, host.per_sequence_s * 1e6
    yield f"  host  {step_us:.0f} us per step, {sequence_us:.1f} per sequence"
    if host.launch_s:
        yield f"  a step with chunks takes at least {host.launch_s * 1e3:.2f} ms to launch"
    if host.between_s:
        yield f"  steps queued ahead have {host.between_s * 1e6:.0f} us between them"
    if stick := profile.yardstick:
        yield (
            f"  steady clock: the yardstick took {stick['yardstick_s'] * 1e3:.2f} ms at first, "
            f"then {stick['median']:.2f} times that (90% of {stick['samples']:.0f} samples "
            f"{stick['p5']:.2f} to {stick['p95']:.2f})"
        )


def _factor_lines(entry: Mapping[str, float]) -> Iterator[str]:
    """How much longer parts take inside a step."""
    words = ", ".join(f"{part} {factor:.3f}" for part, factor in entry.items())
    yield f"  in a step against alone: {words}"
    if bounded := factors_of(entry).at_bounds:
        names = ", ".join(bounded)
        limits = f"{LOWEST:g} to {HIGHEST:g}"
        yield f"  {names}: not fitted, at the end of what is allowed ({limits})"


def _fit_line(name: str, entry: Mapping[str, float]) -> str:
    """One kernel, or steps as a whole."""
    error = entry.get("heldout_mape", entry.get("mean"))
    shown = "" if error is None else f"{error:18.1%}"
    if "heldout_mape" not in entry and "mean" in entry:
        shown += " (host time is fitted with these)"
    spread = entry.get("spread")
    return (
        f"  {name:24} {entry.get('points', 0):6.0f} "
        f"{'' if spread is None else f'{spread:7.1%}':>7} {shown}"
    )
