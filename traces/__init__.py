"""Request traces: reading, describing and converting them, and the bundled samples."""

from __future__ import annotations

from pathlib import Path

from traces.readers import read_trace
from traces.workload import Workload

__all__ = ["Workload", "read_trace", "samples_dir"]


def samples_dir() -> Path:
    """Folder of the traces that ship with the package."""
    return Path(__file__).parent / "samples"
