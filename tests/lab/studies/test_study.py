"""Studies: what a key holds, and that nothing is lost, run twice or mixed up."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed_runs import environment, python, until
from study_runner import Recorder, study, table_bytes

from superinfer.errors import ConfigError, InputError
from superinfer.lab.cli.progress import lines, showing_progress, state_text
from superinfer.lab.results import load_run
from superinfer.lab.studies.engines.base import Died
from superinfer.lab.studies.engines.processes import Processes
from superinfer.lab.studies.study import Study, run_study


def logged(folder: Path, what: str) -> Counter[str]:
    """How often each run was begun or ended."""
    text = (folder / "log").read_text() if (folder / "log").exists() else ""
    found = [line.split() for line in text.splitlines()]
    return Counter(" ".join(words[1:4]) for words in found if words[0] == what)


def workers_of(folder: Path) -> set[int]:
    return {int(line.split()[-1]) for line in (folder / "log").read_text().splitlines()}


def stored(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "root").glob("*/summary.json")}


def process(folder: Path, pause_s: float, mischief: str = "") -> subprocess.Popen[str]:
    """A study in a process group of its own."""
    program = "import study_runner; study_runner.main()"
    return python("-c", program, str(folder), str(pause_s), mischief)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody collects has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# -- results --------------------------------------------------------------------------------------


def test_every_arm_has_a_run_for_every_seed(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"))
    result = run_study(made)
    assert (result.failures, result.exit_code, result.reused) == ([], 0, 0)
    assert list(result.folders) == ["plain", "other", "third"]
    for name in made.arms:
        runs = result.runs(name)
        assert [run.config["run"]["seed"] for run in runs] == [0, 1, 2, 3]
        assert [len(run.requests) for run in runs] == [20] * 4
    assert set(logged(tmp_path, "end").values()) == {1}
    with pytest.raises(ConfigError, match="expected one of plain, other, third"):
        result.runs("nobody")


def test_a_finished_study_is_only_read(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"))
    first = table_bytes(made)
    again = run_study(made)
    assert again.reused == 12
    assert table_bytes(made) == first
    assert logged(tmp_path, "begin").total() == 12


def test_a_larger_study_runs_what_is_new(tmp_path: Path) -> None:
    run_study(study(tmp_path, Recorder(tmp_path / "log"), range(2)))
    run_study(study(tmp_path, Recorder(tmp_path / "log"), range(3)))
    assert logged(tmp_path, "begin").total() == 9


def test_without_seeds_an_arm_keeps_its_own(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"), range(0))
    arms = {name: config.with_run(seed=7) for name, config in made.arms.items()}
    result = run_study(Study(arms, made.root, made.runner, workers=1))
    assert [run.config["run"]["seed"] for run in result.runs("plain")] == [7]


def test_equal_arms_are_run_once(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"), range(1))
    arms = {"a": made.arms["plain"], "b": made.arms["plain"]}
    result = run_study(Study(arms, made.root, made.runner, made.seeds))
    assert result.folders["a"] == result.folders["b"]
    assert logged(tmp_path, "begin").total() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [1, 2, 1]}, r"seeds: expected different ones, got \[1, 2, 1\]"),
        ({"seeds": [-1]}, r"seeds: expected integers from 0 to 2\*\*63 - 1, got \[-1\]"),
        ({"seeds": ["0"]}, "seeds: expected integers"),
        ({"workers": -1}, "workers: expected an integer >= 0, got -1"),
        ({"workers": "2"}, "workers: expected an integer >= 0, got '2'"),
        ({"seeds": 3}, "^seeds: expected a list of integers, got 3$"),
        ({"root": "studies/x"}, "^root: expected a Path, got 'studies/x'$"),
        ({"inputs": 3}, "^inputs: expected a list of paths, got 3$"),
        ({"inputs": "t.jsonl"}, "^inputs: expected a list of paths, got 't.jsonl'$"),
        ({"seeds": iter([1])}, "^seeds: expected a list of integers, got "),
        ({"arms": ["vllm"]}, r"^arms: expected configurations by name, got \['vllm'\]$"),
        ({"arms": {"a": "vllm"}}, "^arm a: expected a configuration, got 'vllm'$"),
        ({"engine": "ray"}, r"^engine: expected engine_of\('ray'\), got the name alone$"),
    ],
)
def test_what_makes_no_study(tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_study(replace(study(tmp_path, Recorder(tmp_path / "log")), **changes))


def test_a_runner_can_be_named(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"), range(1))
    result = run_study(Study(made.arms, made.root, "study_runner:no_result", made.seeds))
    assert {each.reason.partition(" from ")[0] for each in result.failures} == {
        "expected a result folder with summary.json"
    }


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ("study_runner", "expected package.module:function"),
        ("study_runner:nothing", "cannot import"),
        ("no_such_module:run", "cannot import"),
        ("study_runner:ARMS", "expected a function"),
        (lambda config, folder: None, "expected what another process can import"),
    ],
)
def test_runners_that_lead_nowhere(tmp_path: Path, runner: Any, words: str) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"))
    with pytest.raises(ConfigError, match=words):
        run_study(Study(made.arms, made.root, runner))


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mischief", "reason"),
    [
        ("refuse", "no way through"),
        ("break", "ValueError: a bug (study_runner.py:"),
        ("die", "its process died 2 times (killed, or out of memory)"),
        ("edit", "source code or an input file changed during the run: start it again"),
    ],
)
def test_a_failing_run_is_named_and_others_go_on(
    tmp_path: Path, mischief: str, reason: str
) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log", mischief=mischief), range(1, 4))
    result = run_study(made)
    assert result.exit_code == 1
    failed = {str(failure) for failure in result.failures}
    wanted = mischief in ("die", "edit")
    assert all(failure.passing == wanted for failure in result.failures), "is it worth a new try?"
    assert any(text.startswith(f"arm plain, seed 2: {reason}") for text in failed)
    if mischief == "edit":  # whatever else was under way has read the old file as well
        return
    assert len(failed) == 1
    assert list(result.folders) == ["other", "third"]
    assert len(stored(tmp_path)) == 8
    assert not list((tmp_path / "root" / ".staged").iterdir())


def test_a_failure_of_one_seed_needs_no_seed(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log", mischief="refuse"), range(2, 3))
    assert str(run_study(made).failures[0]) == "arm plain: no way through"


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log", mischief="die once"), workers=2)
    result = run_study(made)
    assert (result.failures, len(stored(tmp_path))) == ([], 12)
    begun = logged(tmp_path, "begin")
    assert begun.pop("2 0 0") == 2
    assert set(begun.values()) == {1}, "the death of one worker touches no other run"
    assert set(logged(tmp_path, "end").values()) == {1}


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"), inputs=[tmp_path / "none.json"])
    with pytest.raises(InputError, match=r"none\.json: cannot read: No such file"):
        run_study(made)


# -- killed at any moment -------------------------------------------------------------------------


def uninterrupted(folder: Path) -> bytes:
    """The table of the same study; the folder is part of a run's settings, not of the table."""
    folder.mkdir()
    return table_bytes(study(folder, Recorder(folder / "log")))


def test_a_killed_study_resumes(tmp_path: Path) -> None:
    here = tmp_path / "killed"
    here.mkdir()
    running = process(here, 0.3)
    until(lambda: len(stored(here)) >= 3)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    kept, begun = stored(here), logged(here, "begin")
    assert 3 <= len(kept) < 12
    made = study(here, Recorder(here / "log", 0.3))
    table = table_bytes(made)
    again = logged(here, "begin") - begun
    key_of = {
        f"{run.seed} {run.config.run.lag} {run.config.run.prefix_caching:d}": run.key
        for run in made.plan()
    }
    assert again.total() == 12 - len(kept)
    assert not {key_of[name] for name in again} & kept
    assert table == uninterrupted(tmp_path / "whole")


@pytest.mark.slow
def test_a_study_survives_many_kills(tmp_path: Path) -> None:
    """SIGKILL of the whole group, of the main process and of one worker, at random moments, which
    come later and later, so that a slow machine gets something done as well.
    """
    here, chance, killed = tmp_path / "killed", random.Random(3), 0
    here.mkdir()
    while len(stored(here)) < 12 or killed < 8:
        kept, begun = stored(here), logged(here, "begin")
        running = process(here, 0.1)
        time.sleep(chance.uniform(0.2, 1.6 + 0.1 * killed))
        if running.poll() is None:
            killed += 1
            victim = chance.choice(("group", "main", "worker"))
            alive = [p for p in workers_of(here) if not gone(p)] if (here / "log").exists() else []
            if victim == "worker" and alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(alive), signal.SIGKILL)
            elif victim == "main":
                running.kill()
            else:
                os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        until(lambda: all(map(gone, workers_of(here) if (here / "log").exists() else ())))
        assert kept <= stored(here)
        assert (logged(here, "begin") - begun).total() <= 2 * (12 - len(kept))
        if len(stored(here)) == 12 and killed < 8:
            victim_key = chance.choice(sorted(stored(here)))
            for path in (here / "root" / victim_key).iterdir():
                path.unlink()
    assert table_bytes(study(here, Recorder(here / "log", 0.1))) == uninterrupted(tmp_path / "w")
    for folder in stored(here):
        assert len(load_run(here / "root" / folder).requests) == 20


def test_workers_end_with_the_main_process(tmp_path: Path) -> None:
    running = process(tmp_path, 60)
    until(lambda: logged(tmp_path, "begin").total() == 2)
    running.kill()
    running.communicate()
    until(lambda: all(map(gone, workers_of(tmp_path))))


def test_an_interruption_stops_the_workers_and_keeps_results(tmp_path: Path) -> None:
    running = process(tmp_path, 0.5)
    until(lambda: bool(stored(tmp_path)))
    os.killpg(running.pid, signal.SIGINT)  # like Ctrl-C: every process of the group hears it
    _, err = running.communicate()
    assert running.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1, "workers say nothing"
    assert stored(tmp_path)
    assert all(map(gone, workers_of(tmp_path)))


def test_studies_share_a_folder(tmp_path: Path) -> None:
    running = [process(tmp_path, 0.05) for _ in range(3)]
    tables = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0, 0, 0], tables
    assert len({out for out, _ in tables}) == 1
    assert logged(tmp_path, "begin") == logged(tmp_path, "end")
    assert set(logged(tmp_path, "end").values()) == {1}


SCRIPT = """
from pathlib import Path
from superinfer.lab import Study, run_study
from superinfer.lab.config import load_config
from study_runner import Recorder

def runner(config, folder):
    Recorder(Path("log"))(config, folder)

if __name__ == "__main__":
    arms = {"fcfs": load_config(None, (), scheduler="fcfs")}
    result = run_study(Study(arms, Path("root"), runner, range(2)))
    print(result.exit_code, result.reused)
"""


def test_a_script_can_hold_the_runner(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    for reused in (0, 2):
        out = subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert out == f"0 {reused}\n"


def test_what_a_run_prints_is_not_the_result(tmp_path: Path) -> None:
    out, err = process(tmp_path, 0, "print").communicate()
    assert "hello from a run" in err
    assert "hello" not in out


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    made = study(tmp_path, Recorder(tmp_path / "log"), range(1))
    (made.root / ".staged" / "0123").mkdir(parents=True)
    half = made.root / made.plan()[0].key
    half.mkdir()
    (half / "requests.parquet").write_text("half")
    result = run_study(made)
    assert result.exit_code == 0
    assert len(result.runs("plain")[0].requests) == 20
    assert not (made.root / ".staged" / "0123").exists()


# -- processes and progress -----------------------------------------------------------------------


def test_answers_come_with_their_numbers() -> None:
    assert sorted(Processes(2).run(abs, [-3, 4, -5])) == [(0, 3), (1, 4), (2, 5)]


def test_no_task_needs_no_process() -> None:
    assert list(Processes(2).run(abs, [])) == []


def test_errors_of_a_task_are_raised_here() -> None:
    with pytest.raises(TypeError, match="bad operand"):
        list(Processes(1).run(abs, ["x"]))


def test_a_process_that_always_dies() -> None:
    assert list(Processes(1).run(os._exit, [3])) == [(0, Died())]


def test_a_script_without_a_guard_ends_with_one_error(tmp_path: Path) -> None:
    """Each worker imports the script, and would start workers of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from study_runner import Recorder, study\n"
        "from superinfer.lab import run_study\n"
        "folder = Path(sys.argv[1])\n"
        "run_study(study(folder, Recorder(folder / 'log'), workers=3))\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.splitlines()[-1] == (
        "superinfer.errors.SuperInferError: expected the script to start runs under "
        '`if __name__ == "__main__":`, because every worker process imports it first'
    )
    assert not stored(tmp_path) and not (tmp_path / "log").exists()


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 3.0, 9.9, 10.0, 15.0, 31.0])
    report = lines(sys.stderr, lambda: next(times))
    for done in range(6):
        report(done, 9, ["vllm"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [f"{done} of 9 runs done, running: vllm" for done in (0, 3, 5)]


def test_state_in_words() -> None:
    assert state_text(3, 3, []) == "3 of 3 runs done"
    many = [f"a{i}" for i in range(7)]
    assert state_text(0, 9, many).endswith("running: a0; a1; a2; a3 and 3 more")


def test_a_terminal_has_a_bar() -> None:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal, showing_progress(terminal) as report:
        report(1, 3, ["[red]"])
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while piece := os.read(leader, 4096):
            shown += piece
    os.close(leader)
    assert b"1/3" in shown
    assert b"[red]" in shown
