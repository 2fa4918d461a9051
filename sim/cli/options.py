"""The options that the commands of `superinfer-sim` share, beside those of `lab.cli.options`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superinfer.lab.cli.options import (
    AsJson,
    AsReleased,
    Classes,
    ConfigFile,
    HashBlockSize,
    Lag,
    Limit,
    Memory,
    NoPlots,
    PrefixCaching,
    RateScale,
    Settings,
    SkipBad,
    TimeUnit,
    Trace,
    WithoutSlo,
)

if TYPE_CHECKING:
    from sim.studies.arms import Arms
    from superinfer.lab.config import Config
    from superinfer.lab.studies.axes import Value
    from superinfer.lab.studies.engines.base import StudyEngine

Model = Annotated[
    str | None,
    typer.Option(help="Preset, or a config.json.", show_default="llama-3.1-8b"),
]
Device = Annotated[
    str | None,
    typer.Option(help="Device preset, or a TOML file of its figures.", show_default="a100-80g"),
]
Replicas = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Engines behind a router.", show_default="1"),
]
Router = Annotated[
    str | None,
    typer.Option(help="Router, by name or as package.module:Class.", show_default="least_loaded"),
]
Tp = Annotated[int | None, typer.Option(help="Tensor-parallel GPUs.", show_default="1")]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Of what a specification draws; replaying a trace draws nothing at random.",
        show_default="0",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Result folder; if it exists, -2 is added.",
        show_default="runs/<trace>-<scheduler or command>-<time>",
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="EXPR", help="Gate, e.g. 'slo_attainment>=0.95'."),
]
KeptOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Folder; one that was stopped, or is to grow, goes on.",
        show_default="runs/<trace>-<command>-<time>",
    ),
]
Arm = Annotated[
    list[Path] | None,
    typer.Option("--arm", metavar="FILE", help="TOML configuration to lay over --config."),
]
# Gates and summaries have shares of one: who asks here for 0.99 or 1 means nearly all or all.
Attainment = Annotated[
    float,
    typer.Option(metavar="A", min=2, max=100, help="Share that is to meet its targets, in %."),
]
Seeds = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Runs of each, with successive seeds; for a specification."
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", min=0, help="Runs at a time; 0: one per core.")]
EngineName = Annotated[
    str, typer.Option("--engine", metavar="NAME", help="Where runs are made: processes or ray.")
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Of a Ray cluster, such as auto or ray://head:10001.",
        show_default="one of this machine alone",
    ),
]
Spread = Annotated[
    bool | None,
    typer.Option("--spread", help="Distribute requests that share a stamp."),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Closed loop: N requests under way; the next is sent when one ends.",
        show_default="open loop",
    ),
]
Duration = Annotated[
    float | None,
    typer.Option("--duration", metavar="SECONDS", help="Cut the run off at this time."),
]
Dial = Annotated[
    str | None,
    typer.Option(
        metavar="cost=X,speed=Y,quality=Z",
        help="Weights, each 0-1, that set KV precision, SLO margin, over-commit and batch depth.",
        show_default="none",
    ),
]


class Target(StrEnum):
    """Targets of a class."""

    TTFT = "ttft_ms"
    TPOT = "tpot_ms"
    E2E = "e2el_ms"
    RATE = "min_tokens_per_s"


@dataclass(slots=True, frozen=True)
class ConfigOptions:
    """The options from which a configuration is made; what is not given is None."""

    trace: Trace = None
    memory: Memory = None
    model: Model = None
    device: Device = None
    tp: Tp = None
    seed: Seed = None
    prefix_caching: PrefixCaching = None
    lag: Lag = None
    as_released: AsReleased = None
    config: ConfigFile = None
    settings: Settings = None
    classes: Classes = None
    skip_bad: SkipBad = None
    concurrency: Concurrency = None
    duration: Duration = None
    rate_scale: RateScale = None
    limit: Limit = None
    spread: Spread = None
    hash_block_size: HashBlockSize = None
    time_unit: TimeUnit = None
    without_slo: WithoutSlo = None
    dial: Dial = None
    replicas: Replicas = None
    router: Router = None

    def load(
        self,
        file: Path | None = None,
        settings: Iterable[str] = (),
        run: Mapping[str, object] | None = None,
    ) -> Config:
        """The configuration, with `file` laid over --config, `settings` over --set and `run` over
        all that becomes a `[run]` setting.
        """
        from superinfer.lab.config import load_config

        elsewhere = ("config", "settings", "classes", "duration")
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}
        return load_config(
            [path for path in (self.config, file) if path is not None],
            (*(self.settings or ()), *settings),
            self.classes,
            **{**given, "duration_s": self.duration, **(run or {})},
        )

    def gives(self, key: str) -> str:
        """The option that gives a setting, by its key; empty where none does."""
        section, _, name = key.partition(".")
        field = "duration" if name == "duration_s" else name
        if section == "run" and getattr(self, field, None) is not None:
            return "TRACE" if field == "trace" else f"--{field.replace('_', '-')}"
        named = {setting.partition("=")[0].strip() for setting in self.settings or ()}
        return f"--set {key}" if key in named else ""

    def load_at(
        self, extra: Mapping[str, Value], scheduler: str | None, file: Path | None = None
    ) -> Config:
        """The configuration with settings by their key laid over everything else."""
        from superinfer.lab.studies.axes import setting_text

        run: dict[str, object] = {"scheduler": scheduler} if scheduler else {}
        settings = []
        for key, value in extra.items():
            section, _, rest = key.partition(".")
            if section == "run" and "." not in rest:
                run[rest] = value
            else:
                settings.append(f"{key}={setting_text(value)}")
        return self.load(file, settings, run)


@dataclass(slots=True, frozen=True)
class StudyOptions:
    """The options of a command whose many runs are kept, and can be made elsewhere (those of `plan`
    cannot).
    """

    seeds: Seeds = 1
    out: KeptOut = None
    workers: Workers = 0
    engine: EngineName = "processes"
    address: Address = None
    as_json: AsJson = False
    no_plots: NoPlots = False

    def make_engine(self) -> StudyEngine:
        """Where the runs are made; ConfigError for what there is not."""
        from superinfer.lab.studies.engines import engine_of

        return engine_of(self.engine, self.workers, self.address)


@dataclass(slots=True, frozen=True)
class ComparisonOptions:
    """The options of a command that compares a few arms, on this machine."""

    seeds: Seeds = 1
    workers: Workers = 0
    out: Out = None
    as_json: AsJson = False
    no_plots: NoPlots = False


def names_in(text: str | None) -> tuple[str, ...]:
    """The names of a list with commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def load_arms(
    options: ConfigOptions,
    schedulers: str | None,
    files: Sequence[Path] | None,
    default: str,
    command: str,
) -> Arms:
    """The configurations that a command compares: of schedulers, by name, and of --arm files."""
    from sim.studies import arms

    def load(file: Path | None, scheduler: str | None) -> Config:
        return options.load(file, run={"scheduler": scheduler})

    names = scheduler_names(schedulers, files, default)
    return arms.load_arms(names, files or (), load, command)


def scheduler_names(text: str | None, arms: Sequence[Path] | None, default: str) -> tuple[str, ...]:
    """The schedulers of a command that also takes arms: `default` where neither is given."""
    return names_in(default if text is None and not arms else text)
