"""Who is compared, how a run of an arm is put together, and how much is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.headline.workloads import Workload
from experiments.scenarios.arms import (
    ARMS,
    CHUNKED,
    KV4,
    MANAGED,
    PREFILL_FIRST,
    SGLANG,
    TENSORRT_LLM,
    TUNED,
    Arm,
)
from experiments.studykit.kv_memory import fitting_tokens, with_kv_tokens
from superinfer.lab.config import Config, load_config

KEPT_SHARE = 0.78
"""Attainment that vLLM v0.6.0 keeps at the reference load: where the article starts from."""
HOST_MEMORY_GIB = 4.0
"""Per GPU, for every arm: vLLM's default swap space."""
HOST_LINK_GB_PER_S = 25.0

OURS, OURS_KV4, VLLM = "superinfer", "superinfer-kv4", "vllm"
VLLM_TUNED, SGLANG_TUNED, TRT_TUNED = "vllm-tuned", "sglang-tuned", "tensorrt-llm-tuned"
TUNED_ARMS = (VLLM_TUNED, TRT_TUNED, SGLANG_TUNED)
DEFAULT_ARMS: Mapping[str, Arm] = {
    VLLM: Arm("vLLM 0.6.0 default", "vllm"),
    TENSORRT_LLM: ARMS[TENSORRT_LLM],
    SGLANG: ARMS[SGLANG],
}
"""As their makers ship them; vLLM v0.6.0 chunks by itself where a model's context is above 32,768
tokens and nothing is cached."""
MODES = {name: ARMS[name] for name in (PREFILL_FIRST, CHUNKED)}
"""Of vLLM v0.6.0; the better one gives the reference load."""


def arms_of(
    workload: Workload, tuned: Mapping[str, Arm], ours: Sequence[str] = ()
) -> dict[str, Arm]:
    """All arms of a part, ours last and with the settings `ours` laid over them."""
    return {
        VLLM: DEFAULT_ARMS[VLLM],
        VLLM_TUNED: tuned[VLLM_TUNED],
        TENSORRT_LLM: DEFAULT_ARMS[TENSORRT_LLM],
        TRT_TUNED: tuned[TRT_TUNED],
        SGLANG: DEFAULT_ARMS[SGLANG],
        SGLANG_TUNED: tuned[SGLANG_TUNED],
        **ours_of(workload, ours),
    }


def ours_of(workload: Workload, settings: Sequence[str] = ()) -> dict[str, Arm]:
    """SuperInfer with settings in place of its defaults; also with fewer bits where a class may."""
    few_bits = {OURS_KV4: ARMS[KV4].with_settings("SuperInfer, batch KV 4 bits", *settings)}
    whole = {OURS: ARMS[MANAGED].with_settings("SuperInfer", *settings)}
    return (few_bits if workload.has_batch else {}) | whole


def label(arm: str) -> str:
    """How tables and pictures name an arm."""
    known = {
        **{name: each.label for name, each in DEFAULT_ARMS.items()},
        **{name: TUNED[name] for name in TUNED_ARMS},
        OURS_KV4: "SuperInfer, batch KV 4 bits",
        OURS: "SuperInfer",
    }
    return known.get(arm, arm)


@dataclass(slots=True, frozen=True)
class Extent:
    """How much is run."""

    seeds: int
    """At the reference load."""
    sweep_seeds: int
    """At every other load, the first of these."""
    search_seeds: int
    loads: tuple[float, ...]
    """Multiples of the reference load."""
    tolerance: float
    """Of the reference load, relative."""
    time_scale: float = 1.0
    """Of the lengths of runs, for tests."""


STANDARD = Extent(5, 3, 3, (0.5, 0.75, 1.0, 1.25, 1.5), 0.02)
FULL = Extent(10, 5, 5, (0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5), 0.01)


def config_of(
    workload: Workload, arm: Arm, load: float, extent: Extent = STANDARD, *more: str
) -> Config:
    """The run of an arm at a load, a multiple of the specification's rates; `more` settings are
    laid over it. Every arm has KV memory for the same number of tokens, as vLLM counts them.
    """
    low_s, high_s = (extent.time_scale * end for end in workload.window_s)
    duration_s = extent.time_scale * workload.duration_s
    given = [
        *workload.machine,
        f"run.host_link_gb_per_s={HOST_LINK_GB_PER_S}",
        f"run.host_memory_gib={HOST_MEMORY_GIB}",
        f"run.duration_s={duration_s}",
        f"run.window_s=[{low_s}, {high_s}]",
        f"workload.duration_s={duration_s}",
        f"workload.rate_scale={load!r}",
        *workload.settings,
        *arm.settings,
        *more,
    ]
    config = load_config(None, given, trace=workload.trace, scheduler=arm.scheduler)
    return with_kv_tokens(config, fitting_tokens(*workload.machine))
