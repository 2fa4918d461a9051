"""Who may import whom: the arrows between the folders, and what loading the CLI costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"superinfer", "sim", "executor", "traces", "experiments", "tests"}
LATER = {"docs"}
"""May be there or not."""
HEAVY = {"pandas", "matplotlib", "pyarrow", "torch", "rich"}


@dataclass(frozen=True)
class Rule:
    """What the modules of one folder may import beside the standard library."""

    allowed: frozenset[str]
    forbidden: frozenset[str] = frozenset()
    """Exceptions from `allowed`."""

    def admits(self, name: str) -> bool:
        """Whether a module, or a name in one, may be imported."""
        return _within(name, self.allowed | sys.stdlib_module_names) and not _within(
            name, self.forbidden
        )


def rule(allowed: str, forbidden: str = "") -> Rule:
    """From names divided by blanks."""
    return Rule(frozenset(allowed.split()), frozenset(forbidden.split()))


RULES = {
    "superinfer": rule("superinfer numpy mypy_extensions", forbidden="superinfer.lab"),
    "superinfer.lab": rule(
        "superinfer numpy msgspec pyarrow pandas matplotlib rich tomli_w torch typer "
        "optuna ray sqlalchemy"
    ),
    "sim": rule("sim superinfer traces simpy numpy msgspec typer rich"),
    "executor": rule(
        "executor superinfer traces torch triton numpy msgspec typer rich safetensors tokenizers",
        forbidden="executor.serving",
    ),
    "executor.serving": rule(
        "executor superinfer traces torch numpy msgspec typer fastapi jinja2 prometheus_client "
        "pydantic starlette uvicorn"
    ),
    # Peers are measured beside our own kernels, where they are installed.
    "executor.bench": rule("executor superinfer traces torch triton numpy typer rich transformers"),
    "traces": rule("traces superinfer numpy msgspec typer rich", forbidden="superinfer.lab"),
}
"""The longest name that contains a module decides."""


def _within(name: str, parents: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in parents for end in range(1, len(parts) + 1))


def rule_for(module: str) -> Rule:
    """The rule of the innermost folder that has one."""
    inside = [name for name in RULES if _within(module, frozenset({name}))]
    return RULES[max(inside, key=len)]


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a module imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = [*above, node.module] if node.level else [node.module]
            for alias in node.names:
                yield node.lineno, ".".join([*filter(None, base), alias.name])


def forbidden_imports(source: str, module: str, package: str) -> list[tuple[int, str]]:
    """The imports of `module` that its folder's rule does not admit."""
    admits = rule_for(module).admits
    return [(line, name) for line, name in imports(source, package) if not admits(name)]


def modules() -> Iterator[tuple[Path, str, str]]:
    """Path, dotted name and package of each module under a rule."""
    for top in sorted({name.partition(".")[0] for name in RULES}):
        for path in sorted((ROOT / top).rglob("*.py")):
            package = ".".join(path.relative_to(ROOT).parts[:-1])
            is_package = path.stem == "__init__"
            yield path, package if is_package else f"{package}.{path.stem}", package


def test_no_forbidden_arrow() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, module, package in modules()
        for line, name in forbidden_imports(path.read_text(encoding="utf-8"), module, package)
    ]
    assert found == []


def test_every_folder_is_walked() -> None:
    assert {module.partition(".")[0] for _, module, _ in modules()} >= {
        "superinfer",
        "sim",
        "executor",
        "traces",
    }


@pytest.mark.parametrize(
    ("module", "line", "name"),
    [
        ("superinfer.engine.engine", "import simpy", "simpy"),
        ("superinfer.engine.engine", "from superinfer import lab", "superinfer.lab"),
        (
            "superinfer.memory.lru",
            "from ..lab.config import Config",
            "superinfer.lab.config.Config",
        ),
        ("superinfer.engine.engine", "def f():\n    import pandas", "pandas"),
        ("superinfer.lab.results", "from sim.run import x", "sim.run.x"),
        ("sim.run", "import executor.driver as d", "executor.driver"),
        ("executor.driver", "from sim import oracle", "sim.oracle"),
        ("traces.readers", "from superinfer.lab.results import x", "superinfer.lab.results.x"),
        ("traces.readers", "import pandas as pd", "pandas"),
    ],
)
def test_a_forbidden_arrow_is_seen(module: str, line: str, name: str) -> None:
    found = forbidden_imports(line, module, module.rpartition(".")[0])
    assert [name for _, name in found] == [name]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            "superinfer.engine.engine",
            "from __future__ import annotations\nimport heapq, numpy as np",
        ),
        ("superinfer.engine.engine", "from superinfer.labels import x"),
        ("superinfer.engine.engine", "from . import plan"),
        ("superinfer.lab.results", "from superinfer.engine import Engine\nimport pyarrow.parquet"),
        ("sim.commands", "from superinfer.lab.results import write"),
        ("executor.kernels.attention", "import triton.language as tl"),
    ],
)
def test_an_allowed_arrow_passes(module: str, line: str) -> None:
    assert forbidden_imports(line, module, module.rpartition(".")[0]) == []


def test_the_cli_loads_no_heavy_library() -> None:
    code = "import sys, sim.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert HEAVY & set(loaded) == set()
    assert "sim" in loaded


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_top_level_folders() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {path.partition("/")[0] for path in listed if "/" in path}
    public = {name for name in folders if not name.startswith(".")}
    assert public - LATER == FOLDERS
