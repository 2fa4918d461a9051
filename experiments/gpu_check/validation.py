"""The runs of part `run` in the simulator, with the profile of part `calibrate-8b`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from executor.validation.runs import simulate
from executor.validation.validate import Outcome, winners
from experiments.gpu_check.calibrate import profile_path
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.runs import POLICIES

MAX_ERROR = 0.10


def validate(context: Context, policy: str) -> Result:
    """One policy, metric by metric."""
    outcome = compared(context, policy)
    outcome.plot(context.work / "validation")
    worst = [metric for metric in outcome.metrics if metric.fails(MAX_ERROR)]
    shown = {
        f"{name}_error": error
        for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "p99_ttft_ms", "p99_tpot_ms")
        if (error := _error(outcome, name)) is not None
    }
    return {
        **shown,
        "over_limit": len(worst),
        "table": list(outcome.lines(MAX_ERROR)),
        **outcome.row(MAX_ERROR),
    }


def compared(context: Context, policy: str) -> Outcome:
    """Both sides of one policy; the simulator runs where there is no result yet."""
    device = context.work / "runs" / policy
    simulated = context.work / "validation" / f"simulated-{policy}"
    if not (simulated / "summary.json").is_file():
        simulate(device, _profile(context), simulated, context.seconds)
    return Outcome.of(policy, [device], simulated)


def _profile(context: Context) -> Path:
    path = profile_path(context)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: part calibrate-8b writes it")
    return path


def _error(outcome: Outcome, name: str) -> float | None:
    return next((m.error for m in outcome.metrics if m.name == name and not m.service_class), None)


def best(context: Context) -> Result:
    """Which policy wins, on the device and simulated."""
    outcomes = [compared(context, policy) for policy in POLICIES]
    return {"table": [verdict.line for verdict in winners(outcomes)]}


CHECKS: dict[str, Check] = {
    **{policy: partial(validate, policy=policy) for policy in POLICIES},
    "best": best,
}
