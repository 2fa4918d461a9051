"""The help of `superinfer-sim`."""

from __future__ import annotations

from collections.abc import Callable

from superinfer.lab.versions import version_of


def test_commands_stand_as_a_user_meets_them(command: Callable[..., tuple[int, str, str]]) -> None:
    _, shown, _ = command("--help")
    listed = [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line[2:3]]
    names = ("run", "compare", "sweep", "tune", "plan", "suggest-slo")
    assert [name for name in listed if name in names] == list(names)
    assert listed[:2] == ["run", "compare"]


def test_the_version(command: Callable[..., tuple[int, str, str]]) -> None:
    assert command("--version") == (0, f"superinfer {version_of('superinfer')}\n", "")
