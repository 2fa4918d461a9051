"""Commands that take common options as a dataclass, for typer, which wants them one by one."""

from __future__ import annotations

import functools
import inspect
import itertools
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any

from sim.options import ComparisonOptions, ConfigOptions, StudyOptions

_BUNDLES = (ConfigOptions, StudyOptions, ComparisonOptions)


def with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `ConfigOptions`, with these options in its place: the
    trace before its own options, the others after them. A `StudyOptions` or `ComparisonOptions`
    beside it is taken apart too: between its own options and those others.
    """
    return with_config_options_but()(command)


def with_config_options_but(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`with_config_options` without some of these options."""
    return functools.partial(_with_options, left_out)


# -- inside ---------------------------------------------------------------------------------------


def _with_options(left_out: Collection[str], command: Callable[..., None]) -> Callable[..., None]:
    given_to = inspect.signature(command, eval_str=True).parameters
    kinds = {name: p.annotation for name, p in given_to.items() if p.annotation in _BUNDLES}
    bundles = {name: _options_of(kind, left_out) for name, kind in kinds.items()}
    own = [p for name, p in given_to.items() if name not in bundles]
    (trace, *others), *studies = bundles.values()
    parameters = [
        option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for option in (trace, *own, *itertools.chain(*studies), *others)
    ]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        taken = {
            name: kinds[name](**{o.name: given.pop(o.name) for o in found if o.name in given})
            for name, found in bundles.items()
        }
        command(**taken, **given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def _options_of(kind: type, left_out: Collection[str] = ()) -> Sequence[inspect.Parameter]:
    """A parameter for each field of a dataclass of options."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]
        )
        for f in fields(kind)
        if f.name not in left_out
    ]
