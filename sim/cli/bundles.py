"""Commands that take common options as a dataclass, for typer, which wants them one by one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection

from sim.cli.options import ComparisonOptions, ConfigOptions, StudyOptions
from superinfer.lab.cli.option_groups import Group, signature_of, ungrouped

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
    given_to = signature_of(command)
    groups = {
        name: Group.of(p.annotation, left_out)
        for name, p in given_to.items()
        if p.annotation in _BUNDLES
    }
    own = [p for name, p in given_to.items() if name not in groups]
    (trace, *others), *studies = (group.options for group in groups.values())
    return ungrouped(command, groups, (trace, *own, *itertools.chain(*studies), *others))
