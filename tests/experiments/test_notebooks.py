"""The notebooks: as git has them, and run from the first cell to the last."""

from __future__ import annotations

import ast
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import superinfer.lab

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_LINES = 12
"""Of code in one cell: what is longer belongs into a tested function."""
FIGURES = {
    "1-first-look": 4,
    "2-p99-and-slo-attainment": 5,
    "3-policy-comparison": 3,
    "4-kv-memory-and-reuse": 4,
    "5-simulation-against-hardware": 3,
}
TABLES = {
    "1-first-look": 2,
    "2-p99-and-slo-attainment": 2,
    "3-policy-comparison": 2,
    "4-kv-memory-and-reuse": 2,
    "5-simulation-against-hardware": 2,
}


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """Cells of `code` or `markdown`, their source in one text."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        {**cell, "source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind
    ]


def python_of(source: str) -> str:
    """The Python of a cell, without magics; nothing of a cell for a shell."""
    if source.startswith("%%"):
        return ""
    return "\n".join(line for line in source.splitlines() if not line.startswith("%"))


def called(path: Path) -> set[str]:
    """Names of `lab` that a notebook uses."""
    nodes = [
        node
        for cell in cells(path, "code")
        for node in ast.walk(ast.parse(python_of(cell["source"])))
    ]
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "lab"
    }


def test_there_are_five_and_the_page_beside_them_names_each() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(FIGURES)
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in page for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_cleared_and_cells_are_short(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len(cell["source"].splitlines()) <= MOST_LINES
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["metadata"]["kernelspec"]["name"] == "python3"
    assert not any(cell["metadata"] for cell in found["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_makes_or_reads_the_data(path: Path) -> None:
    first = cells(path, "code")[0]["source"]
    assert "superinfer-sim " in first or "lab.load_" in first
    prose = [cell["source"] for cell in cells(path, "markdown")]
    assert prose[0].startswith("# ")
    assert "simulated" in prose[0].lower()
    assert any("own trace" in text or "own GPU" in text for text in prose)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_public_functions_are_called(path: Path) -> None:
    used = called(path)
    assert used
    assert used <= set(superinfer.lab.__all__)


# -- from the first cell to the last --------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kernel that is this interpreter, with this checkout and its commands."""
    spec = tmp_path / "jupyter" / "kernels" / "under-test"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": argv, "display_name": "under test", "language": "python"})
    (spec / "kernel.json").write_text(text, encoding="utf-8")
    command = tmp_path / "bin" / "superinfer-sim"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sim "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    return "under-test"


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def of_type(notebook: Any, media_type: str) -> list[str]:
    return [found for each in outputs(notebook) if (found := each.get("data", {}).get(media_type))]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, kernel: str, tmp_path: Path) -> None:
    """In an empty folder: without an error, with all figures and tables, and none that is blank."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    place = tmp_path / "work"
    place.mkdir()
    client = nbclient.NotebookClient(
        notebook,
        timeout=400,
        kernel_name=kernel,
        resources={"metadata": {"path": str(place)}},
    )
    client.execute()
    assert [each for each in outputs(notebook) if each["output_type"] == "error"] == []
    assert len(of_type(notebook, "image/png")) == FIGURES[path.stem]
    assert all(len(picture) > 8000 for picture in of_type(notebook, "image/png"))
    tables = of_type(notebook, "text/html")
    assert len(tables) == TABLES[path.stem]
    assert all(table.count("<tr") > 2 for table in tables)
    assert not any("Traceback" in each.get("text", "") for each in outputs(notebook))
