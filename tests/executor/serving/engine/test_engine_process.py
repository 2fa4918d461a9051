"""How the process of an engine ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from executor.serving.engine import engine_process
from executor.serving.engine.engine_process import ENDING_S


@pytest.mark.parametrize("loading", [True, False])
def test_no_engine_outlives_its_server_for_long(
    monkeypatch: pytest.MonkeyPatch, loading: bool
) -> None:
    """One that loads ends at once, one that works has time for the step that runs: not more, for a
    device that hangs ends none.
    """
    waits: list[float] = []
    codes: list[int] = []
    gone = SimpleNamespace(join=lambda: None)
    parts = SimpleNamespace(parent_process=lambda: gone)
    monkeypatch.setattr(engine_process, "multiprocessing", parts)
    monkeypatch.setattr(engine_process, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(engine_process, "os", SimpleNamespace(_exit=codes.append))
    told = threading.Event()
    if loading:
        told.set()
    engine_process._end_with_server(told)
    assert codes == [1]
    assert waits == ([] if loading else [ENDING_S])
