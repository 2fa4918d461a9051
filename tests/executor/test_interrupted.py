"""Ctrl-C while a device is calibrated or a simulation is validated: one line says what is kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from executor_runs import LLAMA, call

from executor.calibration import calibrate as calibration
from executor.calibration.files import WITHOUT_STEPS
from executor.calibration.grids import Grids
from executor.calibration.subject import Wish
from executor.session import HOST, ModelOptions
from executor.validation import runs
from superinfer.costs import CalibratedCost, Chunk, list_profiles, load_profile, load_shape
from superinfer.costs.profile import Profile

GRIDS = Grids((1, 8, 64), (1, 8), (1, 4), (32, 128), (1, 32, 64), (0, 64), (1, 4), 1 << 9)
SHIPPED = list_profiles()[0].path


def press(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_kernels_and_copies_alone_are_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known before a session is opened: the simulator reads it, with assumed host time."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**LLAMA, "vocab_size": 256}))
    monkeypatch.setattr(calibration, "open_session", press)
    sizes: dict[str, Any] = {"max_sequences": 4, "kv_blocks": 64, "grids": GRIDS}
    wish = Wish(str(config), "cpu", ModelOptions(random_weights=True), 0.05, **sizes)
    known: list[Profile] = []
    with pytest.raises(KeyboardInterrupt):
        calibration.calibrate(wish, lambda _: None, known.append)
    (profile,) = known
    assert profile.host == HOST and profile.sources[-1] == WITHOUT_STEPS
    cost = CalibratedCost(profile, load_shape(config))
    assert 0 < cost.step_s([Chunk(8, 0)], 0, 0) <= cost.step_s([Chunk(64, 0)], 0, 0)


@pytest.mark.parametrize("far", [False, True])
def test_a_calibration_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], far: bool
) -> None:
    """An earlier profile stays, and nothing is half written."""
    shipped = load_profile(SHIPPED)

    def measure(wish: Any, say: Any, keep: Callable[[Profile], None]) -> Any:
        if far:
            keep(shipped)
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "calibrate", measure)
    earlier = tmp_path / "mine.json"
    earlier.write_text("earlier")
    code, text, errors = call(monkeypatch, capsys, "calibrate", "--device", "cpu", "-o", earlier)
    assert (code, text, earlier.read_text()) == (130, "", "earlier")
    said, last = errors.splitlines()
    assert last == "interrupted"
    if far:
        part = tmp_path / "mine.part.json"
        assert said == f"kept in {part}: a profile {WITHOUT_STEPS}"
        assert load_profile(part).kernels == shipped.kernels
    else:
        assert said == "nothing is kept: not all kernels and copies were measured yet"
    assert len(list(tmp_path.iterdir())) == 1 + far


def test_a_calibration_tells_as_json_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = {"norm": {"points": 7.0, "heldout_mape": 0.02}, "driver_step": {"mean": 0.1}}
    memory = {"kv_blocks": 64, "block_tokens": 32}
    profile = replace(load_profile(SHIPPED), fit=fit, memory=memory)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: SimpleNamespace(profile=profile))
    out = tmp_path / "mine.json"
    arguments = ("calibrate", "--device", "cpu", "-o", out, "--json")
    code, text, errors = call(monkeypatch, capsys, *arguments)
    told = json.loads(text)
    assert code == 0 and told["path"] == str(out) and load_profile(out).fit == fit
    assert (told["device"], told["model"]) == (profile.device, profile.model)
    assert (told["points"], told["heldout_mape"]) == ({"norm": 7}, {"norm": 0.02})
    assert told["kv_blocks"] == 64
    assert f"to simulate by it: {told['simulate']}\n" in errors
    assert f"run.costs={out}" in told["simulate"]


@pytest.mark.parametrize("done", [0, 1])
def test_a_validation_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int
) -> None:
    """Runs that came to their end are named; of the one that ran nothing is left."""
    ran: list[Path] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        out = Path(command[command.index("--out") + 1])
        ran.append(out)
        if len(ran) > done:
            (out.parent / f".{out.name}.12345678.tmp").mkdir()
            raise KeyboardInterrupt
        out.mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(runs.subprocess, "run", run)
    out = tmp_path / "above" / "out"
    code, _, errors = call(
        monkeypatch,
        capsys,
        *("validate", "t.jsonl", "--device", "cpu", "--profile", SHIPPED),
        *("--repeats", "2", "--out", out),
    )
    said = errors.splitlines()
    assert code == 130 and said[-1] == "interrupted"
    if done:
        assert said[-2] == f"kept in {out}: device-vllm-1"
        assert [each.name for each in out.iterdir()] == ["device-vllm-1"]
    else:
        assert said[-2] == "no run was done, none is kept"
        assert not list(tmp_path.iterdir())
