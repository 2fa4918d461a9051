"""Random batches and requests: what they hold, and host time out of their steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from calibration_kit import CPU, GRIDS, SMALL, Linear
from torch import Tensor

from executor.calibration import calibrate as calibration
from executor.calibration.calibrate import rotated_steps
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.errors import step_errors
from executor.calibration.host_time import fit_host
from executor.calibration.products import gemm_sizes, measure_gemm
from executor.calibration.steps import (
    LEAST_BATCHES,
    Limits,
    Shape,
    random_workload,
    run_batches,
    spread_out,
    workload_within,
)
from executor.calibration.subject import Subject, Wish
from executor.calibration.timing import Deadline
from executor.clocks.timers import timed_by
from executor.kernels.reference import TorchOps
from executor.kv.layout import KVLayout
from executor.models import load_model
from executor.session import ModelOptions, Session, open_session
from executor.step_log import Step
from executor.steps.items import ItemBudget
from executor.steps.runner import Batch
from superinfer.costs.base import Chunk


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
    errors = step_errors(steps[:-1], cost, host)  # type: ignore[arg-type]
    assert np.mean(errors) < 0.02


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


def test_as_many_requests_as_there_is_time_for() -> None:
    """Prompts have a part of the driver's time, at the rate of the chunks before."""
    limits = Limits(16, 4096, 4096, 1 << 16)
    whole = random_workload(limits, 48)
    tokens = sum(request.prompt_tokens for request in whole.requests)
    batches = [Step((), 4, 400, 0.03), Step((Chunk(900, 0),), 100, 9000, 0.3)]  # 0.3 ms a token
    prompts_s = 0.3e-3 * tokens
    assert workload_within(limits, batches, prompts_s / 0.4 + 0.1) == whole
    assert len(workload_within(limits, batches, prompts_s / 0.8).requests) == 24
    assert len(workload_within(limits, batches, 0.01).requests) == 8
    assert workload_within(limits, batches[:1], 0.01) == whole  # nothing is known of chunks


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
    for seconds in (3.0, 12.0, 48.0):  # the first is long enough, but on a machine that is busy
        steps = rotated_steps(subject, seconds)
        if len(steps) > 20 and opened[-1].engine.recorder.rotations > 0:
            return
    raise AssertionError(f"{len(steps)} steps")


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
