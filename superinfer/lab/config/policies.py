"""Policies by name: what a section can choose, and instances of it with checked parameters."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from superinfer.compiled import own_annotations, shadows_compiled, uncover_compiled
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.config.policy_faults import place_of
from superinfer.lab.config.values import convert_setting
from superinfer.memory import MEMORY_POLICIES
from superinfer.memory.base import MemoryPolicy
from superinfer.routers import ROUTERS
from superinfer.routers.base import Router
from superinfer.schedulers import SCHEDULERS
from superinfer.schedulers.base import Scheduler
from superinfer.settings import did_you_mean, is_integer, shown_value, unknown

POLICIES: Mapping[str, Mapping[str, str]] = {
    "scheduler": SCHEDULERS,
    "memory": MEMORY_POLICIES,
    "router": ROUTERS,
}
"""Sections that choose a policy, with the names that are known there and where these lead."""
_PROTOCOLS: Mapping[str, type] = {
    "scheduler": Scheduler,
    "memory": MemoryPolicy,
    "router": Router,
}
_CALLED = {"memory": "memory policy"}
"""What the policy of a section is called, where that is not the section's name."""


def build_policy(section: str, name: str, parameters: Mapping[str, Any]) -> Any:
    """An instance of a policy by its name, or by `package.module:Class` for outside code.

    Numbers must be finite and not negative, unless a field is `Annotated` with its own bounds.
    """
    cls = policy_class(section, name)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = _hints(section, name, cls)
    values = {}
    for key, value in parameters.items():
        if key not in fields:
            raise ConfigError(unknown(f"{section}.{key}", key, fields, f"{name} takes"))
        if value == fields[key].default and type(value) is type(fields[key].default):
            continue
        values[key] = convert_setting(f"{section}.{key}", value, hints[key])
    return _instance(section, name, cls, values)


def _no_policy(section: str, name: str, known: Iterable[str]) -> str:
    """A name that is none of ours; one with a dot is nearly a class of one's own."""
    module, dot, cls = name.rpartition(".")
    if cls == "py":
        return f"{section} {name!r}: expected package.module:Class, got a file"
    if dot and module and cls.isidentifier():
        return f"{section} {name!r}: unknown (did you mean {f'{module}:{cls}'!r}?)"
    lead = "expected package.module:Class or one of"
    return unknown(f"{section} {name!r}", name, known, lead)


def policy_class(section: str, name: str) -> Any:
    """The dataclass of a policy; ConfigError where the name leads to none."""
    known = POLICIES[section]
    target = known.get(name, name)
    if ":" not in target:
        raise ConfigError(_no_policy(section, name, known))
    cls = imported(f"{section} {name!r}", target)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{section} {name!r}: expected a dataclass, got {shown_value(cls)}")
    if inspect.get_annotations(cls) and "__dataclass_fields__" not in vars(cls):
        expected = f"expected @dataclass above class {cls.__name__} too, for it has fields"
        raise ConfigError(f"{section} {name!r}: {expected}")
    if shadows_compiled(cls):
        expected = "expected a plain @dataclass, without slots=True, over a compiled one"
        raise ConfigError(f"{section} {name!r}: {expected}")
    uncover_compiled(cls)
    return cls


def imported(place: str, target: str) -> Any:
    """What `package.module:name` leads to; ConfigError that begins with `place`."""
    module, _, attribute = target.partition(":")
    if not attribute or "/" in module or module.endswith(".py"):
        raise ConfigError(f"{place}: expected package.module:Class{_as_module(module, attribute)}")
    found: ModuleType | None = None
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute)
    except (Exception, SystemExit) as error:  # whatever a module of the user's raises
        hint = _meant(module, attribute, found, error)
        raise ConfigError(f"{place}: cannot import: {_why(error)}{hint}") from None


def parameters_of(section: str, name: str) -> dict[str, Any]:
    """The parameters that a policy takes, with their type hints."""
    cls = policy_class(section, name)
    hints = _hints(section, name, cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def stored_parameters(name: str, policy: Any) -> dict[str, Any]:
    """The parameters of an instance as a configuration file can hold them, else ConfigError."""
    fields = [field.name for field in dataclasses.fields(policy) if field.init]
    try:
        return {key: msgspec.to_builtins(getattr(policy, key)) for key in fields}
    except TypeError as error:
        raise ConfigError(f"{name}: cannot store its settings: {error}") from None


def policy_types(cls: type) -> dict[str, Any]:
    """The types of the fields of a policy, those that it inherits included, compiled or not."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found |= _own_hints(base)
    return found


# -- inside ---------------------------------------------------------------------------------------


def _hints(section: str, name: str, cls: type) -> dict[str, Any]:
    try:
        return policy_types(cls)
    except (NameError, TypeError) as error:
        raise ConfigError(f"{section} {name!r}: cannot read its annotations: {error}") from None


def _own_hints(cls: type) -> dict[str, Any]:
    """Type hints of what a class itself declares."""
    spoken = {"__annotations__": own_annotations(cls), "__module__": cls.__module__}
    return typing.get_type_hints(type(cls.__name__, (), spoken), include_extras=True)


def _as_module(path: str, attribute: str) -> str:
    """The name of a module that was given by its file, and where that can be imported."""
    file = Path(path if path.endswith(".py") else f"{path}.py")
    if not attribute or not file.is_file():
        return ""
    inside = file.resolve().is_relative_to(Path.cwd())
    home = Path.cwd() if inside else file.resolve().parent
    module = ".".join(file.resolve().relative_to(home).with_suffix("").parts)
    where = "" if inside else f" in {home}"
    return f" (did you mean {f'{module}:{attribute}'!r}{where}?)"


def _meant(module: str, attribute: str, found: ModuleType | None, error: BaseException) -> str:
    """What may be meant by a module that is not there, or by a class that it lacks; those that it
    defines come before those that it imports.
    """
    if found is not None and (hidden := _hidden(found)):
        return hidden
    if found is not None:
        own = [key for key in vars(found) if getattr(vars(found)[key], "__module__", "") == module]
        meant = did_you_mean(attribute, own) or did_you_mean(attribute, vars(found))
        alone = "; what a notebook defines is in no other process, but what a file defines is"
        return meant + (alone if module == "__main__" else "")
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return did_you_mean(module, (file.stem for file in Path().glob("*.py")))
    return ""


def _hidden(found: ModuleType) -> str:
    """That a file of the current folder is not what was imported: Python's module of that name is
    found before it.
    """
    file = Path(*found.__name__.split(".")).with_suffix(".py")
    taken = getattr(found, "__file__", None)
    if not file.is_file() or (taken and os.path.exists(taken) and file.samefile(taken)):
        return ""
    return f"; {file} here needs another name, for {taken or 'a part of Python'} comes before it"


def _why(error: BaseException) -> str:
    """What a module or a class of the user's raised, and where in its file."""
    reason = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return reason  # which says where
    place = place_of(error)
    if not place:
        return reason or type(error).__name__
    return f"{type(error).__name__}{reason and ': '}{reason} ({place})"


def _instance(section: str, name: str, cls: Any, values: Mapping[str, Any]) -> Any:
    """An instance that has all that the section's protocol asks for."""
    try:
        policy = cls(**values)
    except SuperInferError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{section} {name!r}: {error}") from None
    except (Exception, SystemExit) as error:
        if ":" not in name:
            raise
        raise ConfigError(f"{section} {name!r}: cannot be made: {_why(error)}") from None
    _check_protocol(section, f"{section} {name!r}", policy)
    return policy


def _check_protocol(section: str, place: str, policy: Any) -> None:
    """Refuse an instance that lacks something of the section's protocol, or has it as another thing
    than it is to be.
    """
    protocol = _PROTOCOLS[section]
    hints = _own_hints(protocol)
    members = {key: each for key, each in vars(protocol).items() if key[0] != "_"}
    missing = [key for key in hints | members if not hasattr(policy, key)]
    if missing:
        called = _CALLED.get(section, section)
        raise ConfigError(f"{place}: expected a {called} with {', '.join(missing)}")
    for key, each in members.items():
        if isinstance(each, property):
            hints[key] = typing.get_type_hints(each.fget)["return"]
        elif key not in hints:
            _check_method(f"{place}: {key}", getattr(policy, key))
    for key, hint in hints.items():
        wanted = Annotated[int, Meta(ge=1)] if key == "block_tokens" else hint
        value = getattr(policy, key)
        plain = int(value) if is_integer(value) else value
        convert_setting(f"{place}: {key}", plain, wanted)


def _check_method(place: str, method: Any) -> None:
    """A call of another kind of function, whose result nobody waits for, would do nothing."""
    if not callable(method):
        raise ConfigError(f"{place}: expected a method, got {shown_value(method)}")
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise ConfigError(f"{place}: expected a plain method, without async and yield")
