"""A Python subclass of a compiled class may give a field another default."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from superinfer.compiled import uncover_compiled


class Compiled:
    """What mypyc makes of a dataclass, as far as it matters: a descriptor for each field."""

    __slots__ = ("size",)
    __mypyc_attrs__ = ("size", "__dict__")

    def twice(self) -> int:
        """Reads the descriptor, not what the class of the instance has by that name."""
        size: int = Compiled.size.__get__(self)  # type: ignore[attr-defined]
        return 2 * size


def subclass() -> type[Compiled]:
    @dataclass
    class Own(Compiled):
        size: int = 5

    return Own


def test_a_default_hides_the_field_of_a_compiled_class() -> None:
    with pytest.raises(AttributeError):
        subclass()().twice()


def test_without_it_the_compiled_class_sees_the_value() -> None:
    own = subclass()
    uncover_compiled(own)
    assert own().twice() == 10
    assert own(size=3).twice() == 6  # type: ignore[call-arg]


def test_what_computes_its_value_stays() -> None:
    @dataclass
    class Own(Compiled):
        @property
        def size(self) -> int:  # type: ignore[override]
            """Computed."""
            return 7

    uncover_compiled(Own)
    assert Own().size == 7
