"""The options that the commands of `superinfer-exec` share, beside those of `lab.cli.options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

import typer

from executor.clocks.timers import CLOCK_HELP
from superinfer.lab.cli.option_groups import Group, signature_of, ungrouped
from superinfer.lab.cli.options import (
    AsReleased,
    Classes,
    ConfigFile,
    Lag,
    Limit,
    Memory,
    PrefixCaching,
    RateScale,
    Scheduler,
    Settings,
    SkipBad,
    Trace,
    WithoutSlo,
)

if TYPE_CHECKING:
    from executor.session import ModelOptions
    from superinfer.lab.config import Config

Model = Annotated[
    str | None,
    typer.Option(help="Folder with safetensors, config.json, or preset.", show_default="tiny"),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, or the preset of the GPU.", show_default="cuda if there is one"),
]
OwnDevice = Annotated[
    str | None, typer.Option(help="cpu or cuda.", show_default="cuda if there is one")
]
"""Of a command that measures the device itself, whatever it is called."""
Dtype = Annotated[
    str,
    typer.Option(help="float32, float16, bfloat16.", show_default="bfloat16; float32 on a CPU"),
]
Int8 = Annotated[bool, typer.Option("--int8", help="Keep weights in 8 bits.")]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Draw the weights; needs no files but sizes.")
]
Graphs = Annotated[bool, typer.Option("--graphs/--no-graphs", help="CUDA graphs for steps.")]
Tp = Annotated[
    int | None, typer.Option("--tp", min=1, help="GPUs that share the model.", show_default="1")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of weights, prompts and sampling.")]
KvBlocks = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="KV blocks.", show_default="what fits on the device"),
]
BlockTokens = Annotated[
    int | None, typer.Option(help="Tokens of a block: 16, 32, 64.", show_default="the scheduler's")
]
MaxModelLen = Annotated[
    int | None, typer.Option(min=1, help="Longest context.", show_default="the model's")
]
ClockName = Annotated[str, typer.Option("--clock", help=CLOCK_HELP)]
JsonAlone = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


@dataclass(slots=True, frozen=True)
class ConfigOptions:
    """The options from which a configuration is made; what is not given is None."""

    trace: Trace = None
    scheduler: Scheduler = None
    memory: Memory = None
    model: Model = None
    device: Device = None
    tp: Tp = None
    kv_blocks: KvBlocks = None
    block_tokens: BlockTokens = None
    max_model_len: MaxModelLen = None
    prefix_caching: PrefixCaching = None
    lag: Lag = None
    as_released: AsReleased = None
    limit: Limit = None
    config: ConfigFile = None
    settings: Settings = None
    classes: Classes = None
    rate_scale: RateScale = None
    without_slo: WithoutSlo = None
    skip_bad: SkipBad = None
    seed: Seed = None

    def load(self) -> Config:
        """The configuration; ConfigError for what cannot be."""
        from executor.defaults import device_and_model
        from superinfer.lab.config import load_config

        elsewhere = ("config", "settings", "classes", "device", "model")
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}
        settings = self.settings or ()
        return load_config(
            self.config,
            settings,
            self.classes,
            **given,
            **device_and_model(self.device, self.model, self.config, settings),
        )


@dataclass(slots=True, frozen=True)
class LoadingOptions:
    """How a model is loaded."""

    dtype: Dtype = ""
    int8: Int8 = False
    random_weights: RandomWeights = False
    graphs: Graphs = True

    def chosen(self) -> ModelOptions:
        """These options as a session takes them; its module needs torch."""
        from executor.session import ModelOptions

        return ModelOptions(self.dtype, self.int8, self.random_weights, self.graphs)


_GROUPS = (ConfigOptions, LoadingOptions)


def with_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command with a parameter of type `ConfigOptions` or `LoadingOptions`: their options
    stand in its place, less those that are left out.
    """

    def changed(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        groups: dict[str, Group] = {}
        for name, own in signature_of(command).items():
            if own.annotation in _GROUPS:
                groups[name] = Group.of(own.annotation, left_out)
                parameters += groups[name].options
            else:
                parameters.append(own)
        return ungrouped(command, groups, parameters)

    return changed
