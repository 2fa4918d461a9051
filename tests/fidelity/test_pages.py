"""The tables of the accuracy pages are those of the recorded results."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from experiments.studykit.record import SIMULATED
from experiments.tables import accuracy, accuracy_steady

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", [accuracy, accuracy_steady])
def test_a_page_shows_what_was_recorded(page: ModuleType) -> None:
    text = (ROOT / page.PAGE).read_text(encoding="utf-8")
    for name, show in page.TABLES.items():
        lines = "\n".join(show(SIMULATED.parent))
        assert f"<!-- table: {name} -->\n{lines}\n<!-- end -->" in text, name
    assert text.count("<!-- table: ") == len(page.TABLES)
