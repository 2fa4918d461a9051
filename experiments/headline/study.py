"""One part of the study: the reference load, all arms at it, and the sweep around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.headline.measures import differences_of, measured
from experiments.headline.settings import (
    KEPT_SHARE,
    MODES,
    OURS,
    VLLM_TUNED,
    Extent,
    arms_of,
    config_of,
)
from experiments.headline.workloads import HERE, Workload
from experiments.scenarios.arms import Arm
from experiments.studykit.run_cache import RunCache
from sim.run import build_engine
from superinfer.errors import SuperInferError
from superinfer.lab.cli.terminal import say
from superinfer.lab.numbers import mean_number
from superinfer.lab.studies.bisect import LoadSearch

Part = dict[str, Any]
SKEWS = (0.0, 1.0, 2.0)
"""Of the router of a model with experts, with roofline costs."""
SKEW_LOAD = 3.5
"""Of these runs, as a multiple of the reference load: nominal steps are much shorter than measured
ones, so at less load every arm meets all targets."""


@dataclass(slots=True, frozen=True)
class Reference:
    """The largest load at which the better mode of vLLM v0.6.0 keeps its share."""

    load: float
    mode: str
    searches: dict[str, str]
    """What the search says of each mode."""


def compare(
    cache: RunCache,
    workload: Workload,
    tuned: Mapping[str, Arm],
    extent: Extent,
    ours: Sequence[str] = (),
) -> Part:
    """Everything about one part; `ours` are settings of SuperInfer in place of its defaults."""
    reference = reference_load(cache, workload, extent)
    arms = arms_of(workload, tuned, ours)
    part: Part = {
        "title": workload.title,
        "conditions": conditions(workload, arms, reference.load, extent),
        "tuned": {name: list(arm.settings) for name, arm in tuned.items()},
        "reference": asdict(reference),
        "extent": asdict(extent),
    }
    part |= _at_reference(cache, workload, arms, reference.load, extent)
    part["sweep"] = _sweep(cache, workload, arms, reference.load, extent)
    if workload.name == "mixtral":
        part["skew"] = _skew(cache, workload, arms, reference.load, extent)
    return part


def reference_load(cache: RunCache, workload: Workload, extent: Extent) -> Reference:
    """That of the mode which bears more. The second is searched only if it keeps the share at the
    load of the first. SuperInferError if neither keeps it at any load.
    """
    first, second = MODES
    search = _search(cache, workload, first, extent, workload.search_from)
    said = {first: str(search)}
    load = search.load or workload.search_from[0]
    kept = _share_kept(cache, workload, second, load, extent)
    said[second] = f"keeps {kept:.1%} at {load:.4f}"
    found = Reference(load, first, said)
    if kept >= KEPT_SHARE:
        search = _search(cache, workload, second, extent, (load, 1.1 * load))
        found = Reference(search.load or load, second, said | {second: str(search)})
    if search.load is None:
        raise SuperInferError(f"no load at which vLLM keeps {KEPT_SHARE:.0%}: {said}")
    return found


def conditions(
    workload: Workload, arms: Mapping[str, Arm], load: float, extent: Extent
) -> dict[str, Any]:
    """What all arms have in common."""
    config = config_of(workload, arms[OURS], load, extent)
    engine, cost = build_engine(config)
    sizes = engine.config
    return {
        "spec": workload.spec,
        "asked": workload.asked,
        "judged": workload.judged or "all requests",
        "settings": [_here(text) for text in (*workload.machine, *workload.settings)],
        "step_times": cost.origin.profile,
        "measured": cost.origin.measured,
        "kv_tokens": sizes.total_blocks * sizes.block_tokens,
        "kv_gib": sizes.total_blocks * sizes.block_bytes / 2**30,
        "prefix_caching": config.run.prefix_caching,
        "duration_s": config.run.duration_s,
        "window_s": list(config.run.window_s),
        "notes": list(workload.notes),
    }


# -- inside ---------------------------------------------------------------------------------------


def _here(text: str) -> str:
    """A setting without where this checkout is."""
    return text.replace(f"{HERE.parents[1].as_posix()}/", "")


def _search(
    cache: RunCache, workload: Workload, mode: str, extent: Extent, bounds: tuple[float, float]
) -> LoadSearch:
    say(f"{workload.name}: largest load of {MODES[mode].label}")
    return cache.largest(
        lambda load: config_of(workload, MODES[mode], load, extent),
        _attainment(workload),
        KEPT_SHARE,
        range(extent.search_seeds),
        bounds,
        extent.tolerance,
    )


def _share_kept(
    cache: RunCache, workload: Workload, mode: str, load: float, extent: Extent
) -> float:
    config = config_of(workload, MODES[mode], load, extent)
    what = f"{workload.name}: the other mode of vLLM"
    runs = cache.runs({mode: config}, range(extent.search_seeds), what)[mode]
    return mean_number([run.summary for run in runs], _attainment(workload)) or 0.0


def _attainment(workload: Workload) -> str:
    return f"classes.{workload.judged}.slo_attainment" if workload.judged else "slo_attainment"


def _at_reference(
    cache: RunCache, workload: Workload, arms: Mapping[str, Arm], load: float, extent: Extent
) -> Part:
    configs = {name: config_of(workload, arm, load, extent) for name, arm in arms.items()}
    runs = cache.runs(configs, range(extent.seeds), f"{workload.name}: all arms")
    found = {
        "arms": {name: measured(workload, each) for name, each in runs.items()},
        "ours_over": differences_of(workload, runs),
        "rates_per_s": {
            name: _rate(runs[OURS][0].summary, name) for name in runs[OURS][0].summary["classes"]
        },
    }
    others = [name for name in runs if name.startswith(f"{OURS}-")]
    found["variants"] = {
        name: differences_of(
            workload, {n: runs[n] for n in runs if n == name or n not in (*others, OURS)}, name
        )
        for name in others
    }
    return found


def _rate(summary: Mapping[str, Any], name: str) -> float:
    """Requests/s of a class that came in the window."""
    low_s, high_s = summary["load"]["window_s"]
    return float(summary["classes"][name]["submitted"]) / float(high_s - low_s)


def _sweep(
    cache: RunCache, workload: Workload, arms: Mapping[str, Arm], load: float, extent: Extent
) -> Part:
    loads = [factor * load for factor in extent.loads]
    configs = {
        f"{name} at {each!r}": config_of(workload, arm, each, extent)
        for name, arm in arms.items()
        for each in loads
    }
    runs = cache.runs(configs, range(extent.sweep_seeds), f"{workload.name}: sweep")
    return {
        "factors": list(extent.loads),
        "loads": loads,
        "seeds": extent.sweep_seeds,
        "arms": {
            name: [measured(workload, runs[f"{name} at {each!r}"]) for each in loads]
            for name in arms
        },
    }


def _skew(
    cache: RunCache, workload: Workload, arms: Mapping[str, Arm], load: float, extent: Extent
) -> Part:
    """Ours and tuned vLLM with nominal step times under routing of some skews."""
    configs = {
        f"{name} at {skew:g}": config_of(
            workload,
            arms[name],
            SKEW_LOAD * load,
            extent,
            "run.costs=roofline",
            f"run.routing_skew={skew}",
        )
        for name in (VLLM_TUNED, OURS)
        for skew in SKEWS
    }
    runs = cache.runs(configs, range(extent.sweep_seeds), f"{workload.name}: routing skew")
    rows = {}
    for skew in SKEWS:
        pair = {name: runs[f"{name} at {skew:g}"] for name in (VLLM_TUNED, OURS)}
        rows[f"{skew:g}"] = {
            "arms": {name: measured(workload, each) for name, each in pair.items()},
            "ours_over": differences_of(workload, pair),
        }
    return {"rows": rows, "seeds": extent.sweep_seeds}
