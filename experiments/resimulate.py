"""The first runs recorded on an H200, simulated again: `python -m experiments.resimulate`.

A recording holds the steps that calibration measured and the summaries of two policies on the
device. So the profile can be fitted anew, and the same runs simulated, with whatever the simulator
has learned since; no GPU is needed. Here that is what graphs pad, and what copies both ways at once
cost; and points that a short calibration left out of its tables are filled in. `--record` writes
what is found beside the recording.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor.calibration.factors import factors_of, inverse, scaled
from executor.calibration.filling import fill_curve, fill_grid, prefill_work, row_work
from executor.calibration.fit import with_steps
from executor.calibration.grids import spaced
from executor.calibration.steps import Steps
from executor.step_log import Step
from executor.steps.graphs import graphs_of
from executor.validation.compare import JUDGED, TIMES, compare
from experiments.gpu_check.calibrate import FAST
from experiments.studykit.reading import exit_code_of, read_json
from experiments.studykit.record import made_by
from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.costs import Chunk, ModelShape, Profile, load_profile, load_shape, write_profile
from superinfer.costs.profile import Kernel
from superinfer.lab.config import Config, load_config
from superinfer.metrics.summary import summarise

NEWEST = Path(__file__).parent / "results" / "h200"
H200 = NEWEST.with_name("h200-early")
OUTCOME = H200 / "resimulated.json"
POLICIES = ("vllm", "rotating")
TOKENS = spaced(8192, 8192)
"""Where the recordings have products at the most."""
MOST_ROWS = 128
"""Sequences of that calibration, which its graphs were captured for."""
FITS = ("step", "step_decode", "step_prefill", "driver_step")


def recorded(folder: Path = H200) -> tuple[dict[str, Any], Profile, ModelShape]:
    """Results, profile and shape of the model of a recording."""
    results = read_json(folder / "results.json")
    profile = load_profile(folder / "profile-llama-3.1-8b.json")
    return results, profile, load_shape(profile.model)


def steps_of(results: dict[str, Any]) -> Steps:
    """The steps that calibration measured."""
    sets = results["calibrate-8b"]["checks"]["calibrate"]["steps"]
    return Steps(*([_step(row) for row in sets[name]] for name in ("fitted", "unseen", "driven")))


def _step(row: list[Any]) -> Step:
    chunks, decodes, context, seconds, replay_s, *more = row
    queued_s = next((value for value in more if isinstance(value, float)), None)
    work = tuple(Chunk(*chunk) for chunk in chunks), decodes, context
    return Step(*work, seconds, replay_s, queued_s)  # the first recordings end with a count


def fitted_again(profile: Profile, shape: ModelShape, steps: Steps) -> Profile:
    """The profile brought in line with its own steps once more, its tables full, graphs known."""
    tables = filled(scaled(profile, inverse(factors_of(profile.fit["in_step"]))))
    return with_steps(replace(tables, graphs=graphs_of(MOST_ROWS)), shape, steps)


def filled(profile: Profile) -> Profile:
    """The profile with the points of calibration's grids that there was no time for; of a GPU."""
    kernels = {name: _filled(name, kernel) for name, kernel in profile.kernels.items()}
    return replace(profile, kernels=kernels)


def _filled(name: str, kernel: Kernel) -> Kernel:
    """A kernel's table, filled as where it is measured (`executor/calibration`)."""
    if name == "attention_prefill":
        return fill_grid(kernel, FAST.chunks, prefill_work)
    if name in ("gemm_lm_head", "sample"):
        return fill_curve(kernel, FAST.rows, row_work)
    if tuple(kernel.axes) == ("tokens",) and name != "moe_gemm":
        return fill_curve(kernel, TOKENS, row_work)
    return kernel


def arms(profile: Profile, again: Profile) -> dict[str, Profile]:
    """What the simulator is given, least first."""
    one_way = {way: link for way, link in profile.links.items() if way != "both"}
    return {
        "neither": replace(profile, links=one_way),
        "graphs": replace(again, links=one_way),
        "graphs and both ways": again,
    }


def config_of(summary: dict[str, Any], profile: Path) -> Config:
    """The run of a device as the simulator makes it."""
    settings: list[str] = []
    for section in ("run", "scheduler", "memory"):
        for key, value in summary["run"][section].items():
            if value not in (None, {}, []) and (section, key) not in _REPLACED:
                settings.append(f"{section}.{key}={json.dumps(value)}")
    device = load_profile(profile).device
    return load_config(None, settings, costs=str(profile), device=device)


_REPLACED = (("run", "costs"), ("run", "device"))


def simulated(summary: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """A device's run, simulated with a profile; its summary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        write_profile(profile, path)
        config = config_of(summary, path)
        return summarise(run_simulation(config, load_workload(config)).record)


def resimulate() -> dict[str, Any]:
    """Errors of step times, and of both policies' metrics, with and without what is new."""
    results, profile, shape = recorded(H200)
    again = fitted_again(profile, shape, steps_of(results))
    policies: dict[str, Any] = {}
    for policy in POLICIES:
        device = results["run"]["checks"][policy]["summary"]
        policies[policy] = {
            name: {
                metric.name: {"device": metric.device, "simulated": metric.simulated}
                for metric in compare(device, simulated(device, arm))
                if not metric.service_class
            }
            for name, arm in arms(profile, again).items()
        }
    return {"fit": {"neither": _fits(profile), "graphs": _fits(again)}, "policies": policies}


def _fits(profile: Profile) -> dict[str, float]:
    """Mean error of predicted steps."""
    return {name: _mean(profile.fit[name]) for name in FITS}


def _mean(entry: dict[str, float]) -> float:
    return entry["heldout_mape"] if "heldout_mape" in entry else entry["mean"]


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Everything in text."""
    for name, fits in found["fit"].items():
        yield f"{name:22} " + ", ".join(f"{part} {error:.1%}" for part, error in fits.items())
    for policy, compared in found["policies"].items():
        for name, metrics in compared.items():
            shown = [
                f"{metric} {metrics[metric]['simulated'] / metrics[metric]['device'] - 1:+.1%}"
                for statistic in JUDGED
                for metric in (f"{statistic}_{time}_ms" for time in TIMES)
            ]
            yield f"{policy:9} {name:22} " + ", ".join(shown)


def main(arguments: list[str] | None = None) -> int:
    """Simulate, print, and record if that is asked for."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="experiments.resimulate", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {OUTCOME.name}")
    parser.add_argument("--fit", type=Path, help="write the newest profile, fitted anew, and end")
    options = parser.parse_args(given)
    if options.fit:
        results, profile, shape = recorded(NEWEST)
        write_profile(fitted_again(profile, shape, steps_of(results)), options.fit)
        return 0
    found = resimulate()
    print("\n".join(lines(found)))
    if options.record:
        command = shlex.join(["python", "-m", "experiments.resimulate", *given])
        text = json.dumps({"made_by": made_by(command), **found}, indent=1)
        OUTCOME.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
