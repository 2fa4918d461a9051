"""What is compared: settings, and how much of each the full and the quick study run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from experiments.scenarios.arms import Arm
from experiments.studykit.kv_memory import fitting_tokens, with_kv_tokens
from superinfer.lab.config import Config, load_config

CACHE = Path("runs") / "scenarios"
"""Where the runs of the study are kept."""
KEPT_SHARE = 0.78
"""Chat attainment that the reference keeps at the load of the comparison."""
WINDOW_S = (200, 800)
DURATION_S = 900
HOST_MEMORY_GIB = 4.0
"""Per GPU, for every arm: vLLM's default swap space."""
TINY_RATE_PER_S = 0.05
MACHINE = ("run.model=llama-3.1-70b", "run.device=a100-80g", "run.tp=4", "run.costs=calibrated")


@dataclass(slots=True, frozen=True)
class Setting:
    """One row of the study: a workload and how it is sent, memory and host link."""

    name: str
    title: str
    spec: str
    load: str
    """`run.backlog` or `run.in_flight`, as a setting."""
    search_from: tuple[float, float]
    """Chat requests/s between which the load of the comparison is looked for first."""
    kv_tokens: int = 0
    """Tokens whose KV cache fits on the device, whatever an arm's block size; 0: all memory."""
    host_link_gb_per_s: float = 25.0
    prefix_caching: bool = False
    vllm_is_reference: bool = False
    ablation: bool = False


_BACKLOG = "run.backlog={batch=64}"
SETTINGS: Mapping[str, Setting] = {
    each.name: each
    for each in (
        Setting(
            name="article",
            title="all memory, 16 batch requests under way, no prefix caching",
            spec="scenario-m",
            load="run.in_flight={batch=16}",
            search_from=(1.05, 1.4),
            vllm_is_reference=True,
        ),
        Setting(
            name="article-cached",
            title="all memory, 32 batch requests under way, prefix caching",
            spec="scenario-m",
            load="run.in_flight={batch=32}",
            search_from=(0.8, 1.0),
            prefix_caching=True,
            vllm_is_reference=True,
        ),
        Setting(
            name="m-pcie",
            title="KV memory for 80,000 tokens, 64 batch requests always wait, 25 GB/s to the host",
            spec="scenario-m",
            load=_BACKLOG,
            search_from=(2.0, 2.3),
            kv_tokens=80_000,
            ablation=True,
        ),
        Setting(
            name="m-c2c",
            title="KV memory for 80,000 tokens, 64 batch requests always wait, 350 GB/s to the "
            "host",
            spec="scenario-m",
            load=_BACKLOG,
            search_from=(2.0, 2.3),
            kv_tokens=80_000,
            host_link_gb_per_s=350.0,
        ),
        Setting(
            name="c",
            title="all memory, 64 batch requests always wait",
            spec="scenario-c",
            load=_BACKLOG,
            search_from=(1.8, 2.1),
            ablation=True,
        ),
    )
}


def config_of(setting: Setting, arm: Arm, chat_per_s: float, *more: str) -> Config:
    """The run of an arm in a setting at a chat rate; `more` settings are laid over it.

    Batch requests have a priority below that of chat, for systems that can use one.
    """
    low_s, high_s = WINDOW_S
    given = [
        *MACHINE,
        setting.load,
        f"run.host_link_gb_per_s={setting.host_link_gb_per_s}",
        f"run.host_memory_gib={HOST_MEMORY_GIB}",
        f"run.prefix_caching={str(setting.prefix_caching).lower()}",
        f"run.duration_s={DURATION_S}",
        f"run.window_s=[{low_s}, {high_s}]",
        f"workload.clients.chat.rate_per_s={chat_per_s!r}",
        "workload.clients.batch.priority=1",
        *arm.settings,
        *more,
    ]
    config = load_config(None, given, trace=setting.spec, scheduler=arm.scheduler)
    tokens = setting.kv_tokens or fitting_tokens(*MACHINE)
    return with_kv_tokens(config, int(tokens * arm.kv_scale))


SWITCHES = (
    "rotation",
    "promotion",
    "demotion",
    "skip_join",
    "prefetch",
    "relegation",
    "paced_chunks",
    "debts",
    "admission",
    "aging",
    "fairness",
)
ABLATIONS: Mapping[str, str] = {
    **{f"{name} off": f"scheduler.{name}=false" for name in SWITCHES},
    "tiles off": "scheduler.tile_tokens=0",
    "lengths unknown": "scheduler.lengths=none",
    "lengths known": "scheduler.lengths=oracle",
}
"""What is taken from the rotating scheduler, and the setting that does it."""


@dataclass(slots=True, frozen=True)
class Extent:
    """How much is run."""

    seeds: tuple[int, ...]
    tolerance: float = 0.01
    """Of the load of the comparison, relative."""
    sweep_seeds: int = 2
    sweep: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    """Multiples of the load of the comparison."""
    ablations: Mapping[str, str] = field(default_factory=lambda: ABLATIONS)
    traces: tuple[str, ...] = ("sample", "azure-conv", "azure-code")

    @property
    def swept_seeds(self) -> tuple[int, ...]:
        """Seeds of the sweep, the first ones."""
        return self.seeds[: self.sweep_seeds]


def full_extent(seeds: int) -> Extent:
    """The study that decides."""
    return Extent(tuple(range(seeds)))


def quick_extent(seeds: int) -> Extent:
    """The same path through the code with few points: decides nothing."""
    few = dict(list(ABLATIONS.items())[:1] + list(ABLATIONS.items())[-2:])
    return Extent(
        seeds=tuple(range(min(seeds, 2))),
        tolerance=0.1,
        sweep_seeds=1,
        sweep=(0.5, 1.0, 1.5),
        ablations=few,
        traces=("sample",),
    )


WRONG_SLO_SPEC = Path(__file__).with_name("wrong-slo.toml")
WRONG_SLO_SCALES = (1.0, 0.25, 4.0)
"""What one tenant's targets are multiplied with."""
