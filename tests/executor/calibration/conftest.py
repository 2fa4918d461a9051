"""A profile of this CPU that tests share."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from calibration_kit import GRIDS, SMALL

from executor.calibration.calibrate import calibrate
from executor.calibration.subject import Wish
from executor.session import ModelOptions
from superinfer.costs import load_profile, write_profile
from superinfer.costs.profile import Profile


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers."""
    path = tmp_path_factory.mktemp("little") / "config.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def profile(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Its profile on this CPU, through a file."""
    wish = Wish(
        str(config),
        "cpu",
        ModelOptions(random_weights=True),
        minutes=0.05,
        max_sequences=4,
        kv_blocks=64,
        grids=GRIDS,
    )
    path = tmp_path_factory.mktemp("profile") / "cpu.json"
    said: list[str] = []
    write_profile(calibrate(wish, said.append).profile, path)
    (line,) = (line for line in said if line.startswith("whole steps, predicted"))
    assert re.search(r": [\d.]+% off on average \(\d+ steps\)$", line)
    return load_profile(path)
