"""The table of `docs/cluster.md`, from `python -m experiments.consolidation`."""

from __future__ import annotations

from experiments.consolidation.table import cluster_table
from experiments.tables.parts import recorded

PAGE = "docs/cluster.md"
TABLES = {"consolidation": recorded("simulated/consolidation/summary.json", cluster_table)}
