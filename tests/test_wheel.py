"""What an installation has: all that the command lines need, and no studies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as a wheel has them."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("egg_info", "--egg-base", str(folder), "build_py", "--build-lib", str(folder / "lib"))
    settings = os.environ | {"SUPERINFER_COMPILE": "0"}
    subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=ROOT, env=settings, check=True)
    return folder / "lib"


def test_the_packages_that_are_installed(built: Path) -> None:
    found = {path.name for path in built.iterdir()}
    assert found == {"executor", "sim", "superinfer", "traces"}, "studies run in a checkout"


def test_the_files_that_come_with_them(built: Path) -> None:
    """All that lies beside the sources."""
    for package in built.iterdir():
        assert files(package) == files(ROOT / package.name)


def files(package: Path) -> set[Path]:
    """All but what Python, or the compiler, made of them."""
    found = (path for path in package.rglob("*") if path.is_file() and path.name[0] != ".")
    made = (".pyc", ".so")
    return {path.relative_to(package) for path in found if path.suffix not in made}


def test_a_run_of_what_is_installed(built: Path, tmp_path: Path) -> None:
    command = ("-m", "sim", "run", "mixed", "--limit", "3", "--scheduler", "vllm", "--out", "r")
    settings = os.environ | {"PYTHONPATH": str(built)}
    call = [sys.executable, *command]
    subprocess.run(call, cwd=tmp_path, env=settings, check=True, capture_output=True)
    assert (tmp_path / "r/report.html").is_file()
