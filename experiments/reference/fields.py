"""Settings of a class: name, type, default and the docstring that stands below the field."""

from __future__ import annotations

import ast
import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

_UNITS = {
    "_ms": "ms",
    "_us": "us",
    "_s": "s",
    "_tokens": "tokens",
    "_blocks": "blocks",
    "_gib": "GiB",
    "_gb_per_s": "1e9 bytes/s",
    "_tokens_per_s": "tokens/s",
    "_seqs": "requests",
    "_len": "tokens",
    "share": "share",
    "_fraction": "share",
    "_utilization": "share",
    "_margin": "share",
    "watermark": "share",
    "_ttfts": "TTFT targets",
    "_ratio": "ratio",
    "_steps": "steps",
    "_bits": "bits",
}


@dataclass(slots=True, frozen=True)
class Setting:
    """A row of the reference."""

    name: str
    kind: str
    default: str
    unit: str
    meaning: str


def settings(cls: type, shared: typing.Mapping[str, str]) -> list[Setting]:
    """What can be set of a class; `shared` has the meanings of fields without a docstring. A field
    that has none at all is a KeyError.
    """
    told = docstrings(cls)
    found = []
    for name, annotation, default in _fields(cls):
        meaning = told.get(name) or shared.get(name)
        if meaning is None:
            raise KeyError(f"{cls.__module__}.{cls.__name__}.{name} has no docstring")
        found.append(
            Setting(name, kind(annotation), shown(default), unit(name), " ".join(meaning.split()))
        )
    return found


def unit(name: str) -> str:
    """The unit that a name ends with; nothing where it has none."""
    endings = [ending for ending in _UNITS if name.endswith(ending)]
    return _UNITS[max(endings, key=len)] if endings else ""


def kind(annotation: Any) -> str:
    """A type in words: `integer >= 1`, `true or false`, one of several words."""
    origin, given = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return f"{kind(given[0])}{_bounds(given[1:])}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in given)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind(each) for each in given if each is not type(None))
    if origin in (list, tuple):
        return f"list of {kind(given[0])}"
    if origin is dict:
        return f"table of {kind(given[1])}"
    words = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def shown(default: Any) -> str:
    """A default as TOML would have it."""
    if default is None:
        return "absent"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    return f"`{list(default) if isinstance(default, tuple) else default}`"


@cache
def docstrings(cls: type) -> dict[str, str]:
    """The texts below the fields of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        node = _node(base)
        found |= dict(_told(node)) if node else {}
    return found


def about(cls: type) -> str:
    """The first paragraph of a class's docstring; a compiled one has it in its source alone."""
    node = _node(cls)
    text = (ast.get_docstring(node) if node else None) or ""
    return " ".join(text.partition("\n\n")[0].split())


# -- inside ---------------------------------------------------------------------------------------


def _node(cls: type) -> ast.ClassDef | None:
    """The class in the text of its module, which lies beside a compiled one as well."""
    if not cls.__module__.startswith("superinfer"):
        return None
    path = Path(str(sys.modules[cls.__module__].__file__))
    source = path.with_name(f"{path.name.partition('.')[0]}.py").read_text(encoding="utf-8")
    classes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef))
    return next((node for node in classes if node.name == cls.__name__), None)


def _told(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            yield field.target.id, text.value.value


def _fields(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    if issubclass(cls, msgspec.Struct):
        hints = typing.get_type_hints(cls, include_extras=True)
        for each in msgspec.structs.fields(cls):
            factory = each.default_factory
            default = each.default if factory is msgspec.NODEFAULT else factory()
            yield each.name, hints[each.name], default
        return
    from superinfer.lab.config.policies import policy_types

    hints = policy_types(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            factory = field.default_factory
            given = field.default if factory is dataclasses.MISSING else factory()
            yield field.name, hints[field.name], given


def _bounds(extras: tuple[Any, ...]) -> str:
    said = []
    for meta in extras:
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            bound = getattr(meta, name, None)
            if bound is not None and not (name == "le" and bound >= 1e6):
                said.append(f"{sign} {bound:g}")
    return f" {', '.join(said)}" if said else ""
