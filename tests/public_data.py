"""Where public traces and measurements lie, which are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SUPERINFER_DATA", REPOSITORY.parent / "shared" / "data"))


def needed(name: str) -> Path:
    """A file or folder of them; the test is skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name}: set SUPERINFER_DATA to a folder that holds it")
    return path
