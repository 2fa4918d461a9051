"""What GPU checks run beside kernels, on a CPU: swaps, sanitizer, scenes, gains."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import time
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from executor.bench import session as bench_session
from executor.calibration.calibrate import Calibration
from executor.calibration.steps import Steps
from executor.models import load_model
from executor.steps import sampler
from executor.steps.runner import Runner
from executor.validation.runs import summary
from experiments.gpu_check import (
    calibrate,
    env,
    floors,
    large,
    memcheck,
    queueing,
    showcase,
    tokens,
)
from experiments.gpu_check.__main__ import _pack
from experiments.gpu_check.checks import NO_TIME, Context, Results, run_part
from experiments.gpu_check.kernels import drawing
from experiments.gpu_check.marks import marks
from experiments.gpu_check.parts import part
from experiments.gpu_check.scenarios import run, scenes, validation
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.costs import load_profile
from superinfer.errors import InputError
from superinfer.lab.config import Config
from superinfer.lab.results import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def context(folder: Path, device: str = "cpu", **options: Any) -> Context:
    """As the command line gives it."""
    given = {"fast": True, "model": "", "profile": None, "trace": folder / "none.csv"}
    return Context(device, 60.0, given | options, folder)


# -- drawing --------------------------------------------------------------------------------------


def test_tokens_are_drawn_as_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each setting; one token in eight is too many that are others."""
    found = drawing.drawn(context(tmp_path))
    assert found["ok"] and found["errors"] == dict.fromkeys(drawing.SETTINGS, 0.0)
    turns: list[int] = []

    def other(logits: torch.Tensor, rows: Any) -> torch.Tensor:
        turns.append(len(rows))
        return sampler.sample(logits, rows) + (len(turns) == 2)

    monkeypatch.setattr(drawing, "sample", other)
    found = drawing.drawn(context(tmp_path))
    assert not found["ok"] and found["errors"] == dict.fromkeys(drawing.SETTINGS, 1 / 8)


def test_a_gpu_raises_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as tokens are drawn, whatever comes of that."""
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(ZeroDivisionError), drawing.no_waiting(torch.device("cuda")):
        assert modes == ["error"] and 1 / 0
    assert modes == ["error", "default"]


def test_steps_are_launched_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that would wait says so, and the others go on; what else is wrong fails the check."""
    given = context(tmp_path)
    place: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    model = load_model(floors.tiny_config(given), random_weights=True, **place)
    found = queueing.queued(given, model)
    assert found["ok"] and found["cases"] == 2 * len(queueing.CHUNKS)
    launch, launches = Runner.launch, list[int]()

    def waits(runner: Runner, batch: Any) -> Any:
        launches.append(batch.wanted)
        if len(launches) == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        return launch(runner, batch)

    monkeypatch.setattr(Runner, "launch", waits)
    found = queueing.queued(given, model)
    assert not found["ok"] and found["error"] == "over 0: decodes inf"
    assert len(launches) == 4 * len(queueing.CHUNKS)
    monkeypatch.setattr(Runner, "launch", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        queueing.queued(given, model)


# -- replays --------------------------------------------------------------------------------------


def test_replays_are_timed_idle_and_behind_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is waited for before each; then there is a product in the queue, or nothing."""
    assert "skipped" in env.replays(context(tmp_path))
    done: list[str] = []
    monkeypatch.setattr(env, "device_of", lambda given: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("waited"))
    multiply = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: done.append("product") or multiply(a[:1], b)
    )
    monkeypatch.setattr(env, "captured", len)
    monkeypatch.setattr(env, "between_events", lambda run: done.append("replay") or run * 1e-6)
    rows = env.replays(context(tmp_path, device="cuda"))["rows"]
    assert rows == [
        {"kernels": n, "idle us": pytest.approx(n), "busy us": pytest.approx(n)}
        for n in (1, 64, 512)
    ]
    idle, busy = ["waited", "replay"], ["waited", "product", "replay"]
    assert done == 3 * (env.REPEATS * idle + env.REPEATS * busy)


# -- too little memory ----------------------------------------------------------------------------


def out_of_memory(*_: Any, **__: Any) -> Any:
    """As torch says it."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")


def test_points_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say so, and the others are measured."""
    given, measure = context(tmp_path), bench_session.measure_decode

    def some(model: Any, shape: Any, point: Any, *more: Any) -> Any:
        return (out_of_memory if point.batch == 3 else measure)(model, shape, point, *more)

    monkeypatch.setattr(bench_session, "measure_decode", some)
    rows = floors.decode(given)["rows"]
    assert [row.get("skipped") for row in rows[:2]] == [None, "does not fit: no 2.00 GiB left"]
    assert len(rows) == len(bench_session.TINY_POINTS)
    monkeypatch.setattr(bench_session, "measure_prefill", out_of_memory)
    assert floors.prefill(given)["rows"][0]["skipped"].startswith("does not fit")
    monkeypatch.setattr(showcase, "RandomArena", out_of_memory)
    rows = showcase.tokens(given)["rows"]
    assert [row["kv"] for row in rows] == [mix.name for mix in showcase.MIXES]
    assert all(row["skipped"] == "does not fit: no 2.00 GiB left" for row in rows)


def test_a_small_gpu_is_not_asked_for_70b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 80 GB runs its steps, and has no room for the keys of a profile's."""
    given = context(tmp_path, device="cuda")
    monkeypatch.setattr(large, "memory_bytes", lambda device: 85e9)
    assert large.too_small(given, large.STEPS_BYTES) == {}
    skipped = {"skipped": "wants a GPU of 100 GB, this one has 85"}
    assert large.PROFILE["calibrate"](given) == skipped
    monkeypatch.setattr(large, "memory_bytes", lambda device: 42e9)
    for check in large.CHECKS.values():
        assert check(given) == {"skipped": "wants a GPU of 78 GB, this one has 42"}


# -- swaps ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("check", ["beside-slo_aware", "roomy-rotating"])
def test_swaps_change_no_token(tmp_path: Path, check: str) -> None:
    """On a CPU nothing can race, so this is the way alone; and something moves."""
    found = tokens.CHECKS[check](context(tmp_path))
    assert found["ok"], found
    assert found["h2d_bytes"] > 0 and found["tokens"] > 500


@pytest.mark.parametrize("device", ["h200", "h100", "a100-80g"])
def test_something_moves_at_the_speed_of_a_gpu(tmp_path: Path, device: str) -> None:
    """By the times by which a GPU would plan, each policy is short of memory and swaps; with memory
    for all nothing moves.
    """
    given = context(tmp_path, device=device)
    beside = [(policy, tokens.EIGHT_LAYERS) for policy in ("rotating", "slo_aware")]
    for policy, changes in (*beside, *tokens.ROOMY.items()):
        model = tokens.source_of(given, changes)
        moved = moved_in(tokens.config_of(given, model, policy))
        assert moved["h2d_bytes"] > 0, policy
        if tokens.ROOMY.get(policy) is changes:
            few = tokens.FEW
            assert moved_in(tokens.config_of(given, model, policy, few))["h2d_bytes"] > 0, policy
            roomy = moved_in(tokens.config_of(given, model, policy, few, kv_blocks=tokens.ROOM))
            assert roomy["preemptions"] == 0, policy


def moved_in(config: Config) -> dict[str, Any]:
    """What the simulator says of a run."""
    return simulated(config, load_workload(config))[1]


def test_other_tokens_are_found() -> None:
    """And a run in which nothing moved proves nothing."""
    moved = {"preemptions": 1.0, "h2d_bytes": 5.0, "kv_bits_mean": 16.0}
    same = tokens.Played([[1, 2], [3, 4]], moved)
    assert tokens.compared(same, same)["ok"]
    other = tokens.compared(same, tokens.Played([[1, 2], [3, 5]], moved))
    assert not other["ok"] and other["error"] == "1 requests differ, 1 from token 1 on"
    idle = tokens.Played([[1, 2], [3, 4]], moved | {"h2d_bytes": 0.0})
    assert "nothing had to move" in tokens.compared(idle, same)["error"]


def test_rounding_may_decide_between_equals() -> None:
    """Two runs may part at two tokens that were a tie; nowhere else."""
    logits = torch.tensor([[0.0, 3.0, 3.0000001, -1.0], [0.0, 3.0, 3.1, -1.0]])
    assert tokens.pairs_near(logits) == [frozenset((1, 2))]
    moved = {"preemptions": 1.0, "h2d_bytes": 5.0, "kv_bits_mean": 16.0}
    ours, theirs = (tokens.Played([[9, token, token]], moved) for token in (1, 2))
    tied = tokens.compared(ours, theirs, {frozenset((1, 2))})
    assert tied["ok"] and tied["parted_by_ties"] == 1 and tied["unlike"] == 0
    assert not tokens.compared(ours, theirs, {frozenset((1, 3))})["ok"]
    shorter = tokens.compared(ours, tokens.Played([[9, 1]], moved), {frozenset((1, 2))})
    assert shorter["error"] == "1 requests differ, 0 from token 2 on"


def test_ties_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every step that runs eagerly, and the step's tokens are as ever."""
    monkeypatch.setattr(Runner, "_choose", lambda self, logits, sampling: logits.argmax(-1))
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0]])
    with tokens.near_ties() as ties:
        assert Runner._choose(None, logits, None).tolist() == [1]  # type: ignore[arg-type]
        assert len(Runner._choose(None, logits[:0], None)) == 0  # type: ignore[arg-type]
    assert ties == {frozenset((1, 2))}


# -- sanitizer ------------------------------------------------------------------------------------

CLEAN = "========= COMPUTE-SANITIZER\ndecode ok\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("said", "code", "ok"),
    [
        (CLEAN, 0, True),
        (CLEAN, 1, False),
        (CLEAN.replace("0 errors", "3 errors"), 0, False),
        (CLEAN.replace("0 errors", "10 errors"), 0, False),
        ("Traceback", 0, False),
    ],
)
def test_what_a_sanitizer_says(said: str, code: int, ok: bool) -> None:
    """No error, and all of it came to its end."""
    assert memcheck.judged("memcheck", said, code)["ok"] is ok


def test_a_sanitizer_that_sees_nothing_is_skipped() -> None:
    """Some virtual machines do not let it look."""
    found = memcheck.judged("racecheck", "Error: Device not supported. Please refer", 255)
    assert found == {"skipped": "Error: Device not supported. Please refer"}


def test_what_a_sanitizer_runs_ends_with_its_time() -> None:
    """With all that it started."""
    script = "import subprocess; print('on', flush=True); subprocess.run(['sleep', '600'])"
    said, code = memcheck.run_alone([sys.executable, "-c", script], 0.0)
    assert code < 0 and said == "on\n"


def test_references_are_computed_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever holds the tensors that they are given; the checks are right as before."""
    from experiments.gpu_check.kernels.part import CHECKS

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # torch's operations are faster here
    moved = []
    to_host = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self) or to_host(self))
    names = {name for group in memcheck.GROUPS.values() for name in group}
    for name in sorted(names):
        with memcheck.references_on_the_host():
            moved.clear()
            assert CHECKS[name](context(tmp_path))["ok"]
        assert len(moved) >= 8 or name in {"copy_blocks", "largest"}  # compared bit for bit
    moved.clear()
    assert CHECKS["prefill-odd-group-80"](context(tmp_path))["ok"] and not moved


def test_a_calibration_says_how_long_its_session_took_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile(ROOT / "experiments/results/h200/profile-llama-3.1-8b.json")
    made = Calibration(profile, Steps([], [], []), {"weights": 2.5, "graphs": 4.25})
    monkeypatch.setattr(calibrate, "measure", lambda wish, say, keep: made)
    found = calibrate.calibrate(context(tmp_path))
    assert (found["opened_s"], found["opening_s"]) == (6.75, made.opening_s)
    assert found["table"][-1] == "   seconds to open a session: weights 2.5, graphs 4.2"


def test_a_calibration_out_of_time_leaves_its_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the archive of the part; the whole profile takes their place."""
    profile = load_profile(ROOT / "experiments/results/h200/profile-llama-3.1-8b.json")
    made = Calibration(profile, Steps([], [], []), {"weights": 2.5})

    def measure(wish: Any, say: Any, keep: Any) -> Calibration:
        keep(profile)
        if not (tmp_path / "quick").exists():
            time.sleep(60)
        return made

    monkeypatch.setattr(calibrate, "measure", measure)
    options = Namespace(work=tmp_path, out=tmp_path)
    results = Results(tmp_path / "results.json")
    found = part("calibrate-70b", fast=True)
    results.recorded = partial(_pack, "calibrate-70b", found, options)
    run_part("calibrate-70b", found, replace(context(tmp_path), seconds=6.0), results)
    assert results.checks("calibrate-70b")["calibrate"]["error"] == NO_TIME[1]
    with tarfile.open(tmp_path / "calibrate-70b.tar.gz") as archive:
        assert archive.getnames() == ["profiles/llama-3.1-70b.part.json"]
        archive.extractall(tmp_path / "other", filter="data")
    kept = load_profile(tmp_path / "other/profiles/llama-3.1-70b.part.json")
    assert kept.kernels == profile.kernels
    (tmp_path / "quick").touch()
    calibrate.calibrate(context(tmp_path), large.MODEL, True)
    assert [each.name for each in (tmp_path / "profiles").iterdir()] == ["llama-3.1-70b.json"]


def test_the_checks_of_a_sanitizer_are_there() -> None:
    """By name."""
    from experiments.gpu_check.kernels.part import CHECKS

    assert {name for group in memcheck.GROUPS.values() for name in group} <= set(CHECKS)


def test_a_sanitizer_is_run_with_small_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only says what it was given: the command, and where memory comes from."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        '#!/bin/sh\necho "$@" $PYTORCH_NO_CUDA_MEMORY_CACHING\necho "ERROR SUMMARY: 0 errors"\n'
        'echo "$@" > said\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    found = memcheck.under(context(tmp_path, device="cuda"), "memcheck", "decode")
    assert found == {"ok": True, "summary": "0 errors"}
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"--tool memcheck {sys.executable} -m experiments.gpu_check.memcheck ")
    assert said.split()[-2:] == list(memcheck.GROUPS["decode"])
    assert memcheck.Small("cuda", 1.0, {}, tmp_path).tiny


# -- scenes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_a_scene_on_the_device_and_simulated(tmp_path: Path) -> None:
    """The command in a fork, its folder, and the same simulated with another profile's costs."""
    found = run.run(context(tmp_path), "m", "vllm")
    assert found["completed"] == scenes.TINY["m"]
    assert list(found["opening_s"]) == ["weights", "blocks"]
    assert (
        found["opened_s"] == pytest.approx(sum(found["opening_s"].values())) and found["opened_s"]
    )
    assert summary(tmp_path / "runs" / "m-vllm")["run"]["simulated"] is False
    with pytest.raises(FileNotFoundError, match="calibrate-8b writes it"):
        validation.validate(context(tmp_path), "m-vllm")


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    """In the words of the command."""
    with pytest.raises(RuntimeError, match=r"exit 2: error: .*nothing"):
        run.call(["run", "nothing.jsonl"], tmp_path / "said", 60.0)


@pytest.mark.slow
def test_a_run_that_takes_too_long_leaves_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped; nobody compares it with a simulation of all requests."""
    rows = [{"timestamp": 5000 * i, "input_length": 8, "output_length": 9} for i in range(40)]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model = floors.tiny_config(context(tmp_path))
    where = tmp_path / "runs" / "m-vllm"
    command = ["run", str(trace), "--model", model, "--random-weights", "--device", "cpu"]
    command += ["--max-model-len", "512", "--kv-blocks", "400", "--no-plots", "--json"]
    with pytest.raises(TimeoutError, match="not over after 20 s"):
        run.call([*command, "--out", str(where)], tmp_path / "said", 20.0)
    assert summary(where)["run"]["interrupted"] and len(load_run(where).steps)
    with pytest.raises(ValueError, match="the run was stopped before its end"):
        validation.validate(context(tmp_path), "m-vllm")
    with pytest.raises(FileNotFoundError, match="no scene of which two policies ran"):
        validation.gain(context(tmp_path))


def test_a_real_trace_has_to_be_there(tmp_path: Path) -> None:
    """One line says how to get it."""
    with pytest.raises(InputError, match=r"gpu_check\.pack"):
        scenes.arguments(context(tmp_path), "real", "vllm")


def test_rates_go_with_the_card(tmp_path: Path) -> None:
    """By the copy that its profile has; the recorded comparison stays as it was."""
    profile = json.loads(
        (ROOT / "experiments/results/h200-early/profile-llama-3.1-8b.json").read_text()
    )
    profile["memory"]["copy_bytes_per_s"] = scenes.H200_BYTES_PER_S / 2
    slow = tmp_path / "slow.json"
    slow.write_text(json.dumps(profile))
    given = context(tmp_path, device="cuda", profile=slow)
    for scene, rate in (("m", "0.5"), (scenes.PRESSURE, "4")):
        arguments = scenes.arguments(given, scene, "vllm")
        assert arguments[arguments.index("--rate-scale") + 1] == rate


def test_gains_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attainment in points, all else as a part; a metric that one side lacks is left out."""

    def side(ttft_ms: float, attainment: float, **more: float) -> dict[str, Any]:
        chat = {"mean_ttft_ms": ttft_ms, "slo_attainment": attainment}
        return {"mean_ttft_ms": 2 * ttft_ms, "classes": {"chat": chat}, **more}

    sides = {
        "device-vllm": side(100.0, 0.5, peak_kv_bytes=10.0),
        "simulated-vllm": side(200.0, 0.4, peak_kv_bytes=10.0),
        "device-ours": side(50.0, 0.9, peak_kv_bytes=5.0),
        "simulated-ours": side(50.0, 0.9),
    }
    monkeypatch.setattr(validation, "summary", sides.__getitem__)
    outcomes: Any = [
        SimpleNamespace(scheduler=name, devices=[f"device-{name}"], simulated=f"simulated-{name}")
        for name in ("vllm", "ours")
    ]
    found = {
        (row["class"], row["metric"]): (row["measured"], row["simulated"])
        for row in validation.gains("m", outcomes)
    }
    assert found == {
        ("all", "mean_ttft_ms"): (-0.5, -0.75),
        ("chat", "mean_ttft_ms"): (-0.5, -0.75),
        ("chat", "slo_attainment"): (pytest.approx(0.4), pytest.approx(0.5)),
    }


def test_gains_of_what_is_simulated_already_need_no_profile(tmp_path: Path) -> None:
    """One line says what is missing where nothing is there, or something is to be simulated."""
    given = context(tmp_path)
    for check in validation.SUMMARIES.values():
        with pytest.raises(FileNotFoundError, match="no scene of which two policies ran"):
            check(given)
    for arm, ttft_ms in (("vllm", 100.0), ("ours", 50.0)):
        for folder in (f"runs/m-{arm}", f"validation/simulated-m-{arm}"):
            (tmp_path / folder).mkdir(parents=True)
            found = {"mean_ttft_ms": ttft_ms, "classes": {}}
            (tmp_path / folder / "summary.json").write_text(json.dumps(found))
    (row,) = validation.gain(given)["rows"]
    assert (row["metric"], row["measured"], row["simulated"]) == ("mean_ttft_ms", -0.5, -0.5)
    assert validation.best(given)["agree"]
    with pytest.raises(FileNotFoundError, match="part calibrate-8b writes it"):
        validation.validate(given, "m-vllm")
    shutil.rmtree(tmp_path / "validation" / "simulated-m-ours")
    with pytest.raises(FileNotFoundError, match="part calibrate-8b writes it"):
        validation.gain(given)


def test_marks_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results.json: no part has left a result yet"):
        marks(context(tmp_path, out=tmp_path))
