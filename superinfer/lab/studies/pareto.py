"""Which of several results no other one beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(results: Sequence[Sequence[float]]) -> set[int]:
    """Numbers of the results than which no other is better in one thing and as good in the rest;
    of everything, more is better.
    """
    values = np.asarray(results, float)
    found = set()
    for number, own in enumerate(values):
        as_good, better = (values >= own).all(axis=1), (values > own).any(axis=1)
        if not (as_good & better).any():
            found.add(number)
    return found
