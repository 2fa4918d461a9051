"""The tables of `docs/accuracy-steady.md`, from `python -m experiments.accuracy steady`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.accuracy.steady_page import group_lines, shape_lines, share_lines

Lines = Iterable[str]
PAGE = "docs/accuracy-steady.md"


def _recorded(show: Callable[[Any], Lines]) -> Callable[[Path], Lines]:
    def read(results: Path) -> Lines:
        path = results / "simulated" / "accuracy" / "steady" / "summary.json"
        return show(json.loads(path.read_text(encoding="utf-8")))

    return read


TABLES = {
    "groups": _recorded(group_lines),
    "shapes": _recorded(shape_lines),
    "shares": _recorded(share_lines),
}
