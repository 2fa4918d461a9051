"""What HTTP costs an engine."""

from __future__ import annotations

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_step_takes_what_its_device_takes(whole: bool) -> None:
    """And some time of both processes."""
    pytest.importorskip("fastapi")
    from experiments.http_cost import Case, measure

    cost = measure(Case(streams=3, tokens=20, step_s=0.02, whole=whole))
    assert 19 < cost.step_ms < 200
    assert cost.engine_ms > 0 and cost.server_ms > 0
