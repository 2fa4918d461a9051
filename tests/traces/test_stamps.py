"""Stamps that are likely to be of another unit, or of a clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from traces.dialect import Dialect
from traces.readers import read_trace
from traces.stamps import CLOCK_MS, stamp_warnings

DENSE = "t: 20 requests within 19 ms, as timestamps are in ms; if they are in s: --time-unit s"


def every(gap_ms: float, count: int = 20, first_ms: float = 0.0) -> list[float]:
    return [first_ms + gap_ms * place for place in range(count)]


def test_seconds_that_are_read_as_ms() -> None:
    assert stamp_warnings("t", every(1.0), "ms") == [DENSE]
    told = "t: 20 requests within 19 ms, as timestamps are in s"
    assert stamp_warnings("t", every(1.0), "s") == [told]


@pytest.mark.parametrize("stamps", [[], every(0.0), every(2.0), every(1.0, count=9), [5.0]])
def test_what_may_well_be_meant(stamps: list[float]) -> None:
    """Nothing, all at once, 500 requests/s, a small burst, a single one."""
    assert stamp_warnings("t", stamps, "ms") == []


def test_the_time_of_a_clock() -> None:
    (found,) = stamp_warnings("t", every(50.0, first_ms=1.7e12), "ms")
    assert found.startswith("t: the first request comes at 1,700,000,000 s, as by a clock; ")
    assert stamp_warnings("t", every(50.0, first_ms=CLOCK_MS - 1), "ms") == []
    assert len(stamp_warnings("t", every(1.0, first_ms=1.7e9), "ms")) == 2


@pytest.mark.parametrize(("unit", "told"), [("ms", 1), ("s", 0)])
def test_a_reader_tells(tmp_path: Path, unit: str, told: int) -> None:
    record = {"input_length": 5, "output_length": 2}
    lines = (json.dumps({"timestamp": at, **record}) for at in range(20))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = read_trace(tmp_path / "t.jsonl", dialect=Dialect(time_unit=unit)).warnings
    assert len(found) == told
