"""One server for all tests of a file that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

for library in ("torch", "fastapi", "uvicorn", "prometheus_client", "httpx"):
    pytest.importorskip(library)

from serving_kit import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """It runs until the last of them."""
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running
