"""Calibration: tables out of measurements, host time out of steps, and a whole profile of a CPU."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from executor.calibration import calibrate as calibration
from executor.calibration.calibrate import calibrate, rotated_steps
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.factors import (
    HIGHEST,
    LOWEST,
    Factors,
    entry,
    factors_of,
    fit_factors,
    fit_steps,
    inverse,
    least_ratio,
    parts_of,
    scaled,
)
from executor.calibration.filling import fill_curve, fill_grid, prefill_work, row_work
from executor.calibration.fit import MOST_SHARED, launch_seconds, shared_factor, with_steps
from executor.calibration.grids import Grids, spaced
from executor.calibration.links import Pools, measure_links
from executor.calibration.products import gemm_sizes, measure_gemm
from executor.calibration.report import profile_lines, simulation_of, unsteady
from executor.calibration.steps import (
    LEAST_BATCHES,
    HostFit,
    Limits,
    Shape,
    Steps,
    fit_host,
    middle_steps,
    predictions,
    random_workload,
    run_batches,
    spread_out,
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
from executor.calibration.timing import Deadline, Timing, time_calls
from executor.clocks.timers import timed_by
from executor.kernels.reference import TorchOps
from executor.kv.layout import PRECISIONS, KVLayout
from executor.models import load_model
from executor.session import ModelOptions, Session, open_session
from executor.step_log import Step
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch
from superinfer.costs import CalibratedCost, Chunk, load_profile, load_shape, write_profile
from superinfer.costs.profile import HostCost, Kernel, Profile
from superinfer.errors import ConfigError

CPU = torch.device("cpu")
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
GRIDS = Grids((1, 8, 64), (1, 8), (1, 4), (32, 128), (1, 32, 64), (0, 64), (1, 4), 1 << 9)


def timing(seconds: float) -> Timing:
    """One that was measured without noise."""
    return Timing(seconds, 0.0, 1)


# -- tables -------------------------------------------------------------------------------------


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


# -- timing -------------------------------------------------------------------------------------


def test_longer_work_takes_longer() -> None:
    """A product of matrices four times as large in each direction."""
    small, large = (torch.randn(n, n) for n in (64, 256))
    times = [time_calls([lambda x=x: x @ x], CPU, 0.05).seconds for x in (small, large)]
    assert 0 < times[0] < times[1]


def test_spread_is_the_distance_of_quartiles() -> None:
    """As a share of the median."""
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 5.0]).spread == pytest.approx(1.0)
    assert Timing.of([2.0]) == Timing(2.0, 0.0, 1, 2.0)
    assert Timing.of([3.0, 2.0, 4.0]).best == 2.0


def test_links_have_a_rate_and_a_setup() -> None:
    """On a CPU between two parts of memory."""
    links = measure_links(CPU, seconds=0.3)
    assert set(links) == {"h2d", "d2h", "both"}
    for link in links.values():
        assert link["bytes_per_s"] > 1e7 and link["setup_s"] >= 0.0


def test_both_directions_are_queued_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that neither is alone while the host queues the other; every piece is copied once."""
    pools, queued = Pools(CPU), list[tuple[str, range]]()
    monkeypatch.setattr(
        pools, "_copy", lambda way, size, pieces, count: queued.append((way, pieces))
    )
    pools._queue(64, 20, ("h2d", "d2h"))()
    assert [way for way, _ in queued] == ["h2d", "d2h"] * 3
    for way in ("h2d", "d2h"):
        assert [n for name, pieces in queued if name == way for n in pieces] == list(range(20))


# -- random contents ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_sequences": 10**8}, "expected at least max_num_seqs"),
        ({"kv_blocks": 10**9}, "GiB of KV cache: lower --kv-blocks"),
        ({"model": "llama-3.1-8b"}, "has no weights: expected a folder with weights, or"),
    ],
)
def test_what_cannot_be_opened_is_known_before_kernels(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(calibration, "measure_kernels", lambda *_arguments: 1 / 0)
    wish = replace(Wish("tiny", "cpu", ModelOptions(), 0.1), **options)
    with pytest.raises(ConfigError, match=expected):
        calibrate(wish, print)


def test_random_blocks_are_numbers_of_their_precision() -> None:
    """No NaN in any precision, and attention over them is finite."""
    layout = KVLayout(2, 2, 16, 16, torch.float32)
    source = RandomArena(layout, 12, CPU)
    budget = ItemBudget.of(layout, CPU)
    for bits in PRECISIONS:
        shares = {} if bits == 16 else {bits: 1.0}
        step = decode_step(source, [1, 16, 70], 50, budget, shares)
        assert step.decode is not None
        assert bits in step.decode.bits.tolist()
        q = torch.randn(3, 4, 16)
        out = TorchOps().decode_attention(q, source.arena, layout, 1, step.decode, 0.25)
        assert torch.isfinite(out).all() and (out.abs() > 0).all()


def test_no_block_comes_twice_before_all_have_come() -> None:
    """So that a step reads as much memory as it says."""
    layout = KVLayout(1, 1, 16, 16, torch.float32)
    source = RandomArena(layout, {16: 10}, CPU)
    first, second = source.table(80), source.table(80)
    assert len({*first.offsets.tolist(), *second.offsets.tolist()}) == 10


# -- steps --------------------------------------------------------------------------------------


class Linear:
    """A cost model of its own: a millisecond, and a microsecond per token of context."""

    def step_s(self, chunks: object, decodes: int, context: int) -> float:
        return 0.001 + 1e-6 * context


def test_host_time_is_what_the_kernels_leave() -> None:
    """A line over sequences, in spite of a step that something else disturbed."""
    cost, steps = Linear(), []
    for decodes in (1, 2, 4, 8, 16, 32, 32, 32):
        seconds = cost.step_s((), decodes, 100) + 0.002 + 1e-4 * decodes
        steps.append(Step((), decodes, 100, seconds))
    steps.append(Step((), 32, 100, 1.0))
    host = fit_host(steps, [step.device_s(cost) for step in steps])  # type: ignore[arg-type]
    assert host.step_s == pytest.approx(0.002, rel=0.1)
    assert host.per_sequence_s == pytest.approx(1e-4, rel=0.1)
    errors = predictions(steps[:-1], cost, host)  # type: ignore[arg-type]
    assert errors.mean < 0.02


def test_host_time_is_not_negative() -> None:
    """Also where the kernels are thought slower than whole steps."""
    steps = [Step((), n, 100, 0.001 * n) for n in (1, 2, 4)]
    host = fit_host(steps, [0.01, 0.01, 0.01])
    assert host.step_s == 0.0 and host.per_sequence_s == 0.0


def test_random_batches_and_requests_fit() -> None:
    """Into the model's context and the number of sequences."""
    limits, random = Limits(16, 200, 100, 1600), np.random.default_rng(0)
    for i in range(100):
        shape = limits.batch(random, i % 2 == 1, i)
        assert len(shape.contexts) <= 16 and all(1 <= c <= 200 for c in shape.contexts)
        assert bool(shape.chunks) == (i % 2 == 1)
        assert all(t >= 1 and before >= 0 and t + before <= 200 for t, before in shape.chunks)
    workload = random_workload(limits, 20)
    assert [request.index for request in workload.requests] == list(range(20))
    assert len(workload.output_tokens) == 20


def test_several_chunks_may_have_more_tokens_than_a_context() -> None:
    """Each by itself fits, and so does every prompt; half of the requests have targets."""
    limits, random = Limits(16, 200, 900, 1800, 6), np.random.default_rng(0)
    shapes = [limits.batch(random, True, number) for number in range(50)]
    assert all(t + before <= 200 for shape in shapes for t, before in shape.chunks)
    assert max(sum(tokens for tokens, _ in shape.chunks) for shape in shapes) > 3 * 200
    requests = random_workload(limits, 40).requests
    assert max(request.prompt_tokens for request in requests) <= 200
    assert sum(request.slo_class.slo.ttft_s is not None for request in requests) == 20


GPT2 = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "vocab_size": 128,
    "activation_function": "gelu_new",
}


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("config", [SMALL, {**SMALL, "model_type": "qwen2"}, GPT2])
def test_products_are_timed_as_the_model_launches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], int8: bool
) -> None:
    """By the library where a projection has a bias and no codes, else by our own kernels."""
    found: set[tuple[str, int, int]] = set()

    class Told(TorchOps):
        def linear(self, x: Tensor, weight: Tensor) -> Tensor:
            found.add(("ours", *weight.shape))
            return super().linear(x, weight)

        def linear_int8(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
            found.add(("int8", *weight.shape))
            return super().linear_int8(x, weight, scales)

    def library(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found.add(("library with a bias", *weight.shape))
        return torch.addmm(bias, x, weight.T)

    monkeypatch.setattr("executor.models.layers.F", SimpleNamespace(linear=library))
    monkeypatch.setattr("executor.calibration.subject.ops_for", lambda device: Told())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    loading = ModelOptions(random_weights=True, int8=int8)
    kind = {"device": CPU, "dtype": torch.float32, "random_weights": True, "int8": int8}
    model = load_model(path, **kind, block_tokens=16, ops=Told())
    source = RandomArena(model.layout, {16: 8}, CPU)
    model.forward(decode_step(source, [20, 30], 128, ItemBudget(4, 1)), source.arena)
    launched, found = found, set()
    bench = Subject.of(Wish(str(path), "cpu", loading, 0.1, 16, grids=GRIDS)).bench()
    for part, size in gemm_sizes(bench.shape).items():
        measure_gemm(bench, part, size, Deadline(0.0))
    assert found == launched
    biases = {kind for kind, *_ in found if kind == "library with a bias"}
    assert bool(biases) == (config is not SMALL and not int8)


def test_requests_rotate_in_the_steps_of_the_rotating_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a processor's time for planning and copying them would not be measured."""
    opened: list[Session] = []

    def noted(*given: Any) -> Session:
        opened.append(open_session(*given))
        return opened[-1]

    monkeypatch.setattr(calibration, "open_session", noted)
    subject = Subject.of(Wish("tiny", "cpu", ModelOptions(), 0.2, 16, 512, 16, 48))
    steps = rotated_steps(subject, 3.0)
    assert len(steps) > 20 and opened[0].engine.recorder.rotations > 0


def test_chunks_of_all_sizes_come() -> None:
    """In the first batches already, of either set, so that no part is left out by chance."""
    limits, random = Limits(128, 8000, 4096, 1 << 20), np.random.default_rng(0)
    for held_out in (False, True):
        shapes = [limits.batch(random, True, n, held_out) for n in range(8)]
        tokens = sorted(sum(tokens for tokens, _ in shape.chunks) for shape in shapes)
        assert tokens[0] < 128 and tokens[3] < 1024 < tokens[5] and tokens[-1] > 2048
        plain = [len(limits.batch(random, False, n, held_out).contexts) for n in range(8)]
        assert min(plain) < 8 and max(plain) > 48


@pytest.mark.parametrize("count", [8, 12, 16])
def test_batches_held_out_lie_between_those_fitted(count: int) -> None:
    """They would judge nothing if they were nearly the same."""
    limits, random = Limits(128, 8000, 4096, 1 << 20), np.random.default_rng(0)
    fitted, unseen = (
        [limits.batch(random, True, n, held_out) for n in range(count)]
        for held_out in (False, True)
    )
    places = [
        np.log([sum(tokens for tokens, _ in shape.chunks) for shape in shapes])
        for shapes in (fitted, unseen)
    ]
    nearest = np.abs(places[1][:, None] - places[0]).min(axis=1)
    apart = np.median(np.diff(np.sort(places[0])))
    assert apart / 6 < np.median(nearest) < apart


def test_every_beginning_of_a_sequence_covers_all() -> None:
    assert [spread_out(n, 2) for n in range(1, 5)] == [0.5, 0.25, 0.75, 0.125]
    for base in (2, 3, 5):
        found = np.sort([spread_out(n, base) for n in range(1, 31)])
        assert np.diff(found, prepend=0.0, append=1.0).max() < 0.11


def test_wide_steps_have_a_factor_of_their_own(profile: Profile) -> None:
    """Tables past 1,024 tokens alone take it, and still never fall."""
    wide = Kernel({"tokens": (1.0, 1024.0, 1025.0, 4096.0)}, (1.0, 2.0, 2.1, 8.0))
    given = replace(profile, kernels=profile.kernels | {"norm": wide})
    found = scaled(given, Factors(1.0, 1.0, 1.0, 1.5)).kernels["norm"]
    assert found.seconds == pytest.approx((1.0, 2.0, 3.15, 12.0))
    lower = scaled(given, Factors(1.0, 1.0, 1.0, 0.5)).kernels["norm"]
    assert lower.seconds == pytest.approx((1.0, 2.0, 2.0, 4.0))
    assert scaled(given, Factors(2.0)).kernels["norm"].seconds == pytest.approx((2, 4, 4.2, 16))


@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.7])
def test_tables_come_back_from_being_scaled(profile: Profile, ratio: float) -> None:
    """Also where wide steps are far faster than dense ones: the factor ends where a table would
    fall.
    """
    kernel = Kernel({"tokens": (1.0, 1024.0, 1025.0, 4096.0)}, (1.0, 2.0, 2.5, 8.0))
    given = replace(profile, kernels={"norm": kernel})
    assert least_ratio(given) == pytest.approx(0.8)
    factors = Factors(1.3, 0.9, 1.1, 1.3 * max(ratio, least_ratio(given)), 1.2)
    there = scaled(given, factors)
    back = scaled(there, inverse(factors_of(entry(factors))))
    assert there.kernels["norm"].seconds != back.kernels["norm"].seconds
    assert back.kernels["norm"].seconds == pytest.approx(kernel.seconds)


def test_a_shared_processor_slows_all_steps(profile: Profile, config: Path) -> None:
    """By the sum of the driver's steps, which medians do not see; never on a GPU."""
    shape = load_shape(config)
    cost, host = CalibratedCost(profile, shape), HostFit(0.001, 0.0)
    usual = cost.step_s((), 2, 64) + 0.001

    def driven(*slower: float, replay_s: float | None = None) -> Steps:
        return Steps([], [], [Step((), 2, 64, usual * factor, replay_s) for factor in slower])

    steps = driven(1.0, 1.0, 1.4, 1.0)
    assert shared_factor(profile, steps, cost, host) == pytest.approx(1.1)
    assert shared_factor(profile, driven(0.5, 1.0), cost, host) == 1.0
    assert shared_factor(profile, driven(9.0), cost, host) == MOST_SHARED
    assert shared_factor(profile, driven(), cost, host) == 1.0
    assert shared_factor(profile, driven(9.0, replay_s=0.1), cost, host) == 1.0
    assert shared_factor(replace(profile, device="h200"), steps, cost, host) == 1.0


def test_a_shared_processor_is_in_the_profile(profile: Profile, config: Path) -> None:
    """Predictions of a run's steps add up to what they took."""
    shape = load_shape(config)
    plain = replace(profile, host=HostCost(0.0, 0.0, "measured"))
    truth = CalibratedCost(plain, shape)
    seconds = truth.step_s((), 2, 64)
    calm = [Step((), 2, 64, seconds) for _ in range(16)]
    run = [Step((), 2, 64, seconds * (1.8 if i % 8 == 0 else 1.0)) for i in range(80)]
    found = with_steps(plain, shape, Steps(calm, calm, run))
    assert found.fit["in_step"]["shared"] == pytest.approx(1.1, abs=0.02)
    predicted = CalibratedCost(found, shape)
    total_s = sum(predicted.step_s((), 2, 64) + predicted.host_s(2) for _ in run)
    assert total_s == pytest.approx(sum(step.seconds for step in run), rel=0.02)


def test_a_factor_at_its_bound_is_named(profile: Profile) -> None:
    fit = {"in_step": entry(Factors(HIGHEST, 1.0, LOWEST)), "driver_step": {"mean": 0.1}}
    shown = "\n".join(profile_lines(replace(profile, fit=fit)))
    assert "dense, prefill: not fitted, at the end of what is allowed (0.5 to 2)" in shown
    assert "10.0% (host time is fitted with these)" in shown
    fit = {"in_step": entry(Factors(1.1, 1.0, 0.9))}
    assert "not fitted" not in "\n".join(profile_lines(replace(profile, fit=fit)))


def test_factors_of_kernels_in_a_step() -> None:
    """Found with host time beside them, in spite of outliers; of the device alone too."""
    random = np.random.default_rng(0)
    parts = random.uniform(0.1, 1.0, (40, 3))
    sequences = random.integers(1, 32, 40).astype(float)
    device = parts @ np.array([1.2, 0.9, 1.1])
    seconds = device + 0.05 + 0.002 * sequences
    seconds[5] *= 3
    found, host = fit_steps(parts, [sequences], seconds)
    assert host == pytest.approx([0.05, 0.002], rel=0.3)
    assert (found.dense, found.decode, found.prefill) == pytest.approx((1.2, 0.9, 1.1), abs=0.05)
    alone = fit_factors(parts[:, :] * [1, 1, 0], parts @ np.array([1.3, 1.0, 0.0]))
    assert (alone.dense, alone.decode, alone.prefill) == pytest.approx((1.3, 1.0, 1.0), abs=0.03)


def test_scaled_tables_predict_scaled_steps(profile: Profile, config: Path) -> None:
    """Each factor has its own part of a step."""
    shape = load_shape(config)
    profile = replace(profile, host=HostCost(0.0, 0.0, "measured"))
    steps = [Step((), 4, 256, 1.0), Step((Chunk(32, 0),), 0, 0, 1.0)]
    parts = parts_of(profile, shape, steps)
    assert parts[0, 2] == 0 and parts[1, 1] == 0 and (parts[:, 0] > 0).all()
    twice = scaled(profile, Factors(2.0, 3.0, 4.0))
    cost = CalibratedCost(twice, shape)
    for step, part in zip(steps, parts, strict=True):
        assert step.device_s(cost) == pytest.approx(part @ np.array([2.0, 3.0, 4.0]))


def test_a_busy_device_is_warned_of(profile: Profile) -> None:
    steady = {
        "gemm_qkv": {"spread": 0.02},
        "norm": {"spread": 0.9},
        "o": {"spread": 0.1},
        "step": {},
    }
    assert unsteady(replace(profile, fit=steady)) == ""
    busy = steady | {"embed": {"spread": 0.6}, "sample": {"spread": 0.4}}
    assert "differ by 40%" in unsteady(replace(profile, fit=busy))


def test_some_batches_run_however_late_it_is() -> None:
    """So that a profile always has steps that it was not fitted to."""
    launched = SimpleNamespace(wait=lambda: None)
    runner = SimpleNamespace(
        launch=lambda batch: launched, graphs=None, model=SimpleNamespace(vocab=9)
    )
    source = RandomArena(KVLayout(1, 1, 16, 16, torch.float32), {16: 10}, CPU)
    ran = run_batches(runner, source, [Shape((5,), ())] * 20, Deadline(-1.0))  # type: ignore[arg-type]
    assert len(ran) == LEAST_BATCHES


class FakeDevice:
    """A timer, a runner and its graphs: 1 ms to launch a step that then takes 4 ms, one by one."""

    def __init__(self) -> None:
        self.now = self.free_s = 0.0
        self.model, self.device, self.graphs = SimpleNamespace(vocab=9), CPU, self

    def read(self) -> float:
        return self.now

    def rest(self) -> None:
        pass

    def prepared(self, batch: Batch) -> Callable[[], object]:
        return lambda: None

    def launch(self, batch: Batch) -> SimpleNamespace:
        self.now += 0.001
        self.free_s = end_s = max(self.free_s, self.now) + 0.004
        return SimpleNamespace(wait=lambda: self._wait(end_s))

    def _wait(self, end_s: float) -> None:
        self.now = max(self.now, end_s)


def test_a_step_is_timed_alone_and_queued_ahead() -> None:
    """Whoever queues the next step in time waits for the device alone."""
    device: Any = FakeDevice()
    source = RandomArena(KVLayout(1, 1, 16, 16, torch.float32), {16: 10}, CPU)
    with timed_by(device):
        (step, *_) = run_batches(device, source, [Shape((5,), ())], Deadline(60.0))
    assert step.seconds == pytest.approx(0.005)
    assert step.queued_s == pytest.approx(0.004)


# -- whole --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers."""
    path = tmp_path_factory.mktemp("little") / "config.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def profile(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Its profile on this CPU, through a file."""
    wish = Wish(
        str(config),
        "cpu",
        ModelOptions(random_weights=True),
        minutes=0.05,
        max_sequences=4,
        kv_blocks=64,
        grids=GRIDS,
    )
    path = tmp_path_factory.mktemp("profile") / "cpu.json"
    said: list[str] = []
    write_profile(calibrate(wish, said.append).profile, path)
    (line,) = (line for line in said if line.startswith("whole steps, predicted"))
    assert re.search(r": [\d.]+% off on average \(\d+ steps\)$", line)
    return load_profile(path)


@pytest.mark.parametrize("rounds", [1, 3])
def test_it_is_told_how_many_rounds_there_are(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """For each names every kernel again."""
    monkeypatch.setattr(calibration, "measure_kernels", lambda *_: iter(()))
    said: list[str] = []
    subject: Any = SimpleNamespace(rounds=rounds)
    assert calibration.kernels_in_rounds(subject, Deadline(1.0), said.append) == {}
    told = [f"kernels, round {number} of {rounds}" for number in range(1, rounds + 1)]
    assert said == (told if rounds > 1 else [])


def test_a_profile_has_every_kernel(profile: Profile) -> None:
    """Of a dense model; and links, host time, capacity and fit."""
    parts = ("qkv", "o", "gate_up", "down", "lm_head")
    kernels = {f"gemm_{part}" for part in parts}
    kernels |= {f"attention_decode_{bits}" for bits in PRECISIONS}
    kernels |= {"attention_prefill", "norm", "rope_write", "activation", "embed", "sample"}
    kernels |= {"requantise_8", "requantise_4", "block_copy"}
    assert set(profile.kernels) == kernels
    assert profile.device == "cpu" and profile.dtype == "fp32"
    assert profile.memory["kv_blocks"] == 64
    assert profile.host.origin == "measured" and profile.host.step_s >= 0
    assert profile.fit["step"]["points"] > 0
    assert any("attention_prefill" in line for line in profile_lines(profile))


def test_the_command_that_is_told_simulates(profile: Profile, config: Path, tmp_path: Path) -> None:
    """Also where names have spaces."""
    (tmp_path / "a run").mkdir()
    path, trace = tmp_path / "a run" / "cpu.json", tmp_path / "t.jsonl"
    write_profile(profile, path)
    trace.write_text('{"timestamp": 0, "input_length": 20, "output_length": 3}\n')
    program, command, of, *rest = shlex.split(simulation_of(profile, path, str(config)))
    assert (program, command, of) == ("superinfer-sim", "run", "TRACE")
    words = [sys.executable, "-m", "sim", "run", str(trace), *rest, "--no-plots", "--json"]
    words += ["--out", str(tmp_path / "out")]
    ran = subprocess.run(
        words, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    summary = json.loads(ran.stdout)
    assert (summary["completed"], summary["run"]["kv_blocks"]) == (1, 64)


def test_the_cost_model_reads_it(profile: Profile, config: Path) -> None:
    """Times are positive and never fall with more work; blocks have 4-byte values."""
    cost = CalibratedCost(profile, load_shape(config))
    assert cost.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    times = [cost.step_s((), 4, context) for context in (128, 256, 512)]
    assert 0 < times[0] <= times[1] <= times[2]
    chunks = [cost.step_s([Chunk(n, 0)], 0, 0) for n in (8, 32, 64)]
    assert 0 < chunks[0] <= chunks[1] <= chunks[2]
    assert cost.transfer_s(1 << 20, 4, "h2d") > 0
    assert 0 < cost.attention_share(8, 0.5) <= 1


def test_steps_with_chunks_wait_for_their_launches() -> None:
    """The least time is that of steps whose kernels take much less, host time left out."""
    cost, host = Linear(), HostFit(0.002, 0.001)
    steps = [
        Step((Chunk(8, 0),), 1, 1000, 0.014),  # 2 ms on the device, 4 ms on the host
        Step((Chunk(8, 0),), 0, 5000, 0.013),  # 6 of 10 ms
        Step((Chunk(8, 0),), 0, 15000, 0.020),  # bound by the device
        Step((), 4, 100, 0.012),
    ]
    found = launch_seconds([(step, host) for step in steps], cost)  # type: ignore[arg-type]
    assert found == pytest.approx(0.010)


def test_a_processor_computes_one_chunk_after_the_other(profile: Profile, config: Path) -> None:
    """What a step with chunks takes more, and what each further chunk does, is found and counts."""
    shape = load_shape(config)
    host = HostCost(0.001, 0.0, "measured", chunked_s=0.003, next_chunk_s=0.002)
    cost, random = CalibratedCost(replace(profile, host=host), shape), np.random.default_rng(0)
    plain = CalibratedCost(replace(profile, host=HostCost(0.0, 0.0, "measured")), shape)
    for count in (1, 2, 4):
        chunks = [Chunk(8, 0)] * count
        more_s = cost.step_s(chunks, 2, 64) - plain.step_s(chunks, 2, 64)
        assert more_s == pytest.approx(0.003 + 0.002 * (count - 1))
    limits = Limits(4, 120, 60, 400, 6)

    def steps(count: int) -> list[Step]:
        made = []
        for i in range(count):
            batch = limits.batch(random, i % 2 == 1, i)
            chunks = tuple(Chunk(*chunk) for chunk in batch.chunks)
            work = chunks, len(batch.contexts), sum(batch.contexts)
            made.append(Step(*work, cost.step_s(*work) + 0.001))
        return made

    ran = Steps(steps(60), steps(20), steps(40))
    fitted_before = replace(profile.host, chunked_s=0.002, next_chunk_s=0.001)
    found = with_steps(replace(profile, host=fitted_before), shape, ran).host
    assert found.next_chunk_s == pytest.approx(0.002, rel=0.25)
    assert found.chunked_s == pytest.approx(0.003, rel=0.25)
    elsewhere = with_steps(replace(profile, device="h100"), shape, ran).host
    assert (elsewhere.chunked_s, elsewhere.next_chunk_s) == (0.0, 0.0)


def test_what_steps_that_are_queued_ahead_take_more(profile: Profile, config: Path) -> None:
    """It is fitted to those that the device takes longer for than the host, and judged on others;
    nothing is said of it where no step was queued.
    """
    shape, host_s = load_shape(config), 0.002
    cost = CalibratedCost(replace(profile, host=HostCost(0.0, 0.0, "measured")), shape)

    def step(decodes: int, device_s: float, queued: bool) -> Step:
        beside_s = device_s + host_s
        after_s = max(host_s, device_s + 3e-4) if queued else None
        return Step((), decodes, 64 * decodes, beside_s, device_s, after_s)

    def steps(queued: bool) -> Steps:
        plain = [step(n, cost.step_s((), n, 64 * n) + 0.01, queued) for n in (1, 2, 3, 4)]
        short = [step(n, host_s / 2, queued) for n in (1, 2, 3)]  # they wait for the host
        return Steps(plain + short, plain, plain)

    found = with_steps(profile, shape, steps(True))
    assert found.host.between_s == pytest.approx(3e-4)
    assert found.fit["step_queued"]["points"] == 4
    assert any("queued ahead have 300 us" in line for line in profile_lines(found))
    without = with_steps(profile, shape, steps(False))
    assert without.host.between_s == 0.0 and "step_queued" not in without.fit


@pytest.mark.parametrize("launch_s", [0.05, 0.0])
def test_a_profile_brought_in_line_with_steps(
    profile: Profile, config: Path, launch_s: float
) -> None:
    """Steps of a device that is launched slowly and replays decodes fast are predicted, and steps
    of one that replays all of them.
    """
    shape = load_shape(config)
    # A busy machine would take as long for its kernels as launching is said to take here.
    speed = 0.004 / CalibratedCost(profile, shape).step_s([Chunk(60, 60)], 4, 480)
    profile = scaled(profile, Factors(speed, speed, speed))
    truth = replace(
        scaled(profile, Factors(0.8, 1.2, 1.0)), host=HostCost(0.002, 1e-4, "measured", launch_s)
    )
    cost, random = CalibratedCost(truth, shape), np.random.default_rng(0)
    limits = Limits(4, 120, 60, 400)

    def steps(count: int) -> list[Step]:
        made = []
        for i in range(count):
            batch = limits.batch(random, i % 2 == 1, i)
            chunks = tuple(Chunk(*chunk) for chunk in batch.chunks)
            work = chunks, len(batch.contexts), sum(batch.contexts)
            device_s, sequences = cost.step_s(*work), len(chunks) + work[1]
            replay_s = None if chunks and launch_s else device_s
            made.append(Step(*work, device_s + cost.host_s(sequences), replay_s))
        return made

    found = with_steps(profile, shape, Steps(steps(40), steps(20), steps(40)))
    assert found.host.step_s == pytest.approx(0.002, rel=0.1)
    assert found.host.launch_s == pytest.approx(launch_s, rel=0.05)
    assert found.fit["step"]["heldout_mape"] < 0.02
