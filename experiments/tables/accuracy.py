"""The tables of `docs/accuracy.md`, from `python -m experiments.accuracy serving`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.accuracy.serving_page import (
    chunk_lines,
    decode_lines,
    latency_lines,
    left_out_lines,
    state_lines,
)

Lines = Iterable[str]
PAGE = "docs/accuracy.md"


def _recorded(show: Callable[[Any], Lines]) -> Callable[[Path], Lines]:
    def read(results: Path) -> Lines:
        path = results / "simulated" / "accuracy" / "serving" / "summary.json"
        return show(json.loads(path.read_text(encoding="utf-8")))

    return read


TABLES = {
    "latencies": _recorded(latency_lines),
    "states": _recorded(state_lines),
    "left out": _recorded(left_out_lines),
    "decodes alone": _recorded(decode_lines),
    "steps with a prompt": _recorded(chunk_lines),
}
