"""The picture of a tuning."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from superinfer.lab.pictures.pareto import write_numbers


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_numbers_of_points_that_coincide_stand_side_by_side(scale: str) -> None:
    axes = Figure().subplots()
    axes.set_xscale(scale)
    axes.set_xlim(1, 1000)
    axes.set_ylim(0, 1)
    points = np.array([[900.0, 0.5], [1.0, 0.1], [910.0, 0.51], [900.0, 0.6]])
    write_numbers(axes, [7, 2, 0, 5], points)
    assert [text.get_text() for text in axes.texts] == ["0, 7", "2", "5"]
    write_numbers(axes, [], np.empty((0, 2)))
    assert len(axes.texts) == 3
