"""A whole profile of a CPU, and steps that are predicted with it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from calibration_kit import Linear

from executor.calibration import rounds as kernel_rounds
from executor.calibration.factors import (
    Factors,
    scaled,
)
from executor.calibration.fit import with_steps
from executor.calibration.host_time import HostFit, launch_seconds
from executor.calibration.report import profile_lines, simulation_of
from executor.calibration.steps import Limits, Steps
from executor.calibration.timing import Deadline
from executor.kv.layout import PRECISIONS
from executor.step_log import Step
from superinfer.costs import CalibratedCost, Chunk, load_shape, write_profile
from superinfer.costs.profile import HostCost, Profile


@pytest.mark.parametrize("rounds", [1, 3])
def test_it_is_told_how_many_rounds_there_are(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """For each names every kernel again."""
    monkeypatch.setattr(kernel_rounds, "measure_kernels", lambda *_: iter(()))
    said: list[str] = []
    subject: Any = SimpleNamespace(rounds=rounds)
    assert kernel_rounds.kernels_in_rounds(subject, Deadline(1.0), said.append) == {}
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
        words, cwd=Path(__file__).parents[3], check=True, capture_output=True, text=True
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
