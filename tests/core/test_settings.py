"""What a refusal by msgspec expected, and what it got, in words that a user's file knows."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from superinfer.settings import expected_words, kind_words, shown_value


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "x", "an integer"),
        (float, "x", "a number"),
        (int | float, "x", "a number"),
        (str, 1, "a text"),
        (bool, 1, "true or false"),
        (dict[str, int], 1, "a table"),
        (list[int], 1, "a list"),
        (int | None, "x", "an integer"),
        (int | str, [], "an integer or a text"),
        (Annotated[int, Meta(ge=1)], 0, "an integer >= 1"),
        (Annotated[int, Meta(le=2**63 - 1)], 2**63, "an integer <= 9223372036854775807"),
        (Annotated[float, Meta(gt=0)], 0.0, "a number > 0"),
        (Annotated[list[int], Meta(min_length=1)], [], "a list of at least 1"),
        (tuple[int, int], [1], "a list of 2"),
    ],
)
def test_kinds_and_bounds_in_words(kind: Any, value: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        msgspec.convert(value, kind)
    assert expected_words(str(refusal.value)) == words


def test_what_names_no_kind() -> None:
    assert expected_words("Invalid enum value 'x'") is None


def test_a_kind_of_its_own_keeps_its_name() -> None:
    assert kind_words(["date", "null"]) == "date"


class Mute:
    """Raises when it is to be shown."""

    def __repr__(self) -> str:
        raise KeyError("no")


def test_a_value_is_shown_in_a_few_words() -> None:
    assert shown_value([1, "x"]) == "[1, 'x']"
    assert shown_value("x" * 58) == f"'{'x' * 58}'"
    assert shown_value("x" * 59) == f"'{'x' * 56}..."
    assert len(shown_value(list(range(100_000)))) == 60


def test_a_value_that_python_does_not_write() -> None:
    assert shown_value(10**5000) == "a value of type int"
    assert shown_value(Mute()) == "a value of type Mute"
