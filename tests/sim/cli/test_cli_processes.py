"""`superinfer-sim` as a process: Ctrl-C, closed pipes, full disks, terminals, what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Answer
from short_trace import RECORD, REPOSITORY, TRACE, finished, left_in, process, python


@pytest.fixture(autouse=True)
def folder(short_trace_folder: Path) -> Path:
    return short_trace_folder


SIGINT_PLUGIN = """
import signal
from dataclasses import dataclass
from superinfer.schedulers.fcfs import FcfsScheduler

@dataclass
class Interrupted(FcfsScheduler):
    def submit(self, seq, now):
        FcfsScheduler.submit(self, seq, now)
        if seq.request.index == 7:
            signal.raise_signal(signal.SIGINT)
"""


def test_an_interrupted_run_leaves_nothing(folder: Path) -> None:
    (folder / "sigint_plugin.py").write_text(SIGINT_PLUGIN)
    running = process("run", "t.jsonl", "--scheduler", "sigint_plugin:Interrupted", "--out", "r/s")
    answer = finished(running)
    assert answer == Answer(130, "", "interrupted\n")
    assert left_in(folder) <= {"t.jsonl", "sigint_plugin.py", "__pycache__"}


@pytest.mark.parametrize(
    "module", ["sim.cli.app", "typer", "superinfer.lab.config", "sim.commands"]
)
def test_control_c_during_imports(module: str, folder: Path) -> None:
    """Of the command line itself and, later, of what a command needs."""
    program = (
        "import signal, sys, superinfer\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "sys.argv = ['superinfer-sim', 'run', 't.jsonl', '--out', 'r']\n"
        "from sim.__main__ import main\n"
        "main()\n"
    )
    assert finished(python("-c", program)) == Answer(130, "", "interrupted\n")
    assert left_in(folder) == {"t.jsonl"}


def test_control_c_that_is_ignored_stays_so(folder: Path) -> None:
    program = (
        "import signal\n"
        "from sim.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)\n"
    )
    assert finished(python("-c", program)).out.endswith("True\n")


def test_control_c_during_a_comparison(folder: Path) -> None:
    many = "".join(
        RECORD.format(at=2 * i, prompt=300, answer=300, name="chat") for i in range(20_000)
    )
    (folder / "many.jsonl").write_text(many)
    running = process("compare", "many.jsonl", "--no-plots", "--out", "c")
    assert running.stderr is not None
    assert running.stderr.readline().startswith(b"0 of 4 runs")
    time.sleep(0.2)
    running.send_signal(2)
    answer = finished(running)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.endswith("interrupted\n")
    assert left_in(folder) == {"t.jsonl", "many.jsonl"}


def test_a_reader_that_goes_away_is_no_failure(folder: Path) -> None:
    """The pipe is closed before anything is written to it; the gate still counts."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    gate = ("--require", "completed>12", "--no-plots", "--out", "r")
    commands = [("run", "t.jsonl", *gate), ("traces", "convert", "t.jsonl", "-o", "-")]
    running = [process(*command, stdout=write_end) for command in commands]
    os.close(write_end)
    gated, converted = [finished(each) for each in running]
    assert gated == Answer(3, "", "results in r\nFAIL: completed>12 (found 12)\n")
    assert converted == Answer(0, "", "wrote 12 requests to -\n")
    assert (folder / "r" / "summary.json").exists()


def test_a_standard_output_that_is_closed(folder: Path) -> None:
    """What is printed goes nowhere, also what is written as bytes."""
    commands = [("profiles", "list"), ("traces", "convert", "t.jsonl", "-o", "-")]
    without = (
        "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    running = [python("-c", without, "-m", "sim", *command) for command in commands]
    listed, converted = [finished(each) for each in running]
    assert listed == Answer(0, "", "")
    assert converted == Answer(0, "", "wrote 12 requests to -\n")


def test_a_full_disk_behind_standard_output(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        answer = finished(process("run", "t.jsonl", "--no-plots", "--out", "r", stdout=full))
    assert (answer.code, answer.err) == (1, "results in r\nerror: No space left on device\n")
    assert (folder / "r" / "summary.json").exists()


def test_a_terminal_that_is_not_utf_8(folder: Path) -> None:
    (folder / "c.toml").write_text('[classes."größe"]\nttft_ms = 100\n', encoding="utf-8")
    (folder / "u.jsonl").write_text(TRACE.replace('"chat"', '"größe"'), encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    options = ("--classes", "c.toml", "--no-plots", "--out", "r")
    answer = finished(process("run", "u.jsonl", *options, env=ascii_only))
    assert (answer.code, answer.err) == (0, "results in r\n")
    assert answer.out.isascii() and "gr\\xf6\\xdfe" in answer.out


def test_results_do_not_depend_on_the_process(folder: Path) -> None:
    (folder / "s.jsonl").write_bytes(
        b"".join((REPOSITORY / "traces/samples/mixed.jsonl").read_bytes().splitlines(True)[:150])
    )
    running = [
        process(
            *("run", "s.jsonl", "--scheduler", "priority", "--prefix-caching", "--seed", "3"),
            *("--no-plots", "--out", f"r{seed}"),
            env={"PYTHONHASHSEED": str(seed)},
        )
        for seed in (1, 2)
    ]
    assert [finished(each).code for each in running] == [0, 0]
    for name in ("requests.parquet", "timeline.parquet", "itl.parquet", "config.toml"):
        assert (folder / "r1" / name).read_bytes() == (folder / "r2" / name).read_bytes()


def test_help_imports_nothing_heavy() -> None:
    modules = imported("--help")
    assert not modules & {"numpy", "pandas", "matplotlib", "pyarrow", "simpy", "msgspec"}
    assert not modules & {"sim.commands", "superinfer.engine.engine", "traces.readers"}


def test_a_run_without_plots_imports_neither_pandas_nor_matplotlib() -> None:
    modules = imported("run", "t.jsonl", "--no-plots", "--out", "r")
    assert "pyarrow" in modules
    assert not modules & {"pandas", "matplotlib", "scipy", "IPython"}


def imported(*arguments: str) -> set[str]:
    """Modules that a command has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('modules', *sys.modules, file=sys.stderr))\n"
        "from sim.cli.app import main\n"
        f"sys.argv = ['superinfer-sim', *{arguments!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())
