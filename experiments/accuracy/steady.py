"""Steady-state TTFT and TPOT against 153 measured points: `python -m experiments.accuracy steady`.

Every point is simulated with `vllm_v1` in a closed loop and a profile built from the kernel tables
of its device, model and degree. Writes `summary.json`, `results.md` and `scatter.png`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.accuracy.steady_page import page, write_scatter
from experiments.accuracy.steady_points import Point, read_points
from experiments.studykit.reading import data_folder
from experiments.studykit.record import SIMULATED, made_by, write_result
from sim.run import run_simulation
from superinfer.costs import load_device, load_profile, load_shape
from superinfer.costs.devices import GIB
from superinfer.costs.profile import Profile
from superinfer.lab.config import load_config
from superinfer.lab.profiles.build import build_profile, save_profile
from superinfer.lab.profiles.scale import with_kernels
from superinfer.metrics import RunMetrics

RESULTS = SIMULATED / "accuracy" / "steady"
VERSION = 1
"""Of the form of `summary.json`."""
HOST_STEP_MS = {"h100": 1.5, "h200": 1.5}
"""The one constant that was fitted: host time before a step. On the H200 scheduling ahead hides it,
so that any value under a step does."""
HOST_PER_SEQUENCE_US = 20.0
"""As `DEFAULT_HOST` assumes."""
UNSEEN_GIB = 2.0
"""Of a GPU, what the count of KV blocks does not see: CUDA's context, the buffers of NCCL, and what
a device holds less than its name says. Assumed."""
STEPS_MS = (1.0, 1.5, 2.0, 2.5, 3.0)
"""What `--calibrate` tries."""
WORST = 10
BARS = {"ttft": 0.12, "tpot": 0.05}
"""What the median error of each has to keep."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the simulator gives for a point."""

    ttft_ms: float
    tpot_ms: float
    later_ttft_ms: float
    """Without each client's first request, all of which come at once."""
    preemptions: int
    extrapolated_share: float
    assumed: tuple[str, ...]

    def error(self, point: Point, metric: str) -> float:
        """Signed, as a share of what was measured; `ttft` or `tpot`."""
        measured: float = getattr(point, f"{metric}_ms")
        return float(getattr(self, f"{metric}_ms")) / measured - 1.0


class Profiles:
    """Profiles by what they depend on, each built once, in a folder."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data / "profiles", folder
        self._paths: dict[tuple[object, ...], Path] = {}

    def path(self, point: Point, kernels: float = 1.0) -> Path:
        """The profile of a point; `kernels` multiplies every kernel's time."""
        key = (*point.profile_key, kernels)
        if key not in self._paths:
            self._paths[key] = path = self._folder / f"{len(self._paths)}.json"
            save_profile(self._scaled(point, kernels), path)
        return self._paths[key]

    def _scaled(self, point: Point, kernels: float) -> Profile:
        if kernels != 1.0:
            profile = load_profile(self.path(point))
            return with_kernels(profile, dict.fromkeys(profile.kernels, kernels))
        shape = replace(
            load_shape(point.model), weight_dtype=point.weight_dtype, kv_dtype=point.kv_dtype
        )
        return build_profile(self._data, point.device, shape, point.tp)


def simulate(point: Point, profile: Path, host_step_ms: float | None = None) -> Found:
    """Run one point to its end; means over all requests, as the campaigns report them."""
    config = load_config(
        None,
        [
            f"scheduler.max_num_batched_tokens={point.max_num_batched_tokens}",
            f"scheduler.max_num_seqs={point.max_num_seqs}",
            f"run.gpu_memory_utilization={_memory_share(point.device):.4f}",
        ],
        scheduler="vllm_v1",
        memory="vllm_v1",
        model=point.model,
        device=point.device,
        tp=point.tp,
        costs=str(profile),
        lag=point.lag,
        concurrency=point.concurrency,
        sessions="closed",
        host_step_ms=HOST_STEP_MS[point.device] if host_step_ms is None else host_step_ms,
        host_per_sequence_us=HOST_PER_SEQUENCE_US,
    )
    result = run_simulation(config, point.workload())
    metrics = RunMetrics(result.record)
    summary = metrics.summary({})
    return Found(
        float(summary["mean_ttft_ms"]),
        float(summary["mean_tpot_ms"]),
        1e3 * float(metrics.view.ttft_s[point.concurrency :].mean()),
        int(summary["preemptions"]),
        float(result.trust["extrapolated_share"]),
        tuple(result.trust["assumed"]),
    )


def _memory_share(device: str) -> float:
    """vLLM's 0.9, less what the count of blocks does not see."""
    return 0.9 - UNSEEN_GIB * GIB / load_device(device).memory_bytes


def median_errors(points: Sequence[Point], found: Sequence[Found]) -> dict[str, float]:
    """Median absolute error of each metric."""
    return {
        metric: statistics.median(
            abs(each.error(point, metric)) for point, each in zip(points, found, strict=True)
        )
        for metric in BARS
    }


def steady_errors(data: Path) -> dict[str, dict[str, float]]:
    """Simulate all points; the median absolute errors of all, of each group and of each shape."""
    points = read_points(data)
    with TemporaryDirectory() as folder:
        profiles = Profiles(data, Path(folder))
        found = [simulate(each, profiles.path(each)) for each in points]
    pairs = list(zip(points, found, strict=True))
    return _by(lambda _: "all", pairs) | _by(_group, pairs) | _by(_shape, pairs)


# -- causes ---------------------------------------------------------------------------------------


def alternatives(point: Point, found: Found, profiles: Profiles) -> dict[str, Found]:
    """The point, for which `found` came out, under one other assumption at a time."""
    profile = profiles.path(point)
    step_ms = HOST_STEP_MS[point.device]
    budgets = {
        f"budget of {tokens} tokens": simulate(
            replace(point, max_num_batched_tokens=tokens), profile
        )
        for tokens in (2048, 8192)
        if tokens != point.max_num_batched_tokens
    }
    return {
        "kernels 15 % slower": simulate(point, profiles.path(point, 1.15)),
        "kernels 15 % faster": simulate(point, profiles.path(point, 0.85)),
        "twice the host time, not hidden": simulate(replace(point, lag=0), profile, 2 * step_ms),
        "no host time": simulate(point, profile, 0.0),
        "first requests not counted": replace(found, ttft_ms=found.later_ttft_ms),
        **budgets,
    }


def explain(point: Point, found: Found, profiles: Profiles) -> dict[str, Any]:
    """Which other assumption brings a point closest, and how close."""
    metric = max(BARS, key=lambda name: abs(found.error(point, name)) / BARS[name])
    others = {
        name: each.error(point, metric)
        for name, each in alternatives(point, found, profiles).items()
    }
    closest = min(others, key=lambda name: abs(others[name]))
    helps = abs(others[closest]) < abs(found.error(point, metric))
    return {
        "name": point.name,
        "metric": metric,
        "error": found.error(point, metric),
        "preemptions": found.preemptions,
        "closest": closest if helps else None,
        "closest_error": others[closest] if helps else None,
        "others": others,
    }


def badness(point: Point, found: Found) -> float:
    """The worse of its two errors, each against its bar."""
    return max(abs(found.error(point, metric)) / bar for metric, bar in BARS.items())


# -- the command ----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Simulate every point and write the files; 3 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.accuracy steady", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--calibrate", action="store_true", help="only try host times on every second H100 point"
    )
    options = parser.parse_args(arguments)
    points = read_points(options.data)
    with TemporaryDirectory() as folder:
        profiles = Profiles(options.data, Path(folder))
        if options.calibrate:
            _calibrate([each for each in points if each.device == "h100"], profiles)
            return 0
        found = [_reported(each, profiles) for each in points]
        summary = _summary(points, found, profiles)
    read = write_result(options.out, summary, page)
    write_scatter(read, options.out / "scatter.png")
    errors = read["median_errors"]["all"]
    print(f"median absolute error: TPOT {errors['tpot']:.1%}, TTFT {errors['ttft']:.1%}")
    return 0 if all(errors[metric] <= bar for metric, bar in BARS.items()) else 3


def _reported(point: Point, profiles: Profiles) -> Found:
    found = simulate(point, profiles.path(point))
    ttft, tpot = (found.error(point, metric) for metric in ("ttft", "tpot"))
    print(f"{point.name}: TTFT {ttft:+.1%}, TPOT {tpot:+.1%}", file=sys.stderr)
    return found


def _summary(
    points: Sequence[Point], found: Sequence[Found], profiles: Profiles
) -> Mapping[str, Any]:
    pairs = list(zip(points, found, strict=True))
    worst = sorted(pairs, key=lambda pair: -badness(*pair))[:WORST]
    return {
        "version": VERSION,
        "made_by": made_by("python -m experiments.accuracy steady"),
        "host_step_ms": HOST_STEP_MS,
        "host_per_sequence_us": HOST_PER_SEQUENCE_US,
        "median_errors": _by(lambda _: "all", pairs) | _by(_group, pairs),
        "by_shape": _by(_shape, pairs),
        "worst": [explain(point, each, profiles) for point, each in worst],
        "points": [
            asdict(point) | {"group": _group(point), "simulated": asdict(each)}
            for point, each in pairs
        ],
    }


def _group(point: Point) -> str:
    fp8 = " FP8" if point.weight_dtype else ""
    return f"{point.model}{fp8}, {point.device} TP {point.tp}"


def _shape(point: Point) -> str:
    fp8 = " FP8" if point.weight_dtype else ""
    lengths = f"{point.prompt_tokens}/{point.answer_tokens}"
    return f"{point.model}{fp8}, {point.device}, {lengths}"


def _by(
    name_of: Callable[[Point], str], pairs: Sequence[tuple[Point, Found]]
) -> dict[str, dict[str, float]]:
    groups = dict[str, list[tuple[Point, Found]]]()
    for point, each in pairs:
        groups.setdefault(name_of(point), []).append((point, each))
    return {name: _errors(group) for name, group in groups.items()}


def _errors(pairs: Iterable[tuple[Point, Found]]) -> dict[str, float]:
    points, found = zip(*pairs, strict=True)
    biases = {
        f"{metric}_bias": statistics.median(
            each.error(point, metric) for point, each in zip(points, found, strict=True)
        )
        for metric in BARS
    }
    return median_errors(points, found) | biases | {"points": len(points)}


def _calibrate(points: Sequence[Point], profiles: Profiles) -> None:
    """The host time by every second point, and how well it does on the others."""
    for step_ms in STEPS_MS:
        errors = [
            median_errors(half, [simulate(each, profiles.path(each), step_ms) for each in half])
            for half in (points[::2], points[1::2])
        ]
        fitted, others = (each["tpot"] for each in errors)
        print(f"{step_ms:g} ms: TPOT {fitted:.1%} on every second point, {others:.1%} on the rest")
