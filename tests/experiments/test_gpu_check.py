"""The harness of GPU checks on a CPU: failures stay apart, and what is done is skipped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.bench.engines import Load, engines
from experiments.gpu_check.checks import (
    HANDOVER_S,
    KILLED_S,
    Check,
    Context,
    Crew,
    Part,
    Result,
    Results,
    line,
    run_check,
    run_part,
)
from experiments.gpu_check.parts import CALLS, ORDER, part
from experiments.gpu_check.small import tiny_config

PAGE = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")


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
    found = run(tmp_path, {"fine": fine, "hangs": hangs, "late": fine}, seconds=5.0).checks("some")
    assert found["fine"]["ok"]
    assert not found["hangs"]["ok"] and "no time left" in found["hangs"]["error"]
    assert found["late"] == {"ok": False, "error": "no time left"}


def counts(context: Context) -> Result:
    """Two rows, and then it never comes back."""

    def rows() -> Iterator[dict[str, int]]:
        yield from ({"number": number} for number in range(2))
        time.sleep(600)

    return {"rows": context.kept(rows())}


def dies_late(context: Context) -> Result:
    context.kept([{"number": 7}])
    os._exit(9)


def raises_late(context: Context) -> Result:
    context.kept([{"number": 8}])
    raise ValueError("later")


def test_rows_that_are_there_outlive_their_check(tmp_path: Path) -> None:
    """Of one that raises, hangs, or takes its process along; it failed all the same."""
    checks = {"raises": raises_late, "dies": dies_late, "counts": counts}
    found = run(tmp_path, checks, seconds=5.0).checks("some")
    assert found["dies"] == {
        "ok": False,
        "error": "the process ended with 9",
        "rows": [{"number": 7}],
    }
    assert found["raises"]["rows"] == [{"number": 8}] and not found["raises"]["ok"]
    assert found["counts"]["rows"] == [{"number": 0}, {"number": 1}]
    assert found["counts"]["error"] == "stopped: no time left"


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


def whose(context: Context) -> Result:
    """Says which process it ran in, and in a rehearsal leaves a file that says so."""
    if context.rehearsal:
        (context.work / f"rehearsed-{time.monotonic_ns()}-{os.getpid()}").touch()
    return {"pid": os.getpid()}


def test_a_rehearsal_begins_no_more_processes_than_run_at_a_time(tmp_path: Path) -> None:
    """One that dies takes none of its others along."""
    checks = {"a": dies, **{str(number): whose for number in range(6)}}
    found = run(tmp_path, checks, rehearsed=True).checks("some")
    assert all(found[str(number)]["ok"] for number in range(6))
    processes = [path.name.rpartition("-")[2] for path in tmp_path.glob("rehearsed-*")]
    assert len(processes) == 6 and len(set(processes)) == 2


def test_what_is_known_stays_until_there_is_newer(tmp_path: Path) -> None:
    """Asked for again with too little time, a check keeps what it had, and says so."""
    run(tmp_path, {"good": fine, "bad": fails})
    results = Results(tmp_path / "results.json")
    context = Context("cpu", 4.0, {}, tmp_path)
    shutil.rmtree(tmp_path / "inbox")
    checks = {"good": hangs, "bad": hangs}
    run_part("some", Part(checks, 4.0, side_by_side=True), context, results, again=True)
    found = Results(tmp_path / "results.json").checks("some")
    assert found["good"]["value"] == 7 and found["good"]["earlier"] is True
    assert found["bad"] == {"ok": False, "error": "stopped: no time left"}


def test_time_that_is_left_to_a_check(tmp_path: Path) -> None:
    """That of its part, less what is over."""
    context = Context("cpu", 60.0, {}, tmp_path)
    assert context.left_s == 60.0
    context.end_s = time.monotonic() + 10.0
    left_s = context.left_s
    assert context.end_s - time.monotonic() - HANDOVER_S <= left_s <= 10.0 - HANDOVER_S


class Stuck:
    """A process that a hanging driver keeps, whatever is sent to it."""

    exitcode = None

    def __init__(self) -> None:
        self.waited: list[float] = []

    def is_alive(self) -> bool:
        return True

    def kill(self) -> None:
        pass

    def join(self, timeout: float) -> None:
        self.waited.append(timeout)


def test_nobody_waits_for_a_process_that_does_not_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check is blamed, and what comes after the part goes on."""
    process = Stuck()
    monkeypatch.setattr(Crew, "_start", lambda self, checks: process)
    found = run(tmp_path, {"hangs": hangs, "late": fine}, seconds=2.0).checks("some")
    assert found["hangs"]["error"] == "stopped: no time left"
    assert found["late"]["error"] == "no time left"
    assert process.waited == [KILLED_S]


LEAVES = """
import multiprocessing, os, time
from experiments.gpu_check.__main__ import leave
from experiments.gpu_check.checks import end_with

def hang(parent):
    end_with(parent)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=hang, args=(os.getpid(),)).start()
    print("on", flush=True)
    leave(1)
"""


def test_a_call_ends_though_a_process_does_not(tmp_path: Path) -> None:
    """Python would wait for it at its exit."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "on\n"), done.stderr


CALL = """
import sys, time
from pathlib import Path
from experiments.gpu_check import __main__ as gpu_check
from experiments.gpu_check.checks import Part

def first(context):
    (context.work / "runs" / "first").mkdir(parents=True)
    (context.work / "runs" / "first" / "summary.json").write_text("{}")
    return {"value": 7}

def hangs(context):
    import os
    (context.work / "pid").write_text(str(os.getpid()))
    time.sleep(600)

checks = {"first": first, "hangs": hangs}
gpu_check.part = lambda name, fast: Part(checks, 60.0, ("runs/{check}",))
import signal
signal.signal(signal.SIGTERM, gpu_check._interrupt)
raise SystemExit(gpu_check.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_call_that_is_ended_in_the_middle(tmp_path: Path, how: int, code: int) -> None:
    """Results and archives of the checks before are there; no check stays on the device."""
    out, work = tmp_path / "out", tmp_path / "work"
    options = ["--device", "cpu", "--parts", "run", "--out", str(out), "--work", str(work)]
    process = subprocess.Popen([sys.executable, "-c", CALL, *options])
    end_s = time.monotonic() + 60.0
    there = (work / "pid", out / "run.tar.gz")
    while not all(path.is_file() and path.stat().st_size for path in there):
        assert time.monotonic() < end_s and process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(30.0) == code
    results = Results(out / "results.json")
    assert results.checks("run")["first"]["value"] == 7
    with tarfile.open(out / "run.tar.gz") as archive:
        assert "runs/first/summary.json" in archive.getnames()
    assert _gone(int((work / "pid").read_text()), end_s)


def _gone(pid: int, end_s: float) -> bool:
    """Whether a process ends in time; one that nobody waited for is a zombie."""
    status = Path(f"/proc/{pid}/stat")
    while time.monotonic() < end_s:
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_every_part_has_checks() -> None:
    """All modules import on a machine without a GPU, and fit the limits of one call."""
    for name in ORDER:
        found = part(name, fast=False)
        assert found.checks
        assert found.seconds <= 600
        assert part(name, fast=True).seconds <= found.seconds


def test_two_calls_fit_the_minutes_that_the_page_gives_them() -> None:
    """Known parts, with what they are told to take; the page says as much for each."""
    commands = re.findall(r"offline\.sh --call (\w) --out OUT --minutes ([\d.]+)", PAGE)
    assert {name for name, _ in commands} == set(CALLS)
    for name, minutes in commands:
        parts = [ORDER[part] for part in CALLS[name]]
        assert CALLS[name][-1] == "marks"
        assert sum(entry.about_s for entry in parts) <= 60 * float(minutes) * 1.05
        assert float(minutes) < 10


def test_calls_begin_with_what_is_right_and_end_with_what_may_go_short() -> None:
    """Kernels that were adopted are tried before they are timed, whole steps before searches."""
    first, second = CALLS["a"], CALLS["b"]
    assert first.index("floors") < first.index("tune") < first.index("peers")
    assert second[:3] == ("kernels", "graphs", "floors")
    # However long what comes before the search takes, that gets half of what it wants.
    before = [ORDER[name].fast_seconds for name in first[: first.index("tune")]]
    (minutes,) = re.findall(r"offline\.sh --call a --out OUT --minutes ([\d.]+)", PAGE)
    assert 60 * float(minutes) - sum(before) > ORDER["tune"].fast_seconds / 2


def test_minutes_count_from_when_a_script_began(tmp_path: Path) -> None:
    """What was installed before is part of them."""
    command = [sys.executable, "-m", "experiments.gpu_check", "--device", "cpu"]
    command += ["--parts", "env,marks", "--minutes", "1", "--began", f"{time.time() - 65:.0f}"]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    assert "env (up to 0 s)" in said and "env.machine: FAILED no time left" in said


def test_the_page_lists_every_part_with_its_seconds() -> None:
    """As `ORDER` has them."""
    table = PAGE.split("## A whole check")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (\d+)(?: \*)? \|$", table, re.MULTILINE))
    assert rows == {name: f"{entry.about_s:g}" for name, entry in ORDER.items()}


@pytest.mark.slow
def test_whole_engines_side_by_side(tmp_path: Path) -> None:
    """Ours and transformers' on a tiny model: the path that a GPU takes, but for its graphs."""
    pytest.importorskip("transformers")
    pytest.importorskip("psutil")
    context = Context("cpu", 60.0, {}, tmp_path)
    found = run_check(part("engines", fast=True).checks["both"], context)
    assert found["ok"], found
    ours, peer = found["rows"]
    assert ours["point"].startswith("ours 4x(40+6)") and ours["output_tokens_per_s"] > 0
    assert peer["point"].startswith("transformers 4x(40+6)"), peer
    assert peer["output_tokens_per_s"] > 0


def test_weights_of_8_bits_are_ours_alone(tmp_path: Path) -> None:
    """The peer has none, so it is not given a model that is twice as large."""
    context = Context("cpu", 60.0, {}, tmp_path)
    load = Load(tiny_config(context), "cpu", "float32", 2, 40, 3, 2, int8=True)
    ours, peer = engines(load)
    assert ours["output_tokens_per_s"] > 0
    assert peer == {"point": "transformers", "skipped": "has no weights of 8 bits"}


def test_a_part_that_is_none(tmp_path: Path) -> None:
    """Refused in a line, and nothing is written."""
    command = [sys.executable, "-m", "experiments.gpu_check", "--device", "cpu"]
    command += ["--parts", "env,nope", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --parts: expected some of env,")
    assert done.stderr.endswith("got 'nope'\n") and not (tmp_path / "out").exists()


def test_a_part_from_the_command_line(tmp_path: Path) -> None:
    """Results, a table and the exit code; a second call finds everything done, but for `--again`.

    In processes of their own: checks are forked, and the threads that torch has started for earlier
    tests do not live on in a fork.
    """
    command = [sys.executable, "-m", "experiments.gpu_check", "--device", "cpu"]
    command += ["--parts", "graphs"]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]

    def printed(*more: str) -> str:
        return subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout

    assert "== graphs" in printed()
    stored = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    checks = stored["graphs"]["checks"]
    assert checks["models"]["worst"] <= checks["models"]["limit"]
    checks["part"] = {"ok": False, "error": "it did not load"}
    (tmp_path / "out" / "results.json").write_text(json.dumps(stored), encoding="utf-8")
    assert "graphs.models" not in printed()
    assert "graphs.models" in printed("--again")
