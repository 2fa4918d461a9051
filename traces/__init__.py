"""Request traces: reading, describing and converting them, and the bundled samples.

`traces.readers.read_trace` reads one; nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from pathlib import Path


def samples_dir() -> Path:
    """Folder of the traces that ship with the package."""
    return Path(__file__).parent / "samples"
