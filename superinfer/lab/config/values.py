"""Values of settings as the types that their fields ask for, or one line about what is wrong."""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Final, Literal

import msgspec

from superinfer.errors import ConfigError
from superinfer.settings import expected_words, shown_value

MOST_WHOLE: Final = 2**63 - 1


def convert_setting(place: str, value: Any, hint: Any) -> Any:
    """`value` as what `hint` asks for; else a ConfigError with the place, in a table that of its
    entry, and what was expected.
    """
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        of_values = typing.get_args(hint)[1]
        return {key: convert_setting(f"{place}.{key}", value[key], of_values) for key in value}
    try:
        converted = msgspec.convert(value, hint)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"{place}: {_expected(error, hint)}, got {shown_value(value)}") from None
    if isinstance(value, str) and not value.isascii():
        _check_text(place, value)
    annotated = any(hasattr(part, "__metadata__") for part in (hint, *typing.get_args(hint)))
    if isinstance(converted, int | float) and not annotated:
        _check_number(place, converted, value)
    return converted


def _check_number(place: str, number: float, given: Any) -> None:
    """Refuse what is below 0 or not finite, or whole and more than a TOML file can hold."""
    if not 0 <= number < math.inf:
        raise ConfigError(f"{place}: expected a number >= 0, got {shown_value(given)}")
    if isinstance(number, int) and number > MOST_WHOLE:
        raise ConfigError(f"{place}: expected at most 2**63 - 1, got {shown_value(given)}")


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
