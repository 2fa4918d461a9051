"""Two more questions: what is lost where nobody states a target, and where somebody lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from experiments.scenarios.arms import ARMS, FCFS, ROTATING
from experiments.scenarios.comparison import Part, conditions
from experiments.scenarios.measures import ATTAINMENT, BATCH, MEAN_E2E
from experiments.scenarios.search import star_of
from experiments.scenarios.settings import (
    SETTINGS,
    WRONG_SLO_SCALES,
    WRONG_SLO_SPEC,
    Extent,
    config_of,
)
from experiments.studykit.measures import numbers_of, paired
from experiments.studykit.reading import data_folder
from experiments.studykit.run_cache import RunCache
from superinfer.lab.config import Config, load_config
from superinfer.slo_classes import PRESETS

STATED = "classes.stated.slo_attainment"
_ROOT = Path(__file__).resolve().parents[2]
_TRACES = {
    "sample": "traces/samples/mixed.jsonl",
    "azure-conv": "traces/azure2023/AzureLLMInferenceTrace_conv.csv",
    "azure-code": "traces/azure2023/AzureLLMInferenceTrace_code.csv",
}
"""Below this repository the bundled sample, below the folder of public traces the others."""


def without_slo(cache: RunCache, extent: Extent) -> Part:
    """Mean E2E of `rotating` against `fcfs` where no request has a target."""
    found: Part = {}
    absent = []
    for name in extent.traces:
        trace = (_ROOT if name == "sample" else data_folder()) / _TRACES[name]
        if not trace.is_file():
            absent.append(f"{name}: expected the trace below SUPERINFER_DATA, which has none")
            continue
        configs = {arm: _without_slo(arm, trace) for arm in (FCFS, ROTATING)}
        runs = cache.runs(configs, (), f"no-slo: {name}")
        found[name] = {
            "arms": {arm: numbers_of(each, [MEAN_E2E]) for arm, each in runs.items()},
            "rotating_over_fcfs": paired(runs, FCFS, [MEAN_E2E])[ROTATING],
        }
    return {
        "title": "no request has a target (Llama-3.1-8B, one A100-80G, each trace at its own rate)",
        "traces": found,
        "absent": absent,
    }


def wrong_slo(cache: RunCache, extent: Extent) -> Part:
    """What targets that one tenant scales change for the chat requests of the others."""
    setting = SETTINGS["c"]
    star = star_of(cache, setting, extent)
    rate = star.rate_per_s or setting.search_from[0]
    configs = {f"x{scale:g}": _stated(rate, scale) for scale in WRONG_SLO_SCALES}
    runs = cache.runs(configs, extent.seeds, "wrong-slo")
    first = next(iter(configs))
    return {
        "title": "as setting c, half of the chat requests with targets that are scaled",
        "conditions": conditions(setting),
        "seeds": list(extent.seeds),
        "rate_per_s": rate,
        "arms": {
            name: numbers_of(each, [ATTAINMENT, STATED, BATCH]) for name, each in runs.items()
        },
        "differences": paired(runs, first, [ATTAINMENT, BATCH]),
    }


def _without_slo(arm: str, trace: Path) -> Config:
    given = ["run.without_slo=true", *ARMS[arm].settings]
    return load_config(None, given, trace=str(trace), scheduler=ARMS[arm].scheduler)


def _stated(rate_per_s: float, scale: float) -> Config:
    """Half of the chat requests of each tenant; `stated` has other targets than it needs."""
    slo = PRESETS["chat"].slo
    setting = replace(SETTINGS["c"], spec=str(WRONG_SLO_SPEC))
    arm = ARMS[ROTATING].with_settings(
        f"targets x {scale:g}",
        f"workload.clients.stated.rate_per_s={rate_per_s / 2!r}",
        f"classes.stated.ttft_ms={1e3 * scale * (slo.ttft_s or 0)!r}",
        f"classes.stated.tpot_ms={1e3 * scale * (slo.tpot_s or 0)!r}",
        f"classes.stated.max_stall_ms={1e3 * (PRESETS['chat'].max_stall_s or 0)!r}",
        f"classes.stated.max_tokens={PRESETS['chat'].max_tokens}",
    )
    return config_of(setting, arm, rate_per_s / 2)
