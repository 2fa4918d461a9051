"""Shared set-up of the tests of memory policies."""

from __future__ import annotations

from pathlib import Path

import pytest
from slo_shelf import write_weights


@pytest.fixture
def even(tmp_path: Path) -> str:
    """Half of all stretches are used within 10 s, and half of the rest by 20 s."""
    return write_weights(tmp_path / "even.npz", 0.5, 0.5)
