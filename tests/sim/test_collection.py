"""The cyclic garbage collector stands back while a run goes on, and has nothing to do after it."""

from __future__ import annotations

import gc

import pytest

from sim.summaries import simulated
from superinfer import collection
from superinfer.collection import no_collection
from superinfer.engine import Engine
from superinfer.lab.config import load_config
from superinfer.request import Request
from traces.workload import Workload


@pytest.mark.parametrize("last", [False, True])
def test_the_collector_comes_back_and_walks_only_over_what_is_used_again(last: bool) -> None:
    before = gc.get_freeze_count()
    try:
        with no_collection(last=last):
            assert not gc.isenabled()
        assert gc.isenabled()
        assert (gc.get_freeze_count() > before) == last
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("large", [True, False])
def test_the_engine_of_a_large_run_is_gone_before_its_tables_are_made(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(collection, "LARGE_RUN", 3 if large else 4)
    requests = [Request(str(i), float(i), 64, 4, index=i) for i in range(3)]
    gc.unfreeze()  # what other tests left behind
    gc.collect()
    before, frozen = engines(), gc.get_freeze_count()
    with no_collection():
        metrics, _ = simulated(load_config(None, [], trace="t.jsonl"), Workload(requests, [4] * 3))
        assert len(metrics.record.table.requests) == 3
        assert engines() == before + (not large)
        assert gc.get_freeze_count() == frozen
    gc.collect()
    assert engines() <= before


def engines() -> int:
    """How many there are."""
    return sum(type(each) is Engine for each in gc.get_objects())
