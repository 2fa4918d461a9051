"""What every table of a specification is made of: strict structs and bounded numbers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from superinfer.slo_classes import MAX_LENGTH_TOKENS

Amount = Annotated[float, Meta(ge=0, le=1e9)]
"""Tokens or seconds."""
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Tokens = Annotated[int, Meta(ge=1, le=MAX_LENGTH_TOKENS)]
Weight = Annotated[float, Meta(gt=0, le=1e9)]
Name = Annotated[str, Meta(min_length=1)]


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table; a key that is not a field is an error.

    A `__post_init__` reports a fault between fields as `ValueError("field: expected ...")`.
    """


def exactly_one(table: Table, *names: str) -> str:
    """The one of the named optional fields that is given; `ValueError` for none or several."""
    given = [name for name in names if getattr(table, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"expected exactly one of {', '.join(names)}, got {' and '.join(given) or 'none'}"
        )
    return given[0]


def forbid(table: Table, names: tuple[str, ...], beside: str) -> None:
    """`ValueError` if one of the optional fields is given."""
    for name in names:
        if getattr(table, name) is not None:
            raise ValueError(f"{name}: expected nothing beside {beside}, got a value")
