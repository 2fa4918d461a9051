"""Small sums over some of the requests; None where there are none."""

from __future__ import annotations

import numpy as np

from superinfer.metrics.tokens import Bools
from superinfer.records.run import Floats, Ints


def max_ms(values_s: Floats) -> float | None:
    """The largest of the known times, in ms."""
    known = values_s[~np.isnan(values_s)]
    return float(known.max()) * 1e3 if known.size else None


def ratio(part: float, whole: float) -> float | None:
    """`part` of `whole`."""
    return part / whole if whole else None


def share(met: Bools, of: Ints) -> float | None:
    """Of these rows, those that met something."""
    return ratio(int(np.count_nonzero(met[of])), of.size)


def same(values: Floats) -> float | None:
    """The value that all have; None where they differ, too."""
    equal = values.size and (values == values[0]).all()
    return round(float(values[0]), 6) if equal else None


def having(values: Floats, rows: Ints) -> Ints:
    """Those of `rows` whose value is known."""
    known: Ints = rows[~np.isnan(values[rows])]
    return known
