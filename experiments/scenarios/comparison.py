"""One setting: all arms at the load of the comparison, the sweep around it, what is taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from experiments.scenarios.arms import (
    ARMS,
    FCFS,
    KV8_RIVALS,
    KV8_SCALE,
    MODES,
    PRIORITY_SWAP,
    ROTATING,
    WITH_MEMORY,
    Arm,
    as_published,
    label,
)
from experiments.scenarios.measures import ATTAINMENT, BATCH, DECIDING, P99_TTFT, REPORTED
from experiments.scenarios.search import Star, star_of
from experiments.scenarios.settings import (
    HOST_MEMORY_GIB,
    TINY_RATE_PER_S,
    Extent,
    Setting,
    config_of,
)
from experiments.scenarios.tuning import tuned_arms
from experiments.studykit.measures import numbers_of, paired
from experiments.studykit.run_cache import RunCache, Runs
from sim.run import build_engine
from superinfer.errors import ConfigError
from superinfer.lab.config import Config

Part = dict[str, Any]
"""What a part of the study found, as plain values for `summary.json`."""
SWEPT = (ATTAINMENT, P99_TTFT, BATCH)


def compare_setting(cache: RunCache, setting: Setting, extent: Extent) -> Part:
    """Everything about one setting."""
    star = star_of(cache, setting, extent)
    part: Part = {
        "title": setting.title,
        "conditions": conditions(setting),
        "seeds": list(extent.seeds),
        "star": asdict(star),
    }
    if not setting.vllm_is_reference:
        part["first_come"] = _first_come(cache, setting, extent)
    if star.rate_per_s is None:
        return part
    tuned = tuned_arms(setting.name)
    arms = _in_order(tuned)
    part["tuned"] = {name: list(arm.settings) for name, arm in tuned.items()}
    part |= _at_star(cache, setting, extent, star, arms)
    part["published"] = _published(cache, setting, extent, star, arms)
    part["sweep"] = _sweep(cache, setting, extent, star, arms)
    if setting.ablation:
        part["ablation"] = _ablation(cache, setting, extent, star.rate_per_s)
    return part


def conditions(setting: Setting) -> dict[str, Any]:
    """What all arms of a setting have in common."""
    host = build_engine(config_of(setting, ARMS[ROTATING], 1.0))[1].host
    return {
        "workload": setting.spec,
        "load": setting.load.removeprefix("run."),
        "kv_tokens": setting.kv_tokens or None,
        "host_link_gb_per_s": setting.host_link_gb_per_s,
        "host_memory_gib_per_gpu": HOST_MEMORY_GIB,
        "prefix_caching": setting.prefix_caching,
        "host_step_ms": 1e3 * host.step_s,
        "host_per_sequence_us": 1e6 * host.per_sequence_s,
    }


def _first_come(cache: RunCache, setting: Setting, extent: Extent) -> Part:
    """First-come-first-served arms at a tiny chat rate, behind a backlog that never ends."""
    names = (*MODES, FCFS, PRIORITY_SWAP)
    configs = {name: config_of(setting, ARMS[name], TINY_RATE_PER_S) for name in names}
    runs = cache.runs(configs, extent.seeds[:1], f"{setting.name}: hardly any chat")
    arms = {name: numbers_of(each, [ATTAINMENT]) for name, each in runs.items()}
    return {"rate_per_s": TINY_RATE_PER_S, "arms": arms}


def _in_order(tuned: Mapping[str, Arm]) -> dict[str, Arm]:
    """All arms, ours last."""
    ours = (*WITH_MEMORY, ROTATING)
    rivals = {name: arm for name, arm in ARMS.items() if name not in ours}
    smaller = {
        name: replace(tuned[base], label=label(name), kv_scale=KV8_SCALE)
        for name, base in KV8_RIVALS.items()
        if base in tuned
    }
    return rivals | dict(tuned) | smaller | {name: ARMS[name] for name in ours}


def _at_star(
    cache: RunCache, setting: Setting, extent: Extent, star: Star, arms: Mapping[str, Arm]
) -> Part:
    """All arms at the load of the comparison, with their differences."""
    rate = star.rate_per_s or 0.0
    configs = {name: config_of(setting, arm, rate) for name, arm in arms.items()}
    runs = cache.runs(configs, extent.seeds, f"{setting.name}: all arms")
    references = dict.fromkeys((star.reference, PRIORITY_SWAP))
    return {
        "arms": {name: numbers_of(each, REPORTED) for name, each in runs.items()},
        "differences": {name: paired(runs, name, DECIDING) for name in references},
        "rotating_over": _over(runs, ROTATING, [name for name in arms if name != ROTATING]),
        "with_memory_over": {
            ours: _over(runs, ours, [name for name in arms if name not in WITH_MEMORY])
            for ours in WITH_MEMORY
        },
    }


def _over(runs: Runs, ours: str, rivals: Sequence[str]) -> Part:
    """How an arm differs from each of its rivals."""
    return {
        name: paired({name: runs[name], ours: runs[ours]}, name, DECIDING)[ours] for name in rivals
    }


def _published(
    cache: RunCache, setting: Setting, extent: Extent, star: Star, arms: Mapping[str, Arm]
) -> Part:
    """The same once more, each arm with the host overhead that is published for it."""
    rate = star.rate_per_s or 0.0
    configs = {name: config_of(setting, as_published(arm), rate) for name, arm in arms.items()}
    runs = cache.runs(configs, extent.seeds, f"{setting.name}: published host overheads")
    changed = [name for name, arm in arms.items() if as_published(arm) != arm]
    return {
        "arms": {name: numbers_of(runs[name], DECIDING) for name in (*changed, ROTATING)},
        "rotating_over": _over(runs, ROTATING, changed),
    }


def _sweep(
    cache: RunCache, setting: Setting, extent: Extent, star: Star, arms: Mapping[str, Arm]
) -> Part:
    """Curves over the chat rate."""
    rates = [factor * (star.rate_per_s or 0.0) for factor in extent.sweep]
    configs = {
        f"{name} at {rate!r}": config_of(setting, arm, rate)
        for name, arm in arms.items()
        for rate in rates
    }
    runs = cache.runs(configs, extent.swept_seeds, f"{setting.name}: sweep")
    points = {
        name: [numbers_of(runs[f"{name} at {rate!r}"], SWEPT) for rate in rates] for name in arms
    }
    return {
        "seeds": list(extent.swept_seeds),
        "factors": list(extent.sweep),
        "rates_per_s": rates,
        "arms": points,
    }


def _ablation(cache: RunCache, setting: Setting, extent: Extent, rate_per_s: float) -> Part:
    """The rotating scheduler less one mechanism at a time, against the whole of it."""
    configs, absent = {ROTATING: config_of(setting, ARMS[ROTATING], rate_per_s)}, []
    for name, change in extent.ablations.items():
        config = _changed(setting, rate_per_s, change)
        if config is None:
            absent.append(f"{name}: this version has no such setting")
        else:
            configs[name] = config
    runs = cache.runs(configs, extent.seeds, f"{setting.name}: mechanisms")
    absent += _same_as_unknown(runs)
    return {
        "whole": numbers_of(runs[ROTATING], DECIDING),
        "differences": paired(runs, ROTATING, DECIDING) if len(runs) > 1 else {},
        "absent": absent,
    }


def _changed(setting: Setting, rate_per_s: float, change: str) -> Config | None:
    """The rotating scheduler with a change; None if it has no such setting."""
    try:
        return config_of(setting, ARMS[ROTATING], rate_per_s, change)
    except ConfigError:
        return None


def _same_as_unknown(runs: Runs) -> list[str]:
    """Drop the runs with known lengths where they change nothing."""
    known, unknown = runs.get("lengths known"), runs.get("lengths unknown")
    if not known or not unknown:
        return []
    if numbers_of(known, REPORTED) != numbers_of(unknown, REPORTED):
        return []
    del runs["lengths known"]
    return ["lengths known: every number is that of lengths unknown"]
