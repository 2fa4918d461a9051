"""Times of calls and of copies."""

from __future__ import annotations

import pytest
import torch
from calibration_kit import CPU

from executor.calibration.links import Pools, measure_links
from executor.calibration.timing import (
    Deadline,
    Timing,
    forget_workspaces,
    rounds_within,
    time_calls,
)


def test_longer_work_takes_longer() -> None:
    """A product of matrices four times as large in each direction."""
    small, large = (torch.randn(n, n) for n in (64, 256))
    times = [time_calls([lambda x=x: x @ x], CPU, 0.05).seconds for x in (small, large)]
    assert 0 < times[0] < times[1]


def test_spread_is_the_distance_of_quartiles() -> None:
    """As a share of the median."""
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 5.0]).spread == pytest.approx(1.0)
    assert Timing.of([2.0]) == Timing(2.0, 0.0, 1, 2.0)
    assert Timing.of([3.0, 2.0, 4.0]).best == 2.0


def test_rounds_get_fewer_where_the_time_is_over() -> None:
    """The first is always made, and none is begun late."""
    assert list(rounds_within(3, Deadline(60.0))) == [0, 1, 2]
    assert list(rounds_within(3, Deadline(-1.0))) == [0]


def test_links_have_a_rate_and_a_setup() -> None:
    """On a CPU between two parts of memory."""
    links = measure_links(CPU, seconds=0.3)
    assert set(links) == {"h2d", "d2h", "both"}
    for link in links.values():
        assert link["bytes_per_s"] > 1e7 and link["setup_s"] >= 0.0


def test_workspaces_of_graphs_that_are_gone_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU; torch without CUDA has no such function."""
    freed: list[None] = []
    name = "_cuda_clearCublasWorkspaces"
    monkeypatch.setattr(torch._C, name, lambda: freed.append(None), raising=False)
    forget_workspaces(CPU)
    assert not freed
    forget_workspaces(torch.device("cuda"))
    assert len(freed) == 1


def test_both_directions_are_queued_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that neither is alone while the host queues the other; every piece is copied once."""
    pools, queued = Pools(CPU), list[tuple[str, range]]()
    monkeypatch.setattr(
        pools, "_copy", lambda way, size, pieces, count: queued.append((way, pieces))
    )
    pools._queue(64, 20, ("h2d", "d2h"))()
    assert [way for way, _ in queued] == ["h2d", "d2h"] * 3
    for way in ("h2d", "d2h"):
        assert [n for name, pieces in queued if name == way for n in pieces] == list(range(20))
