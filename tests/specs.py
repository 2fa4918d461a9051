"""Small specifications for tests of generated workloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from traces.generate import generate, load_spec
from traces.workload import Workload


def document(duration_s: float = 100, **clients: Any) -> dict[str, Any]:
    """A specification with the given clients."""
    return {"version": 1, "duration_s": duration_s, "clients": clients}


def write_spec(folder: Path, tables: dict[str, Any], name: str = "spec.toml") -> Path:
    """The tables as a TOML file."""
    path = folder / name
    path.write_text(tomli_w.dumps(tables))
    return path


def workload(folder: Path, seed: int = 0, duration_s: float = 100, **clients: Any) -> Workload:
    """What a specification with the given clients generates."""
    return generate(load_spec(write_spec(folder, document(duration_s, **clients))), seed)
