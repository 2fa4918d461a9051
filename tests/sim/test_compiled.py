"""The compiled core does what its sources do, and is never used after they have changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fresh_process import bytes_of_runs
from property.arms import ARMS

from superinfer.compiled import MANIFEST, up_to_date

ROOT = Path(__file__).parents[2]
LEARN = "run.learn_step_times=true"

needs_compiled = pytest.mark.skipif(
    not up_to_date(ROOT), reason="needs the compiled core, of these sources: make compile"
)


def form_of(root: Path, interpreted: str = "0") -> str:
    """`True` if a fresh process that imports from `root` runs the compiled core."""
    env = {**os.environ, "SUPERINFER_INTERPRETED": interpreted, "PYTHONPATH": str(root)}
    ask = "import superinfer, superinfer.engine.engine as e; print(superinfer.COMPILED, e.__file__)"
    command = [sys.executable, "-c", ask]
    run = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    compiled, file = run.stdout.split()
    assert file.endswith(".py") is (compiled == "False")
    return compiled


@pytest.mark.slow
@needs_compiled
@pytest.mark.parametrize("lag", [0, 1])
def test_same_bytes_in_both_forms(monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    found = []
    arms = [arm for arm in ARMS if not (lag and "offload" in arm)]
    for interpreted in ("0", "1"):
        monkeypatch.setenv("SUPERINFER_INTERPRETED", interpreted)
        found.append(bytes_of_runs(arms, lag, "1"))
    assert found[0] == found[1]


@pytest.mark.slow
@needs_compiled
def test_the_command_line_runs_anywhere(tmp_path: Path) -> None:
    """Also where the folder of the shared library is neither the current one nor on the path."""
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 9, "output_length": 3}\n')
    env = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [Path(sys.executable).with_name("superinfer-sim"), "run", "t.jsonl", "--no-plots"]
    run = subprocess.run(
        command,
        env={**env, "SUPERINFER_INTERPRETED": "0"},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@needs_compiled
@pytest.mark.parametrize("settings", [(), ("run.believed_costs=roofline", LEARN)])
def test_same_summary_in_both_forms(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """To the letter, also where a step is longer than what was measured."""
    lines = ({"timestamp": 9 * i, "input_length": 18_000, "output_length": 9} for i in range(9))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = [part for text in settings for part in ("--set", text)]
    command = [sys.executable, "-m", "sim", "run", str(tmp_path / "t.jsonl"), *options]
    command += ["--no-plots", "-o"]
    texts = []
    for interpreted in ("0", "1"):
        out = tmp_path / interpreted
        env = {**os.environ, "SUPERINFER_INTERPRETED": interpreted}
        subprocess.run([*command, str(out)], env=env, cwd=ROOT, check=True, capture_output=True)
        summary = json.loads((out / "summary.json").read_text())
        for measured in ("wall_s", "scheduler_s", "sim_requests_per_wall_s"):
            assert summary.pop(measured) > 0
        assert summary["trust"]["left_range"]
        texts.append(json.dumps(summary))
    assert texts[0] == texts[1]


@pytest.mark.slow
@needs_compiled
def test_hand_worked_schedules_compiled() -> None:
    env = {**os.environ, "SUPERINFER_INTERPRETED": "0"}
    places = (
        "core",
        "memory",
        "schedulers",
        "parity",
        "sim/test_golden.py",
        "lab/config/test_config.py",
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow and not gpu",
        *(f"tests/{place}" for place in places),
    ]
    run = subprocess.run(command, env=env, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "the core is compiled" in run.stdout  # why some were skipped: so it was compiled


@needs_compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "refused"), [("@dataclass", False), ("@dataclass(slots=True)", True)]
)
def test_a_subclass_in_python(tmp_path: Path, form: str, refused: bool) -> None:
    (tmp_path / "plugin.py").write_text(
        "from dataclasses import dataclass\n"
        "from superinfer.schedulers.fcfs import FcfsScheduler\n"
        f"{form}\nclass Mine(FcfsScheduler):\n"
        "    max_num_batched_tokens: int = 512\n"  # another default than it inherits
        "    plans = 0\n"
        "    def plan(self, draft, now):\n"
        "        Mine.plans += 1\n"
        "        FcfsScheduler.plan(self, draft, now)\n"
    )
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 9, "output_length": 3}\n')
    program = (
        "import sys\nfrom sim.cli.app import app, main\n"
        "try: main()\nexcept SystemExit as e: code = e.code\n"
        "import plugin\nprint(plugin.Mine.plans > 0, code)"
    )
    env = {**os.environ, "SUPERINFER_INTERPRETED": "0", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-c", program, "run", "t.jsonl", "--scheduler", "plugin:Mine"]
    run = subprocess.run(
        [*command, "--no-plots"], env=env, cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert run.stdout.splitlines()[-1] == ("False 2" if refused else "True 0")
    assert ("expected a plain @dataclass" in run.stderr) is refused


@needs_compiled
def test_changed_sources_are_run_as_they_are(tmp_path: Path) -> None:
    for package in ("superinfer", "sim"):
        shutil.copytree(ROOT / package, tmp_path / package)
    for library in ROOT.glob("superinfer__mypyc*"):
        shutil.copy(library, tmp_path)
    assert form_of(tmp_path) == "True"
    assert form_of(tmp_path, interpreted="1") == "False"
    source = tmp_path / "sim" / "oracle.py"
    source.write_text(source.read_text() + "\nCHANGED = True\n")
    assert form_of(tmp_path) == "False"


@needs_compiled
@pytest.mark.parametrize("name", [MANIFEST, "superinfer__mypyc*"])
def test_compiled_modules_for_another_interpreter_are_not_used(tmp_path: Path, name: str) -> None:
    """Nor those without their library."""
    for package in ("superinfer", "sim"):
        shutil.copytree(ROOT / package, tmp_path / package)
    if name == MANIFEST:
        for library in ROOT.glob("superinfer__mypyc*"):
            shutil.copy(library, tmp_path)
        other = (tmp_path / MANIFEST).read_text().replace("cpython-3", "cpython-9")
        (tmp_path / MANIFEST).write_text(other)
    assert not up_to_date(tmp_path)
    assert form_of(tmp_path) == "False"


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"digest": "0", "sources": ["gone.py"]}'])
def test_without_a_manifest_that_holds_sources_run(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "superinfer").mkdir()
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest)
    assert not up_to_date(tmp_path)
