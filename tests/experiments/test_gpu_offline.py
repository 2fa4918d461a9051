"""What is packed for a device without a network, and the script that runs there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from experiments.gpu_check import pack, peer_files

ROOT = Path(__file__).parents[2]


def test_what_the_project_needs_travels_or_is_asked_of_the_device() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "hardware.md").read_text()
    (asked,) = re.findall(r"The device needs torch and Triton, `([^`]*)`", page)
    needed = {re.split(r"[<>=;]", name)[0] for name in project["dependencies"]}
    assert needed - set(pack.PACKAGES) == set(asked.split()) - {"safetensors", "tokenizers"}


def test_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions as pinned, wheels for the device's Python, and the beginning of a trace."""
    commands = []

    def fetch(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", fetch)
    source = tmp_path / "trace.csv"
    source.write_text("TIMESTAMP\n" + "1\n" * 1000)
    out = tmp_path / "packed"
    assert pack.main(["--out", str(out), "--trace", str(source), "--python", "3.13"]) == 0
    (command,) = commands
    assert command[command.index("--python-version") + 1] == "3.13" and "--no-deps" in command
    names = {part.partition("==")[0] for part in command if "==" in part}
    assert names == set(pack.PACKAGES)
    assert pack.pinned(["no-such-package"]) == ["no-such-package"]
    assert len((out / "trace.csv").read_text().splitlines()) == pack.LINES
    assert pack.main(["--out", str(out), "--trace", "none.csv"]) == 0
    assert not (out / "trace.csv").exists()


def test_packing_the_compiled_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built from a copy of the sources by the device's Python; what fails says so."""
    commands: list[list[str]] = []

    def build(command: list[str], cwd: Path, **_: Any) -> SimpleNamespace:
        commands.append(command)
        assert (cwd / "setup.py").is_file() and not list(cwd.rglob("superinfer/*.so"))
        if "build_ext" in command:
            for name in ("core.so", "superinfer/engine.so", "superinfer/.compiled", "build/x.so"):
                (cwd / name).parent.mkdir(exist_ok=True)
                (cwd / name).touch()
        return SimpleNamespace(returncode=int("setup.py" in command and "bad" in commands[0][0]))

    monkeypatch.setattr(subprocess, "run", build)
    assert pack.compiled("/usr/python9", tmp_path / "compiled") == 0
    assert commands[0][:3] == ["/usr/python9", "-m", "venv"]
    assert any(part.startswith("mypy==") for part in commands[1])
    there = {path.relative_to(tmp_path / "compiled").as_posix() for path in tmp_path.rglob("*")}
    assert there >= {"core.so", "superinfer/engine.so", "superinfer/.compiled"}
    assert "build/x.so" not in there
    commands.clear()
    assert pack.compiled("/bad/python9", tmp_path / "other") == 1
    assert pack.compiled("", tmp_path / "compiled") == 0
    assert not (tmp_path / "compiled").exists()


@pytest.mark.parametrize("loads", [True, False])
def test_the_compiled_core_of_a_device(tmp_path: Path, loads: bool) -> None:
    """It is taken where it loads; else all runs from sources."""
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exit {int(not loads)}\n'
        'echo "$SUPERINFER_INTERPRETED" > said\n'
    )
    python.chmod(0o755)
    (tmp_path / ".gpu" / "compiled" / "superinfer").mkdir(parents=True)
    (tmp_path / ".gpu" / "compiled" / "superinfer" / ".compiled").touch()
    script = ROOT / "experiments" / "gpu_check" / "offline.sh"
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([str(script), "--call", "a"], cwd=tmp_path, env=path, check=True)
    assert (tmp_path / "superinfer" / ".compiled").is_file()
    assert (tmp_path / "said").read_text().strip() == ("" if loads else "1")


def test_the_script_of_a_device_without_network(tmp_path: Path) -> None:
    """It installs the wheels, and gives its options on; here both are seen and not done."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "$@" "PATH=$PYTHONPATH" >> said\n')
    python.chmod(0o755)
    script = ROOT / "experiments" / "gpu_check" / "offline.sh"
    done = subprocess.run(
        [str(script), "--call", "a", "--out", "OUT"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == 0
    install, check = (tmp_path / "said").read_text().splitlines()
    assert "--no-index" in install and ".gpu/wheels/" in install
    expected = r"-m experiments.gpu_check --fast --began (\d+) --call a --out OUT PATH=/"
    began = re.match(expected, check)
    assert began and abs(int(began[1]) - time.time()) < 60


def test_vllm_s_attention_alone(tmp_path: Path) -> None:
    """The kernel's files as they are in the wheel, and what they import without the rest."""
    wheel = tmp_path / "vllm-0.whl"
    kernel = """
import vllm.envs as envs
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.triton_utils import tl, triton
from vllm.v1.attention.ops.triton_attention_helpers import HELP
from vllm.v1.kv_cache_interface import KVQuantMode
init_logger(__name__).debug_once("a")
print(HELP, envs.VLLM_BATCH_INVARIANT, current_platform.fp8_dtype(), int(KVQuantMode.NONE))
"""
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in zip(peer_files.FILES, (kernel, "HELP = 7"), strict=True):
            archive.writestr(name, text)
        archive.writestr("vllm/__init__.py", "raise ImportError('the whole of it')")
    peer_files.unpack(wheel, tmp_path / "peers")
    module = peer_files.FILES[0].removesuffix(".py").replace("/", ".")
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "peers")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "7 False torch.float8_e4m3fn 0\n"
