"""`superinfer-sim plan`: the fewest GPUs that keep the targets of a workload, by simulation.

A candidate is a device and a degree of tensor parallelism on which the model fits.

1. Alone: one replica, the requests one at a time. Targets that are missed there are missed by every
   number of replicas, so a candidate that fails here is out, and the reason is said.
2. Bisection over the number of replicas, all candidates side by side. Every run is a run of a study
   in the folder of the plan, so a plan that was stopped goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.commands import check_folder, default_run_folder, read_workload
from sim.notices.before import (
    as_point,
    say_of_pairs,
    say_of_points,
    warn_of_blocks,
    warn_of_models,
    warn_of_notes,
)
from sim.run import build_engine
from sim.studies.candidates import Candidate, Plan, PlanWish
from sim.studies.folder import check_kept, fed_runner, kept, write_outcome
from sim.studies.plan_page import EXACT, counted, of_draws, page, plan_json, warnings
from sim.studies.seeds import check_seeds, seeds_from
from sim.studies.whole_runs import whole_runs
from sim.summaries import alone, simulated
from sim.workload import kept_stdin, load_in_worker
from superinfer.costs import find_device
from superinfer.errors import ConfigError
from superinfer.lab.cli.progress import showing_progress
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.config.run import RunConfig
from superinfer.lab.metric_names import Summary
from superinfer.lab.prices import load_prices
from superinfer.lab.results import write_run
from superinfer.lab.studies.bisect import Fewest
from superinfer.lab.studies.study import Study, run_study
from superinfer.lab.studies.targets import KINDS, outcomes
from superinfer.metrics import RunMetrics
from traces.printing import print_out, print_table
from traces.workload import Workload

PLAN, PICTURE = "plan.json", "goodput.png"
_STUDY, _STDIN = "study", "stdin"


@dataclass(slots=True, frozen=True)
class PlanRun:
    """The runner of a plan: a result folder whose summary says what single classes missed."""

    stdin: Path | None = None
    """What standard input gave, where the trace is `-`: a worker has none."""

    def __call__(self, config: Config, folder: Path) -> None:
        metrics, summary = simulated(config, load_in_worker(config, self.stdin))
        write_run(folder, metrics, {**summary, "plan": _outcomes(metrics)}, config.resolved())


def plan_command(config: Config, wish: PlanWish) -> int:
    """Find the fewest GPUs for a workload, show and write what was found; returns the exit code.

    Raises ConfigError for a device that is not known, a model that fits on none of them, and a
    workload without targets.
    """
    warn_of_notes(config)
    if config.run.slow_replicas:
        raise ConfigError("run.slow_replicas: expected none: a plan is of replicas that are alike")
    devices = _devices(config, wish)
    for line in _untried(config, wish, devices):
        say(f"note: {line}")
    say_of_pairs(as_point(config))
    prices = load_prices(wish.prices, [*devices])
    if wish.out is not None:
        check_kept(wish.out, _STUDY)
    check_seeds(config.run, wish.seeds)
    found = Plan(config, wish, prices, _candidates(config, wish, devices))
    warn_of_models(as_point(config))
    warn_of_blocks({(each.name, ""): each.config for each in found.candidates if not each.unfit})
    stdin = kept_stdin(config)
    workload = read_workload(config)
    say_of_points(as_point(config), workload)
    _require_targets(config, workload)
    root = wish.out or default_run_folder(config, workload, "plan")
    check_folder(root)
    study = _study(config, wish, root, stdin)
    with kept(root):
        _search(found, study)
    _conclude(found, root)
    return 1 if any(each.failure for each in found.candidates) else 0


# -- candidates -----------------------------------------------------------------------------------


def _candidates(config: Config, wish: PlanWish, devices: Mapping[str, str]) -> list[Candidate]:
    """Every device with every degree of at most so many GPUs; those that cannot run say why."""
    found = []
    for name, spelling in devices.items():
        for tp in sorted(set(wish.degrees)):
            if tp <= wish.most_gpus:
                found.append(_candidate(config, name, spelling, tp))
    if not found:
        raise ConfigError(f"--max-gpus {wish.most_gpus}: expected at least the smallest --tp")
    if all(each.unfit for each in found):
        raise ConfigError(f"no candidate can run: {found[-1].name}: {found[-1].unfit}")
    return found


def _devices(config: Config, wish: PlanWish) -> dict[str, str]:
    """The devices that are wished for by their names, and how a configuration spells them."""
    found: dict[str, str] = {}
    for device in wish.devices:
        name = find_device(device, config.run.costs).name
        found.setdefault(name, device if device.endswith(".toml") else name)
    return found


def _untried(config: Config, wish: PlanWish, devices: Mapping[str, str]) -> Iterator[str]:
    """What a configuration says of the machine, and the plan does not go by."""
    run, usual = config.run, RunConfig()
    if run.replicas != usual.replicas:
        yield f"run.replicas: {run.replicas} is not used: a plan looks for their number"
    name = find_device(run.device, run.costs).name
    if name not in {usual.device, *devices}:
        yield f"run.device: {run.device} is not tried: --device has {', '.join(devices)}"
    if run.tp not in {usual.tp, *wish.degrees}:
        yield f"run.tp: {run.tp} is not tried: --tp has {', '.join(map(str, wish.degrees))}"


def _candidate(config: Config, device: str, spelling: str, tp: int) -> Candidate:
    candidate = Candidate(device, tp, config.with_run(device=spelling, tp=tp, replicas=1))
    try:
        build_engine(candidate.config)
    except ConfigError as error:
        candidate.unfit = str(error)
    return candidate


def _require_targets(config: Config, workload: Workload) -> None:
    if all(request.slo.empty for request in workload.requests):
        raise ConfigError(
            f"{config.run.trace}: expected requests with targets, got none "
            "(classes have them, see --classes)"
        )


# -- the search -----------------------------------------------------------------------------------


def _study(config: Config, wish: PlanWish, root: Path, stdin: bytes | None) -> Study:
    runner, inputs = fed_runner(PlanRun, root / _STUDY / _STDIN, stdin)
    seeds = seeds_from(config.run, wish.seeds)
    return Study({}, root / _STUDY, runner, seeds, inputs, wish.workers)


def _search(plan: Plan, study: Study) -> None:
    """Everybody alone, then a run of each candidate that is not settled, until all are."""
    fit = [each for each in plan.candidates if not each.unfit]
    for each, summaries in _run(study, fit, lambda each: alone(each.config)):
        each.alone = min(summaries, key=_attainment)
        if reaches(each.alone, plan.wish):
            each.search = Fewest(plan.wish.most_gpus // each.tp)
    while open_ := [each for each in fit if each.search and each.search.wanted is not None]:
        for each, summaries in _run(study, open_, _next_config):
            _note_probe(each, summaries, plan.wish)


def _run(
    study: Study, candidates: Sequence[Candidate], config_of: Callable[[Candidate], Config]
) -> list[tuple[Candidate, list[Summary]]]:
    """A run of each candidate with every seed, side by side; one that fails is out."""
    by_name = {each.name: each for each in candidates}
    arms = {name: config_of(each) for name, each in by_name.items()}
    with showing_progress() as report:
        result = run_study(replace(study, arms=arms), report)
    for failure in result.failures:
        candidate = by_name[failure.run.arm]
        candidate.failure, candidate.search = failure.reason, None
    return [
        (by_name[name], [run.summary for run in whole_runs(result, name)])
        for name in result.folders
    ]


def _next_config(candidate: Candidate) -> Config:
    assert candidate.search is not None
    return candidate.config.with_run(replicas=candidate.search.wanted)


def _attainment(summary: Summary) -> float:
    """0 where nobody was judged."""
    return summary["slo_attainment"] or 0.0


def _note_probe(candidate: Candidate, summaries: Sequence[Summary], wish: PlanWish) -> None:
    """What was found with the wanted number of replicas: the seed with the least counts."""
    assert candidate.search is not None and candidate.search.wanted is not None
    replicas = candidate.search.wanted
    if any(summary["slo_attainment"] is None for summary in summaries):
        raise ConfigError(_nobody_judged(candidate, replicas))
    least = min(summaries, key=_attainment)
    candidate.probes[replicas] = least
    candidate.attainments[replicas] = [_attainment(summary) for summary in summaries]
    candidate.search.tell(reaches(least, wish))
    share = f"{100 * _attainment(least):.4g} % meet their targets{of_draws(wish)}"
    say(f"{candidate.name}, {counted(replicas)}: {share}")


def _nobody_judged(candidate: Candidate, replicas: int) -> str:
    run = candidate.config.run
    given = [f"--duration {run.duration_s:g}"] if run.duration_s else []
    given += [f"run.window_s = {list(run.window_s)}"] if run.window_s else []
    place = " with ".join((f"{candidate.name}, {counted(replicas)}", *given))
    return f"{place}: expected a request with targets that can be judged, got none"


def reaches(summary: Summary, wish: PlanWish) -> bool:
    """Whether a run keeps what is asked for."""
    attainment = summary["slo_attainment"]
    return attainment is not None and attainment >= wish.attainment - EXACT


def _outcomes(metrics: RunMetrics) -> dict[str, Any]:
    """By class: which targets were missed, with the worst case, and whether waits grow."""
    found: dict[str, Any] = {}
    for name, outcome in outcomes(metrics).items():
        missed = [miss for kind in KINDS if (miss := outcome.miss(kind))]
        found[name] = {
            "unfinished_share": outcome.unfinished_share,
            "grows": outcome.grows(),
            "missed": [
                {
                    "kind": miss.kind,
                    "share": miss.share,
                    "target": miss.target,
                    "value": miss.value,
                    "prompt_tokens": miss.worst.prompt_tokens,
                    "output_tokens": miss.output_tokens,
                }
                for miss in missed
            ],
        }
    return found


# -- the outcome ----------------------------------------------------------------------------------


def _conclude(plan: Plan, root: Path) -> None:
    """Write and show what was found; it is shown even if it cannot be written."""
    text = json.dumps(plan_json(plan), indent=2)
    try:
        write_outcome(root / PLAN, text)
        if plan.wish.plots:
            _draw(plan, root / PICTURE)
        say(f"plan in {root}")
    finally:
        if plan.wish.as_json:
            print_out(text)
        else:
            print_table(page(plan))
    for warning in warnings(plan):
        say(f"warning: {warning}")


def _draw(plan: Plan, path: Path) -> None:
    from superinfer.lab.pictures.goodput import Curve, write_goodput_plot

    curves = [
        Curve(
            each.name,
            [count * each.tp for count in sorted(each.probes)],
            [each.probes[count]["request_goodput"] for count in sorted(each.probes)],
            [each.probes[count]["slo_attainment"] for count in sorted(each.probes)],
            each.gpus,
        )
        for each in plan.candidates
        if each.probes
    ]
    write_goodput_plot(curves, plan.wish.attainment, path)
