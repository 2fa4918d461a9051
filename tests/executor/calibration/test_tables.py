"""Tables out of measurements, filled where there was no time, over one round or several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_kit import timing

from executor.calibration.filling import fill_curve, fill_grid, prefill_work, row_work
from executor.calibration.grids import spaced
from executor.calibration.steps import (
    middle_steps,
)
from executor.calibration.subject import Subject, Wish
from executor.calibration.tables import (
    Family,
    ends_first,
    hold_out,
    measure_curve,
    measure_grid,
    middle,
    never_falling,
    read,
)
from executor.calibration.timing import Deadline, Timing
from executor.session import ModelOptions
from executor.step_log import Step
from superinfer.costs.profile import Kernel


def test_never_falling_pools_what_falls() -> None:
    """Neighbours that fall share their mean; the rest stays."""
    assert never_falling([1, 3, 2, 4]) == [1, 2.5, 2.5, 4]
    assert never_falling([3, 2, 1]) == [2, 2, 2]
    assert never_falling([]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_ends_come_first(count: int) -> None:
    """Every index once, the two ends before all others."""
    order = ends_first(count)
    assert sorted(order) == list(range(count))
    assert set(order[:2]) == {0, count - 1}


def test_a_curve_is_read_as_the_cost_model_reads_it() -> None:
    """Between its points in a straight line; held-out errors are of that line."""
    axis = (1, 10, 100)
    family = measure_curve(axis, "tokens", lambda n: timing(2.0 + n), Deadline(10))
    assert family.kernel.axes == {"tokens": (1.0, 10.0, 100.0)}
    assert read(family.kernel, 55) == pytest.approx(57.0)
    hold_out(family, [(55,)], lambda n: timing(60.0))
    assert family.fit()["heldout_mape"] == pytest.approx(abs(57 / 60 - 1))


def test_a_curve_without_time_has_its_ends() -> None:
    """The grid gets coarser, not shorter."""
    family = measure_curve((1, 2, 4, 8), "tokens", timing, Deadline(-1))
    assert family.kernel.axes == {"tokens": (1.0, 8.0)}


def test_a_grid_goes_on_by_its_slope_past_the_most() -> None:
    """Places with too large a product are not measured."""
    asked = []

    def at(rows: int, columns: int) -> Timing:
        asked.append((rows, columns))
        return timing(float(rows * columns))

    axes = {"sequences": (1, 4), "context_tokens": (1, 2, 8)}
    family = measure_grid(axes, at, Deadline(10), most=10)
    assert (4, 8) not in asked
    assert family.kernel.seconds == ((1.0, 2.0, 8.0), (4.0, 8.0, 32.0))
    assert family.points == len(asked) == 5


def test_points_of_a_curve_without_time_are_flat_and_then_in_proportion() -> None:
    """As a product is: weights are read, or rows computed. A straight line would be far off."""

    def at(rows: int) -> Timing:
        return timing(max(1e-5, 1e-7 * rows))

    axis = spaced(8192, 8192)
    family = measure_curve(axis, "tokens", at, Deadline(-1), row_work)
    straight = measure_curve(axis, "tokens", at, Deadline(-1))
    assert family.kernel.axes == {"tokens": tuple(map(float, axis))}
    assert (
        (family.measured, family.points) == (straight.measured, straight.points) == (axis[::25], 2)
    )
    for rows in axis:
        assert read(family.kernel, rows) == pytest.approx(at(rows).seconds, rel=1e-9)
    assert read(straight.kernel, 96) > 1.8 * at(96).seconds
    full = measure_curve(axis, "tokens", at, Deadline(10), row_work)
    assert full.kernel == measure_curve(axis, "tokens", at, Deadline(10)).kernel
    assert fill_curve(full.kernel, (*axis, 16384), row_work) is full.kernel


CHUNKS, BEFORE = (1, 64, 256, 1024, 2048, 4096, 8192), (0, 1024, 4096)
PREFILL_AXES = {"chunk_tokens": CHUNKS, "context_tokens": BEFORE}


def prefill_timing(tokens: int, context: int) -> Timing:
    """Attention whose pairs take 10 ps each, and 4 us at the least."""
    return timing(max(4e-6, 1e-11 * tokens * (context + tokens / 2)))


def test_rows_of_a_grid_without_time_are_what_their_work_says() -> None:
    """With the two ends measured; a straight line would be far off."""
    family = measure_grid(PREFILL_AXES, prefill_timing, Deadline(-1), work=prefill_work)
    straight = measure_grid(PREFILL_AXES, prefill_timing, Deadline(-1))
    assert family.kernel.axes["chunk_tokens"] == tuple(map(float, CHUNKS))
    assert straight.kernel.axes["chunk_tokens"] == (1.0, 8192.0)
    assert (
        (family.measured, family.points) == (straight.measured, straight.points) == ((1, 8192), 6)
    )
    for tokens in CHUNKS:
        for context in BEFORE:
            seconds = prefill_timing(tokens, context).seconds
            assert read(family.kernel, tokens, context) == pytest.approx(seconds, rel=0.01)
    assert read(straight.kernel, 2048, 0) > 3 * prefill_timing(2048, 0).seconds


def test_filled_rows_never_fall_and_leave_measured_ones() -> None:
    """Also where timings were noisy; what was measured keeps its seconds bit for bit."""
    noise = np.random.default_rng(0).uniform(0.5, 2.0, (len(CHUNKS), len(BEFORE)))
    exact = [[prefill_timing(rows, columns).seconds for columns in BEFORE] for rows in CHUNKS]
    table = np.maximum.accumulate(np.maximum.accumulate(np.array(exact) * noise, 0), 1)
    for kept in ([0, 6], [0, 3, 6], [0, 2, 3, 6]):
        rows = tuple(float(CHUNKS[index]) for index in kept)
        axes = {"chunk_tokens": rows, "context_tokens": tuple(map(float, BEFORE))}
        sparse = Kernel(axes, tuple(map(tuple, table[kept].tolist())))
        full = np.array(fill_grid(sparse, CHUNKS, prefill_work).seconds)
        assert (np.diff(full, axis=0) >= 0).all() and (np.diff(full, axis=1) >= 0).all()
        assert (full[kept] == table[kept]).all()


def test_nothing_is_filled_where_all_was_measured_or_beyond_the_ends() -> None:
    """The same table, bit for bit; points past its ends are no part of it."""
    family = measure_grid(PREFILL_AXES, prefill_timing, Deadline(10), work=prefill_work)
    plain = measure_grid(PREFILL_AXES, prefill_timing, Deadline(10))
    assert (family.kernel, family.measured) == (plain.kernel, CHUNKS)
    assert fill_grid(plain.kernel, (*CHUNKS, 16384), prefill_work) is plain.kernel


def test_rounds_have_a_median() -> None:
    """Point by point, over those that were measured as finely as the finest; all errors count."""

    def curve(slower: float, late: bool = False) -> Family:
        found = measure_curve(
            (1, 2, 4), "tokens", lambda n: timing(slower * n), Deadline(-1.0 if late else 10.0)
        )
        found.errors.append(slower)
        return found

    found = middle([curve(1.0), curve(3.0), curve(1.5), curve(9.0, late=True)])
    assert found.kernel.seconds == (1.5, 3.0, 6.0)
    assert (found.points, found.errors) == (3, [1.0, 3.0, 1.5, 9.0])
    axes = {"sequences": (1, 4), "context_tokens": (1, 2)}

    def grid(slower: float) -> Family:
        return measure_grid(axes, lambda r, c: timing(slower * r * c), Deadline(10))

    grids = [grid(1.0), grid(2.0), grid(3.0)]
    assert middle(grids).kernel.seconds == ((2.0, 4.0), (8.0, 16.0))
    assert middle(grids[:1]) is grids[0]


def test_rounds_that_measured_less_are_none_of_the_median() -> None:
    """Though filling gives their tables the same axes."""

    def at(slower: float, deadline_s: float) -> Family:
        def noisy(tokens: int, context: int) -> Timing:
            return timing(slower * prefill_timing(tokens, context).seconds)

        return measure_grid(PREFILL_AXES, noisy, Deadline(deadline_s), work=prefill_work)

    rounds = [at(1.0, 10), at(5.0, -1), at(3.0, 10), at(9.0, -1)]
    assert len({family.kernel.axes["chunk_tokens"] for family in rounds}) == 1
    found = middle(rounds)
    assert read(found.kernel, 8192, 0) == pytest.approx(2 * prefill_timing(8192, 0).seconds)
    assert (found.measured, found.points) == (CHUNKS, len(CHUNKS) * len(BEFORE))
    few = middle(rounds[1::2])
    assert read(few.kernel, 2048, 0) == pytest.approx(7 * prefill_timing(2048, 0).seconds, rel=0.01)


def test_steps_of_rounds_have_a_median() -> None:
    """Of as many rounds as came to them."""

    def ran(*seconds: float) -> list[Step]:
        return [Step((), index + 1, 100, value) for index, value in enumerate(seconds)]

    found = middle_steps([ran(1.0, 5.0), ran(2.0, 7.0, 3.0), ran(9.0)])
    assert [step.seconds for step in found] == [2.0, 6.0, 3.0]
    assert [step.decodes for step in found] == [1, 2, 3]


def test_a_cpu_is_measured_as_far_as_its_session_goes() -> None:
    """With short calibrations in one round, as on a GPU."""
    subject = Subject.of(Wish("tiny", "cpu", ModelOptions(), 2.0, 16, 512, 24, 100))
    assert subject.grids().sequences == (1, 2, 4, 8, 16, 24)
    assert subject.grids().most_context == 1600
    assert subject.rounds == 5
    assert Subject.of(replace(subject.wish, minutes=0.1)).rounds == 1
    subject.device = torch.device("cuda")
    assert subject.rounds == 1 and subject.grids().sequences[-1] == 256


def test_spacing_has_no_gap_of_more_than_half_an_octave() -> None:
    """And a quarter of one from where it gets finer."""
    grid = spaced(4096, 128)
    steps = np.array(grid[2:]) / np.array(grid[1:-1])
    assert grid[0] == 1 and grid[-1] == 4096
    assert steps.max() <= 1.5
    assert (steps[np.array(grid[1:-1]) >= 128] <= 1.26).all()
