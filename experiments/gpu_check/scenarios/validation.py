"""The runs of parts `run` and `scenarios` in the simulator, with the profile of `calibrate-8b`.

It asks the device for nothing: with the folders `runs` and `profiles` of an earlier call it works
on any machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from executor.validation.runs import Summary, simulate, summary
from executor.validation.validate import Outcome, winners
from experiments.gpu_check.calibrate import profile_path
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.scenarios.scenes import SCENES, run_name, run_names
from superinfer.lab.numbers import number
from superinfer.lab.results import SUMMARY

MAX_ERROR = 0.05
"""Of a mean; a P99 may be off by `P99_ERROR`."""
P99_ERROR = 0.08
SHOWN = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "p99_ttft_ms", "p99_tpot_ms")
GAINS = (
    "slo_attainment",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_e2el_ms",
    "output_throughput",
    "peak_kv_bytes",
)
"""The headline: what one policy is worth against another."""
SIMULATION_S = 120.0


def validate(context: Context, name: str) -> Result:
    """One policy in one scene, metric by metric."""
    outcome = compared(context, name, steps=True)
    outcome.plot(context.work / "validation")
    worst = [metric for metric in outcome.metrics if metric.fails(MAX_ERROR)]
    errors = {metric: error for metric in SHOWN if (error := _error(outcome, metric)) is not None}
    limits = {name: P99_ERROR if name.startswith("p99") else MAX_ERROR for name in errors}
    over = [name for name, error in errors.items() if not abs(error) <= limits[name]]
    return {
        **{f"{metric}_error": error for metric, error in errors.items()},
        "over_limit": len(worst),
        "over_mark": ",".join(over) or "none",
        "table": list(outcome.lines(MAX_ERROR)),
        **outcome.row(MAX_ERROR),
    }


def compared(context: Context, name: str, steps: bool = False) -> Outcome:
    """Both sides of a run, with `steps` each of its steps, too. The simulator runs where there is
    no result yet of this run; for that, and for steps, the profile has to be there.
    """
    device = context.work / "runs" / name
    if not (device / SUMMARY).is_file():
        raise FileNotFoundError(f"{device}: parts run and scenarios write it")
    if not is_whole(device):
        raise ValueError(f"{device}: the run was stopped before its end")
    simulated = context.work / "validation" / f"simulated-{name}"
    done = simulated / SUMMARY
    if done.is_file() and done.stat().st_mtime < (device / SUMMARY).stat().st_mtime:
        shutil.rmtree(simulated)
    if not done.is_file():
        simulate(device, _profile(context), simulated, SIMULATION_S)
    return Outcome.of(name, [device], simulated, _profile(context) if steps else None)


def is_whole(device: Path) -> bool:
    """Whether a run is there and came to its end."""
    return (device / SUMMARY).is_file() and not summary(device).get("run", {}).get("interrupted")


def _profile(context: Context) -> Path:
    path = profile_path(context)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: part calibrate-8b writes it")
    return path


def _error(outcome: Outcome, name: str) -> float | None:
    return next((m.error for m in outcome.metrics if m.name == name and not m.service_class), None)


def best(context: Context) -> Result:
    """Which policy wins in each scene, on the device and simulated."""
    table, agree = list[str](), True
    for scene, outcomes in _scenes(context):
        found = winners(outcomes)
        agree &= all(verdict.agrees for verdict in found)
        table += [f"   {scene}: {verdict.line}" for verdict in found]
    return {"agree": agree, "table": table}


def gain(context: Context) -> Result:
    """What each policy is worth against `vllm`: measured, and as simulated."""
    rows = [row for scene, outcomes in _scenes(context) for row in gains(scene, outcomes)]
    table = [
        f"   {row['policy']} in {row['scene']}, {row['class']}, {row['metric']}: "
        f"measured {row['measured']:+.1%}, simulated {row['simulated']:+.1%}"
        for row in rows
    ]
    return {"rows": rows, "points": len(rows), "table": table}


def gains(scene: str, outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    """Change of each metric from the first policy to each other one, on both sides: of shares in
    points, of all else as a part of what it was.
    """
    base, *others = [(outcome.scheduler, _sides(outcome)) for outcome in outcomes]
    for policy, sides in others:
        for service_class, metric in product(("", *sides[0]["classes"]), GAINS):
            key = f"classes.{service_class}.{metric}" if service_class else metric
            changes = [
                _change(metric, *(number(one, key) for one in pair))
                for pair in zip(base[1], sides, strict=True)
            ]
            if None not in changes:
                yield {
                    "scene": scene,
                    "policy": policy,
                    "class": service_class or "all",
                    "metric": metric,
                    "measured": changes[0],
                    "simulated": changes[1],
                }


def _sides(outcome: Outcome) -> tuple[Summary, Summary]:
    return summary(outcome.devices[0]), summary(outcome.simulated)


def _change(metric: str, before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    if metric == "slo_attainment":
        return after - before
    return after / before - 1 if before else None


def _scenes(context: Context) -> Iterator[tuple[str, list[Outcome]]]:
    """Scenes of which two policies ran at least, `vllm` first. FileNotFoundError if there is
    none.
    """
    runs = context.work / "runs"
    found = {
        scene: [name for name in run_names(scene).values() if is_whole(runs / name)]
        for scene in SCENES
    }
    found = {scene: there for scene, there in found.items() if len(there) > 1}
    if not found:
        raise FileNotFoundError(
            f"{runs}: no scene of which two policies ran; parts run and scenarios write them"
        )
    for scene, there in found.items():
        yield scene, [compared(context, name) for name in there]


CHECKS: dict[str, Check] = {
    run_name(scene, arm): partial(validate, name=run_name(scene, arm))
    for scene, chosen in SCENES.items()
    for arm in chosen.arms
}
SUMMARIES: dict[str, Check] = {"best": best, "gain": gain}
"""What the runs say together: who wins, and the gain that was simulated and measured."""
