"""The tables of `docs/headline.md`, from `python -m experiments.headline`."""

from __future__ import annotations

from experiments.headline import table
from experiments.tables.parts import recorded

PAGE = "docs/headline.md"
TABLES = {
    name: recorded("simulated/headline/summary.json", show) for name, show in table.TABLES.items()
}
