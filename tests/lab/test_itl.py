"""Times between tokens as a table: few rows, true quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from records import large_record

from superinfer.lab.itl import itl_table
from superinfer.metrics import RunMetrics


def test_itl_is_decimated_but_its_quantiles_stay() -> None:
    metrics = RunMetrics(large_record(requests=600, steps=60_000, mean_tokens=100))
    table = itl_table(metrics)
    assert len(table["class"]) <= 20_000
    for name, rows in metrics.class_rows().items():
        mine = np.array([c == name for c in table["class"]])
        gaps, counts = metrics.itl_counts(rows)
        kept, weights = np.asarray(table["gap_ms"])[mine], np.asarray(table["weight"])[mine]
        assert weights.sum() == counts.sum()
        assert (weights > 0).all()
        assert kept[-1] == gaps[-1]
        for level in (0.5, 0.99, 0.9999):
            exact = np.quantile(np.repeat(gaps, counts), level)
            assert np.quantile(np.repeat(kept, weights), level) == pytest.approx(exact, rel=2e-3)
