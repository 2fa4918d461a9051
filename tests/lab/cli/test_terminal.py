"""Text that goes to a terminal."""

from __future__ import annotations

import pytest

from superinfer.lab.cli.complaints import complain
from superinfer.lab.cli.terminal import printable


def test_what_would_steer_a_terminal_is_shown_and_nothing_else_changes() -> None:
    assert printable("a\x1b[31mb\x9b0m\n") == r"a\x1b[31mb\x9b0m\n"
    assert printable("闲聊 \u3000 é") == "闲聊 \u3000 é"


def test_an_error_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain("class \x1b[31mred: expected\nanother", 2) == 2
    assert capsys.readouterr().err == "error: class \\x1b[31mred: expected another\n"
