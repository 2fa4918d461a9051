"""Random examples are the same in every run, on any machine, whatever ran before."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(
    settings.get_current_profile_name() == "search", reason="other examples are asked for"
)


def drawn() -> list[tuple[int, str]]:
    """The examples of a test."""
    found: list[tuple[int, str]] = []

    @settings(max_examples=200)
    @given(st.integers(), st.text())
    def any_test(number: int, text: str) -> None:
        found.append((number, text))

    any_test()
    return found


def test_examples_do_not_hang_on_luck_or_speed() -> None:
    chosen = settings.default
    assert chosen is not None and chosen.derandomize and chosen.database is None
    assert chosen.deadline is None and HealthCheck.too_slow in chosen.suppress_health_check


def test_examples_do_not_hang_on_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn()
    lines = [f"N{n}, T{n} = {10**9 + n}, 'text {n}'\n" for n in range(300)]
    (tmp_path / "many_constants_of_a_module.py").write_text("".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    __import__("many_constants_of_a_module")
    assert drawn() == before
