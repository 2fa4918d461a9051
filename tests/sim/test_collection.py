"""The cyclic garbage collector stands back while a run goes on, and has nothing to do after it."""

from __future__ import annotations

import gc

import pytest

from sim.run import no_collection


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
