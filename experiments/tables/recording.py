"""The recorded results of a device, and how their tables are put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.studykit.reading import read_json
from experiments.tables.parts import Lines, Show

PAGE = "docs/hardware.md"
Checks = dict[str, Any]


class Recording:
    """The results of one device, and of the first runs on such a one."""

    def __init__(self, folder: Path, early: Path) -> None:
        self.data: Checks = read_json(folder / "results.json")
        self.again: Checks = read_json(early / "resimulated.json")
        profile = read_json(folder / "profile-llama-3.1-8b.json")
        self.rates: Checks = profile["memory"]

    def check(self, part: str, name: str) -> Checks:
        """The result of a check."""
        found: Checks = self.data[part]["checks"][name]
        return found

    def rows(self, part: str, name: str) -> list[Checks]:
        """Its rows."""
        found: list[Checks] = self.check(part, name)["rows"]
        return found


def h200(table: Callable[[Recording], Lines]) -> Show:
    """A table of what the H200 gave."""
    return lambda results: table(Recording(results / "h200", results / "h200-early"))
