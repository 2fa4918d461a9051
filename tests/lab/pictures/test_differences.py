"""The picture of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from superinfer.errors import ConfigError
from superinfer.lab import plot_differences
from superinfer.lab.pictures.differences import metric_label

COLUMNS = ("arm", "reference", "metric", "value", "reference_value", "low", "high", "contains_zero")


def frame(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame([(arm, "vllm", *rest) for arm, *rest in rows], columns=list(COLUMNS))


TABLE = frame(
    ("edf", "slo_attainment", 0.8, 0.4, 0.3, 0.5, False),
    ("edf", "p99_ttft_ms", 500.0, 1000.0, -600.0, -400.0, False),
    ("edf", "p99_tpot_ms", 60.0, 50.0, -5.0, 25.0, True),
    ("edf", "p99_e2el_ms", 10.0, 0.0, None, None, None),
    ("vtc", "slo_attainment", 0.2, 0.4, None, None, None),
)


def points(axes: Any, number: int) -> np.ndarray:
    """x, y and whether it is filled, of the points of an arm."""
    found = []
    for line in axes.lines[3 * number : 3 * number + 2]:
        x, y = line.get_data()
        filled = line.get_markerfacecolor() != "white"
        found += [(a, b, filled) for a, b in zip(x, y, strict=True) if np.isfinite(a)]
    return np.array(sorted(found, key=lambda point: point[1]))


def test_right_is_better_and_hollow_is_unclear() -> None:
    metrics = ["slo_attainment", "p99_ttft_ms", "p99_tpot_ms", "p99_e2el_ms"]
    axes = plot_differences(TABLE, metrics)
    FigureCanvasAgg(axes.figure).draw()  # type: ignore[arg-type]
    edf = points(axes, 0)
    assert edf[:, 0] == pytest.approx([2.0, 2.0, 50 / 60])
    assert edf[:, 2].tolist() == [1, 1, 0]
    vtc = points(axes, 1)
    assert (vtc[0, 0], vtc[0, 2]) == (0.5, 0)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["SLO attainment", "TTFT p99", "TPOT p99", "E2E p99"]
    assert "vllm" in axes.get_xlabel()


def test_intervals_become_factors_in_the_same_direction() -> None:
    axes = plot_differences(TABLE, ["slo_attainment", "p99_ttft_ms"])
    segments = axes.collections[0].get_segments()  # type: ignore[attr-defined]
    bounds = [tuple(segment[:, 0]) for segment in segments if np.isfinite(segment).all()]
    assert bounds[0] == pytest.approx((1.75, 2.25))
    assert bounds[1] == pytest.approx((1 / 0.6, 1 / 0.4))


def test_an_arm_has_the_colour_that_it_has_beside_the_reference() -> None:
    from superinfer.lab.pictures.parts import COLOURS

    axes = plot_differences(TABLE)
    assert [axes.lines[0].get_color(), axes.lines[3].get_color()] == list(COLOURS[1:3])


def test_metrics_that_are_asked_for_are_drawn() -> None:
    """Also of classes; of a long frame those that matter most, if it has any of them."""
    names = [f"classes.c{i}.p99_ttft_ms" for i in range(13)]
    more = frame(*(("edf", name, 2.0, 1.0, 0.0, 2.0, False) for name in names))
    short = plot_differences(pd.concat([TABLE, more.iloc[:2]]))
    labels = [label.get_text() for label in short.get_yticklabels()]
    assert labels[:2] == ["SLO attainment", "TTFT p99"] and labels[-1] == "c1: TTFT p99"
    assert len(plot_differences(pd.concat([TABLE, more])).get_yticks()) == 4
    assert len(plot_differences(more).get_yticks()) == 13


def test_metrics_that_are_not_in_the_table() -> None:
    with pytest.raises(ConfigError, match=r"metrics: expected some of slo_attainment, .*'jain'"):
        plot_differences(TABLE, ["slo_attainment", "jain"])
    with pytest.raises(ConfigError, match="expected metrics in the table, got none"):
        plot_differences(TABLE.iloc[:0])


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("p99_ttft_ms", "TTFT p99"),
        ("classes.chat.mean_e2el_ms", "chat: E2E mean"),
        ("p999_itl_ms", "ITL p99.9"),
        ("tpot_ms", "TPOT"),
        ("slo_attainment", "SLO attainment"),
        ("no_such_key", "no_such_key"),
    ],
)
def test_metrics_in_words(metric: str, words: str) -> None:
    assert metric_label(metric) == words
