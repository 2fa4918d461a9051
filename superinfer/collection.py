"""When Python's cyclic garbage collector works: not while millions of objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LARGE_RUN: Final = 50_000
"""Requests for which the memory of the engines is worth the search for what refers to itself."""


@contextmanager
def engines_freed(requests: int) -> Iterator[None]:
    """Give back the memory of the engines of a run with so many requests once it is over, before
    its tables are made: they refer to themselves in circles, so nothing else would.

    What was there before is not walked over.
    """
    if requests < LARGE_RUN:
        yield
        return
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()


@contextmanager
def no_collection(*, last: bool = False) -> Iterator[None]:
    """Hold the cyclic garbage collector back: a run makes millions of objects and no cycles.

    When it comes back it walks over all of them, so a whole command is better than each part of it.
    `last`: only the end of the process follows, so what is there is never walked over.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if last:
            gc.freeze()
        if was_enabled:
            gc.enable()
