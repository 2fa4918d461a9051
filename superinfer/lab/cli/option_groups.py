"""Options in groups: a dataclass among a command's parameters stands for an option per field."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(slots=True, frozen=True)
class Group:
    """One such parameter."""

    kind: type
    """A dataclass whose fields are `Annotated` with a `typer.Option` or a `typer.Argument`."""
    options: Sequence[inspect.Parameter]
    """Of its fields, less those that the command leaves out: these keep their defaults."""

    @classmethod
    def of(cls, kind: type, left_out: Collection[str] = ()) -> Group:
        """With an option for each field that is not left out."""
        hints = typing.get_type_hints(kind, include_extras=True)
        options = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]
            )
            for f in fields(kind)
            if f.name not in left_out
        ]
        return cls(kind, options)

    def take(self, given: dict[str, Any]) -> Any:
        """The dataclass, made of what is given of its options, which `given` then has no more."""
        return self.kind(**{o.name: given.pop(o.name) for o in self.options if o.name in given})


def signature_of(command: Callable[..., None]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a command, with their types."""
    return inspect.signature(command, eval_str=True).parameters


def ungrouped(
    command: Callable[..., None],
    groups: Mapping[str, Group],
    parameters: Sequence[inspect.Parameter],
) -> Callable[..., None]:
    """The command with `parameters`, in this order: its own and the options of its groups, which it
    gets by the names of `groups`.
    """
    shown = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        taken = {name: group.take(given) for name, group in groups.items()}
        command(**taken, **given)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in shown}
    return called
