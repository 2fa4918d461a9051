"""Run configuration: TOML files, `--set` overrides, and the policies that they name.

Sections: `[run]` (`RunConfig`), `[scheduler]`, `[memory]` and `[router]` (the constructor arguments
of the chosen policies), `[classes.<name>]` (service classes), `[workload]` (what is laid over a
workload specification). Every mistake is a ConfigError of one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from superinfer.errors import ConfigError, InputError
from superinfer.lab.config.dial import MEMORY as DIALLED_MEMORY
from superinfer.lab.config.dial import Dial, dial_of, parse_dial
from superinfer.lab.config.layers import SECTIONS, Layers, bundled_configs, read_files
from superinfer.lab.config.policies import (
    POLICIES,
    build_policy,
    policy_class,
    stored_parameters,
)
from superinfer.lab.config.released import released
from superinfer.lab.config.run import RunConfig, run_config
from superinfer.request import SLOClass
from superinfer.settings import parse_settings, shown_value
from superinfer.slo_classes import PRESETS, class_from_table

__all__ = ["SECTIONS", "Config", "RunConfig", "bundled_configs", "load_config"]


@dataclass(slots=True, frozen=True)
class Config:
    """A whole configuration, as given; `resolved` fills in the defaults."""

    run: RunConfig
    scheduler: dict[str, Any]
    memory: dict[str, Any]
    classes: dict[str, Any]
    workload: dict[str, Any] = field(default_factory=dict)
    """What is laid over the specification that the trace is drawn from."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the parts were put together."""
    router: dict[str, Any] = field(default_factory=dict)
    router_named: bool = False
    """Whether a router was chosen, be it the one that is the default."""

    def build_scheduler(self) -> Any:
        """A fresh instance of the scheduler."""
        return build_policy("scheduler", self.run.scheduler, self.scheduler)

    def build_memory(self) -> Any:
        """A fresh instance of the memory policy."""
        return build_policy("memory", self.run.memory, self.memory)

    def build_router(self) -> Any:
        """A fresh instance of the router."""
        return build_policy("router", self.run.router, self.router)

    def with_run(self, **settings: Any) -> Config:
        """The same with other settings in `[run]`, which are not checked once more."""
        return replace(self, run=msgspec.structs.replace(self.run, **settings))

    def service_classes(self) -> dict[str, SLOClass]:
        """The preset classes, with those of the configuration and of its dial laid over them."""
        classes = dict(PRESETS)
        if dial := dial_of(self.run.dial):
            classes = {
                name: replace(preset, min_kv_bits=dial.floor_bits)
                for name, preset in classes.items()
            }
        for name, table in self.classes.items():
            classes[name] = class_from_table(name, table, classes.get(name, classes["default"]))
        return classes

    def resolved(self) -> dict[str, Any]:
        """All settings with their defaults, as nested tables that `load_config` accepts."""
        run: dict[str, Any] = msgspec.to_builtins(self.run)
        found = {
            "run": run,
            "scheduler": stored_parameters(self.run.scheduler, self.build_scheduler()),
            "memory": stored_parameters(self.run.memory, self.build_memory()),
            "router": stored_parameters(self.run.router, self.build_router()),
            "classes": self.classes,
            "workload": self.workload,
        }
        if self.run.replicas == 1:  # nothing of a cluster takes part
            del run["replicas"], run["router"], found["router"]
        return found


def load_config(
    path: str | Path | Sequence[Path] | None = None,
    settings: Iterable[str] = (),
    classes: Path | None = None,
    **overrides: object,
) -> Config:
    """Lay TOML files, a file of classes, `section.key=value` settings and `[run]` overrides over
    each other, in this order; overrides that are None do not count.

    In place of a file there may be the name of a bundled configuration, such as `scenario-m`. A
    setting's value is TOML; what is not TOML is taken as text. A `[scheduler]`, `[memory]` or
    `[router]` table goes with the policy that its file names; if another one is chosen, it is left
    out and a note says so.
    """
    if isinstance(settings, str | Mapping):
        expected = "expected a list of texts such as 'run.lag=1'"
        raise ConfigError(f"settings: {expected}, got {shown_value(settings)}")
    layers = Layers(read_files(path), parse_settings(settings, SECTIONS))
    run_table = _run_table(layers, overrides)
    run = _run(layers, run_table)
    notes: list[str] = []
    chosen = {section: getattr(run, section) for section in POLICIES}
    tables = {section: layers.policy(section, name, notes) for section, name in chosen.items()}
    if dial := dial_of(run.dial):
        for section in ("scheduler", "memory"):
            tables[section] = _dialled(dial, section, chosen[section], tables[section], notes)
    config = Config(
        run=run,
        classes=layers.classes(classes),
        workload=layers.nested("workload"),
        notes=(*notes, *_profile_notes(run.costs)),
        router_named="router" in run_table,
        **tables,
    )
    config.resolved()  # what cannot be stored must not be found out after the run
    return config


# -- inside ---------------------------------------------------------------------------------------


def _run(layers: Layers, table: dict[str, Any]) -> RunConfig:
    """`[run]`, over what the release of its scheduler ships with where that is asked for."""
    run = run_config(table)
    if not run.as_released:
        return run
    parameters = layers.policy("scheduler", run.scheduler, [])
    return run_config(released(run.scheduler, parameters) | table)


def _run_table(layers: Layers, overrides: Mapping[str, object]) -> dict[str, Any]:
    """`[run]` of all layers, with the memory policy that a dial asks for."""
    given = {key: value for key, value in overrides.items() if value is not None}
    table = layers.merged("run") | given
    if isinstance(table.get("dial"), str):
        table["dial"] = parse_dial(table["dial"])
    if table.get("dial"):
        table.setdefault("memory", DIALLED_MEMORY)
    return table


def _profile_notes(costs: str) -> tuple[str, ...]:
    """What is to be known of a profile that is named by its file."""
    if not Path(costs).is_file():
        return ()
    from superinfer.costs import load_profile

    try:
        return load_profile(costs).notes
    except InputError:
        return ()  # whoever makes the cost model says what is wrong


def _dialled(
    dial: Dial, section: str, chosen: str, table: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """What a dial sets of a policy, with what is given laid over it; a note says what the policy
    does not have.
    """
    cls, settings = policy_class(section, chosen), dial.settings(section)
    taken = {field.name for field in dataclasses.fields(cls) if field.init}
    if lacking := [key for key in settings if key not in taken]:
        notes.append(f"run.dial: not for {chosen}, which has no {', '.join(lacking)}")
    return {key: value for key, value in settings.items() if key in taken} | table
