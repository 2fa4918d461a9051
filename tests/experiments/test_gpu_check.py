"""The harness of GPU checks on a CPU: failures stay apart, and what is done is skipped."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from experiments.gpu_check import __main__ as gpu_check
from experiments.gpu_check.checks import Check, Context, Part, Result, Results, line, run_part
from experiments.gpu_check.parts import ORDER, part


def fine(context: Context) -> Result:
    """Works, and leaves a mark for each time that it ran."""
    (context.work / f"ran-{time.monotonic_ns()}").touch()
    return {"value": 7}


def fails(context: Context) -> Result:
    """Raises."""
    raise ValueError("this is how it fails")


def dies(context: Context) -> Result:
    """Takes its process along."""
    os._exit(9)


def hangs(context: Context) -> Result:
    """Never comes back."""
    time.sleep(600)
    return {}


def breaks(context: Context) -> Result:
    """Leaves the device of no use."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def run(folder: Path, checks: dict[str, Check], seconds: float = 20.0, **kind: bool) -> Results:
    """The checks as one part."""
    context = Context("cpu", seconds, {}, folder)
    results = Results(folder / "results.json")
    run_part("some", Part(checks, seconds, **kind), context, results)
    return Results(folder / "results.json")


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_check_takes_no_other_along(tmp_path: Path, side_by_side: bool) -> None:
    """However it ends: by an exception, with its process or with the device."""
    checks = {"raises": fails, "dies": dies, "breaks": breaks, "fine": fine}
    found = run(tmp_path, checks, side_by_side=side_by_side).checks("some")
    assert found["fine"]["ok"] and found["fine"]["value"] == 7
    assert "this is how it fails" in found["raises"]["error"]
    assert "fails" in found["raises"]["traceback"]
    assert found["dies"] == {"ok": False, "error": "the process ended with 9"}
    assert "illegal memory access" in found["breaks"]["error"]
    assert line(found["raises"]).startswith("FAILED ValueError")


def test_a_check_that_hangs_is_ended(tmp_path: Path) -> None:
    """When the time of the part is over; what did not come to run says so."""
    found = run(tmp_path, {"fine": fine, "hangs": hangs, "late": fine}, seconds=1.5).checks("some")
    assert found["fine"]["ok"]
    assert not found["hangs"]["ok"] and "no time left" in found["hangs"]["error"]
    assert found["late"] == {"ok": False, "error": "no time left"}


def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    """In a second call only what failed runs again."""
    run(tmp_path, {"good": fine, "bad": fails})
    again = run(tmp_path, {"good": fine, "bad": fine})
    assert all(result["ok"] for result in again.checks("some").values())
    assert len(list(tmp_path.glob("ran-*"))) == 2


def test_a_rehearsal_leaves_no_result(tmp_path: Path) -> None:
    """It runs every check once more, before."""
    found = run(tmp_path, {"good": fine}, rehearsed=True)
    assert list(found.checks("some")) == ["good"]
    assert len(list(tmp_path.glob("ran-*"))) == 2


def test_every_part_has_checks() -> None:
    """All modules import on a machine without a GPU, and fit the limits of one call."""
    for name in ORDER:
        found = part(name, fast=False)
        assert found.checks
        assert found.seconds <= 600
        assert part(name, fast=True).seconds <= found.seconds


def test_a_part_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results, a table and the exit code; a second call finds everything done."""
    arguments = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    arguments += ["--device", "cpu", "--parts", "graphs"]
    assert gpu_check.main(arguments) == 0
    stored = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    checks = stored["graphs"]["checks"]
    assert checks["models"]["worst"] <= checks["models"]["limit"]
    assert "== graphs" in capsys.readouterr().out
    assert gpu_check.main(arguments) == 0
    assert "graphs.models" not in capsys.readouterr().out
