"""Shared set-up of the test suites."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

# Tests follow the sources, compiled or not, and some of them replace parts of the core. In the
# compiled form the tests run with SUPERINFER_INTERPRETED=0, and those that replace parts skip.
os.environ.setdefault("SUPERINFER_INTERPRETED", "1")
# Kernels run in Triton's interpreter; that is decided when their modules are imported.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Tests run side by side: with a thread for each core in every one of them torch is several times
# slower. It reads this when it is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts them in the background has SIGINT ignored, and so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from superinfer import COMPILED

sys.path.insert(0, str(Path(__file__).parent))

from public_data import DATA

# A change is not refused by luck: the same examples every time, however slow the machine is.
# `--hypothesis-profile=search` draws others.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", STEADY)
settings.register_profile("search", STEADY, derandomize=False)
settings.load_profile("steady")
# It also draws constants of the modules that happen to be imported, so by what ran before.
providers._get_local_constants = lambda: providers._local_constants


def _why_no_gpu() -> str | None:
    """The reason why no CUDA device can be used; None where there is one."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import torch

            usable = torch.cuda.is_available()
    except ImportError:
        return "needs torch, which is not installed: pip install -e '.[exec]'"
    return None if usable else "needs a CUDA device, and torch finds none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` or `interpreted` where they cannot run."""
    _skip(items, "gpu", _why_no_gpu)
    _skip(items, "interpreted", lambda: "the core is compiled" if COMPILED else None)


def _skip(items: list[pytest.Item], marker: str, why: Callable[[], str | None]) -> None:
    marked = [item for item in items if item.get_closest_marker(marker)]
    reason = why() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public traces and measurements, which is not part of the repository."""
    if not DATA.is_dir():
        pytest.skip(f"needs the data folder: {DATA} is absent, set SUPERINFER_DATA")
    return DATA
