"""Run configuration: TOML files, `--set` overrides, and the policies that they name.

Sections: `[run]` (`RunConfig`), `[scheduler]`, `[memory]` and `[router]` (the constructor arguments
of the chosen policies), `[classes.<name>]` (service classes), `[workload]` (what is laid over a
workload specification). Every mistake is a ConfigError of one line.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from superinfer.compiled import own_annotations, shadows_compiled
from superinfer.errors import ConfigError, InputError
from superinfer.lab.dial import MEMORY as DIALLED_MEMORY
from superinfer.lab.dial import Dial, dial_of, parse_dial
from superinfer.memory import MEMORY_POLICIES
from superinfer.memory.base import MemoryPolicy
from superinfer.request import SLOClass
from superinfer.routers import ROUTERS
from superinfer.routers.base import Router
from superinfer.schedulers import SCHEDULERS
from superinfer.schedulers.base import Scheduler
from superinfer.settings import did_you_mean, expected_words, parse_settings, unknown
from superinfer.slo_classes import PRESETS, class_from_table, load_classes

SECTIONS = ("run", "scheduler", "memory", "router", "classes", "workload")

# Upper bounds keep every product of settings far from what a 64-bit integer or a float can hold.
Count = Annotated[int, Meta(ge=0, le=2**40)]
Tokens = Annotated[int, Meta(ge=0, le=2**30)]

_BUNDLED = Path(__file__).with_name("scenarios")
_KNOWN: Mapping[str, Mapping[str, str]] = {
    "scheduler": SCHEDULERS,
    "memory": MEMORY_POLICIES,
    "router": ROUTERS,
}
_PROTOCOLS: Mapping[str, type] = {
    "scheduler": Scheduler,
    "memory": MemoryPolicy,
    "router": Router,
}


class RunConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The `[run]` section: everything about a run that is not a policy's own parameter."""

    trace: str = ""
    """Path of a trace or of a specification, or the name of a bundled specification."""
    scheduler: str = "rotating"
    """Name, or `package.module:Class`."""
    memory: str = "lru"
    """Memory policy, by name or as `package.module:Class`."""
    model: str = "llama-3.1-8b"
    """Preset name, or path of a Hugging Face `config.json`."""
    routing_skew: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Of a model with experts, with roofline costs: how much its router prefers some of them
    (`superinfer.costs.experts`); 0: not at all."""
    device: str = "a100-80g"
    """Preset name."""
    replicas: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Engines of this kind, each on `tp` devices of its own, behind the router."""
    router: str = "least_loaded"
    """Name, or `package.module:Class`; takes part from two replicas on."""
    tp: Annotated[int, Meta(ge=1, le=2**20)] = 1
    """Tensor parallelism: GPUs of a replica."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Of what a specification draws. Replaying a trace draws nothing at random."""
    costs: str = "auto"
    """`auto`, `roofline`, `calibrated`, or the path of a profile. The scheduler `flexgen` puts its
    streaming around it, and takes `flexgen` for the roofline."""
    lag: Annotated[int, Meta(ge=0, le=1)] = 0
    """1: plan the next step while the current one runs."""
    prefix_caching: bool = False
    """Whether prompts find the blocks of equal beginnings."""
    block_tokens: Annotated[int, Meta(ge=0, le=2**14)] = 0
    """0: what the scheduler's system uses."""
    kv_blocks: Count = 0
    """Exact number of device blocks; 0: from memory, weights and activations."""
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """Share of device memory for weights, activations and KV blocks. `tensorrt_llm` has a setting
    of its own instead, the share of what weights and activations leave free."""
    host_memory_gib: Annotated[float, Meta(ge=0, le=2**20)] = 4.0
    """Host memory for swapped KV cache, per GPU (vLLM's default is 4 GiB)."""
    max_model_len: Tokens = 0
    """0: the model's own."""
    host_step_ms: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    """Host time before each step; absent: the cost model's."""
    host_link_gb_per_s: Annotated[float, Meta(ge=0.001, le=1e6)] | None = None
    """Copies to and from host memory per GPU, each way, in 1e9 bytes/s; absent: the device's."""
    host_per_sequence_us: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """Host time before each step for each sequence in it; absent: the cost model's."""
    concurrency: Count = 0
    """Closed loop: so many requests (closed sessions) are under way; 0: open loop."""
    sessions: Literal["open", "closed"] = "open"
    """closed: a later turn comes its think time (`delay_ms`) after the end of the one before."""
    backlog: dict[str, Annotated[int, Meta(ge=1, le=2**30)]] = msgspec.field(default_factory=dict)
    """Class to the number of its requests that always wait, whatever their times in the trace."""
    in_flight: dict[str, Annotated[int, Meta(ge=1, le=2**30)]] = msgspec.field(default_factory=dict)
    """Class to the number of its requests that are under way, whatever their times in the trace."""
    duration_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """Cut the run off at the first step that ends so late; 0: run to the end."""
    window_s: list[Annotated[float, Meta(ge=0, le=1e12)]] = msgspec.field(default_factory=list)
    """[from, to): measure only what happens there; empty: the whole run."""
    dial: dict[str, float] = msgspec.field(default_factory=dict)
    """Weights of `cost`, `speed` and `quality`, from which settings follow that are not given
    (`superinfer.lab.dial`); empty: no dial."""
    rate_scale: Annotated[float, Meta(ge=1e-6, le=1e6)] = 1.0
    """Arrival rate as a multiple of the trace's."""
    burstiness: Annotated[float, Meta(ge=0, le=1e3)] = 1.0
    """How far the gaps between arrivals lie from their mean, as a multiple of the trace's; 0: all
    are equal."""
    slo_scale: Annotated[float, Meta(ge=1e-3, le=1e3)] = 1.0
    """Targets of the requests as a multiple of what they are: 2 allows twice as long."""
    limit: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Use only the first so many requests; 0: all."""
    spread: bool = False
    """Distribute requests that share a stamp."""
    skip_bad: bool = False
    """Leave bad lines of a trace out, and say how many."""
    without_slo: bool = False
    """Take every target away from the requests."""


@dataclasses.dataclass(slots=True, frozen=True)
class Config:
    """A whole configuration, as given; `resolved` fills in the defaults."""

    run: RunConfig
    scheduler: dict[str, Any]
    memory: dict[str, Any]
    classes: dict[str, Any]
    workload: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What is laid over the specification that the trace is drawn from."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the parts were put together."""
    router: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build_scheduler(self) -> Any:
        """A fresh instance of the scheduler."""
        return build_policy("scheduler", self.run.scheduler, SCHEDULERS, self.scheduler)

    def build_memory(self) -> Any:
        """A fresh instance of the memory policy."""
        return build_policy("memory", self.run.memory, MEMORY_POLICIES, self.memory)

    def build_router(self) -> Any:
        """A fresh instance of the router."""
        return build_policy("router", self.run.router, ROUTERS, self.router)

    def service_classes(self) -> dict[str, SLOClass]:
        """The preset classes, with those of the configuration and of its dial laid over them."""
        classes = dict(PRESETS)
        if dial := dial_of(self.run.dial):
            classes = {
                name: dataclasses.replace(preset, min_kv_bits=dial.floor_bits)
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
            "scheduler": _parameters(self.run.scheduler, self.build_scheduler()),
            "memory": _parameters(self.run.memory, self.build_memory()),
            "router": _parameters(self.run.router, self.build_router()),
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
    files = [(file, _read(file)) for file in _listed(path)]
    given = parse_settings(settings, SECTIONS)
    run = _merged("run", files, given)
    run |= {key: value for key, value in overrides.items() if value is not None}
    if isinstance(run.get("dial"), str):
        run["dial"] = parse_dial(run["dial"])
    if run.get("dial"):
        run.setdefault("memory", DIALLED_MEMORY)
    chosen = _run_config(run)
    dial = dial_of(chosen.dial)
    notes: list[str] = []
    scheduler = _policy_table("scheduler", chosen.scheduler, files, given, notes)
    memory = _policy_table("memory", chosen.memory, files, given, notes)
    router = _policy_table("router", chosen.router, files, given, notes)
    if dial is not None:
        scheduler = _dialled(dial, "scheduler", chosen.scheduler, scheduler, notes)
        memory = _dialled(dial, "memory", chosen.memory, memory, notes)
    config = Config(
        run=chosen,
        scheduler=scheduler,
        memory=memory,
        classes=_class_tables(files, classes, given),
        workload=_nested([*(tables for _, tables in files), given], "workload"),
        notes=tuple(notes),
        router=router,
    )
    config.resolved()  # what cannot be stored must not be found out after the run
    return config


def bundled_configs() -> dict[str, Path]:
    """The configurations that ship with the package, by the names that stand for them."""
    return {path.stem: path for path in sorted(_BUNDLED.glob("*.toml"))}


def policy_types(cls: type) -> dict[str, Any]:
    """The types of the fields of a policy, those that it inherits included, compiled or not."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found |= _own_hints(base)
    return found


def build_policy(
    section: str, name: str, known: Mapping[str, str], parameters: Mapping[str, Any]
) -> Any:
    """An instance of a policy by its name, or by `package.module:Class` for outside code.

    Numbers must be finite and not negative, unless a field is `Annotated` with its own bounds.
    """
    cls = _load(section, name, known)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = _hints(section, name, cls)
    values = {}
    for key, value in parameters.items():
        if key not in fields:
            raise ConfigError(unknown(f"{section}.{key}", key, fields, f"{name} takes"))
        if value == fields[key].default and type(value) is type(fields[key].default):
            continue
        values[key] = _convert(f"{section}.{key}", value, hints[key])
    return _instance(section, name, cls, values)


def parameters_of(section: str, name: str) -> dict[str, Any]:
    """The parameters that a policy takes, with their type hints."""
    cls = _load(section, name, _KNOWN[section])
    hints = _hints(section, name, cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


# -- layers ---------------------------------------------------------------------------------------

Tables = dict[str, dict[str, Any]]
Files = Sequence[tuple[Path, Tables]]


def _listed(path: str | Path | Sequence[Path] | None) -> Sequence[Path]:
    if path is None:
        return ()
    return [_found(Path(file)) for file in ((path,) if isinstance(path, str | Path) else path)]


def _found(file: Path) -> Path:
    """The bundled configuration of that name, unless there is such a file."""
    if len(file.parts) != 1 or file.suffix or file.exists():
        return file
    bundled = bundled_configs()
    if str(file) not in bundled:
        expected = f"expected a TOML file or one of {', '.join(bundled)}"
        raise InputError(f"{expected}{did_you_mean(str(file), bundled)}", file=str(file))
    return bundled[str(file)]


def _read(path: Path) -> Tables:
    """The sections of a file; `[run]`, `[classes]` and the policies it names are checked alone, so
    that a fault is reported with the file.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected TOML: {error}", file=str(path)) from None
    with _in_file(path):
        for name, table in tables.items():
            if name not in SECTIONS:
                raise ConfigError(unknown(f"[{name}]", name, SECTIONS, "sections are"))
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: expected a table, got {table!r}")
        run = tables.get("run", {})
        _run_config(run)
        for section in _KNOWN:
            if section in run:
                _load(section, run[section], _KNOWN[section])
        _check_classes(tables.get("classes", {}))
    return tables


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Put the file in front of every ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _merged(section: str, files: Files, given: Tables) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for _, tables in files:
        merged |= tables.get(section, {})
    return merged | given.get(section, {})


def _nested(layers: Iterable[Tables], section: str) -> dict[str, Any]:
    """The tables of a section laid over each other, key by key at any depth."""

    def lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        for key, value in above.items():
            both = isinstance(value, dict) and isinstance(below.get(key), dict)
            below[key] = lay_over(dict(below[key]), value) if both else value
        return below

    merged: dict[str, Any] = {}
    for layer in layers:
        lay_over(merged, layer.get(section, {}))
    return merged


def _policy_table(
    section: str, chosen: str, files: Files, given: Tables, notes: list[str]
) -> dict[str, Any]:
    """The parameters for the chosen policy, checked file by file and as a whole."""
    known, fitting = _KNOWN[section], []
    _load(section, chosen, known)
    for file, tables in files:
        named, table = tables.get("run", {}).get(section, chosen), tables.get(section, {})
        if named == chosen:
            fitting.append((file, tables))
            with _in_file(file):
                build_policy(section, chosen, known, table)
        elif table:
            notes.append(f"{file}: [{section}] is for {named}: not used with {chosen}")
    return _merged(section, fitting, given)


def _dialled(
    dial: Dial, section: str, chosen: str, table: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """What a dial sets of a policy, with what is given laid over it; a note says what the policy
    does not have.
    """
    cls, settings = _load(section, chosen, _KNOWN[section]), dial.settings(section)
    taken = {field.name for field in dataclasses.fields(cls) if field.init}
    if lacking := [key for key in settings if key not in taken]:
        notes.append(f"run.dial: not for {chosen}, which has no {', '.join(lacking)}")
    return {key: value for key, value in settings.items() if key in taken} | table


def _class_tables(files: Files, classes: Path | None, given: Tables) -> dict[str, Any]:
    """`[classes.<name>]` of all layers, key by key; the last one to give a key wins."""
    layers = [tables.get("classes", {}) for _, tables in files]
    if classes is not None:
        load_classes(classes)  # for its complaints
        text = classes.read_text(encoding="utf-8-sig")
        layers.append(tomllib.loads(text).get("classes", {}))
    layers.append(given.get("classes", {}))
    merged: dict[str, Any] = {}
    for layer in layers:
        _check_classes(layer)
        for name, table in layer.items():
            merged[name] = {**merged.get(name, {}), **table}
    return merged


def _check_classes(tables: Mapping[str, Any]) -> None:
    for name, table in tables.items():
        class_from_table(name, table, PRESETS.get(name, PRESETS["default"]))


# -- policies -------------------------------------------------------------------------------------


def _load(section: str, name: str, known: Mapping[str, str]) -> Any:
    target = known.get(name, name)
    if ":" not in target:
        lead = "expected package.module:Class or one of"
        raise ConfigError(unknown(f"{section} {name!r}", name, known, lead))
    module, _, attribute = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of the user's raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{section} {name!r}: cannot import: {reason}") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{section} {name!r}: expected a dataclass, got {cls!r}")
    if shadows_compiled(cls):
        expected = "expected a plain @dataclass, without slots=True, over a compiled one"
        raise ConfigError(f"{section} {name!r}: {expected}")
    return cls


def _hints(section: str, name: str, cls: type) -> dict[str, Any]:
    try:
        return policy_types(cls)
    except (NameError, TypeError) as error:
        raise ConfigError(f"{section} {name!r}: cannot read its annotations: {error}") from None


def _own_hints(cls: type) -> dict[str, Any]:
    """Type hints of what a class itself declares."""
    spoken = {"__annotations__": own_annotations(cls), "__module__": cls.__module__}
    return typing.get_type_hints(type(cls.__name__, (), spoken), include_extras=True)


def _instance(section: str, name: str, cls: Any, values: Mapping[str, Any]) -> Any:
    """An instance that has all that the section's protocol asks for."""
    try:
        policy = cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{section} {name!r}: {error}") from None
    protocol = _PROTOCOLS[section]
    wanted = [*own_annotations(protocol), *(key for key in vars(protocol) if key[0] != "_")]
    missing = [key for key in wanted if not hasattr(policy, key)]
    if missing:
        raise ConfigError(f"{section} {name!r}: expected a {section} with {', '.join(missing)}")
    return policy


def _parameters(name: str, policy: Any) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(policy) if field.init]
    try:
        return {key: msgspec.to_builtins(getattr(policy, key)) for key in fields}
    except TypeError as error:
        raise ConfigError(f"{name}: cannot store its settings: {error}") from None


# -- values ---------------------------------------------------------------------------------------


def _run_config(table: Mapping[str, Any]) -> RunConfig:
    hints = typing.get_type_hints(RunConfig, include_extras=True)
    for key in table:
        if key not in hints:
            raise ConfigError(unknown(f"run.{key}", key, hints, "known are"))
    run = RunConfig(**{key: _convert(f"run.{key}", table[key], hints[key]) for key in table})
    if run.window_s and not (len(run.window_s) == 2 and run.window_s[0] < run.window_s[1]):
        raise ConfigError(f"run.window_s: expected [from, to), got {_shown(run.window_s)}")
    if run.window_s and run.duration_s and run.window_s[1] > run.duration_s:
        raise ConfigError(f"run.window_s: expected an end within run.duration_s {run.duration_s}")
    return run


def _convert(place: str, value: Any, hint: Any) -> Any:
    """`value` as what `hint` asks for; else a ConfigError with the place and what was expected."""
    try:
        converted = msgspec.convert(value, hint)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"{place}: {_expected(error, hint)}, got {_shown(value)}") from None
    if isinstance(value, str) and not value.isascii():
        _check_text(place, value)
    annotated = any(hasattr(part, "__metadata__") for part in (hint, *typing.get_args(hint)))
    number = isinstance(converted, int | float) and not annotated
    if number and not (math.isfinite(converted) and converted >= 0):
        raise ConfigError(f"{place}: expected a number >= 0, got {_shown(value)}")
    return converted


def _check_text(place: str, text: str) -> None:
    """A file name that is no UTF-8 could not be written to the result folder."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{place}: expected UTF-8 text, got {text!a}") from None


def _expected(error: Exception, hint: Any) -> str:
    """What msgspec expected, in plain words."""
    options = [hint, *(typing.get_args(hint) if _is_union(hint) else ())]
    for option in options:
        if typing.get_origin(option) is Literal:
            return f"expected one of {', '.join(map(repr, typing.get_args(option)))}"
    text = str(error).partition(" - at `")[0]
    words = expected_words(text)
    return f"expected {words}" if words else text[:1].lower() + text[1:].replace("`", "")


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
