"""Stamps that are likely to be of another unit, or of a clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from traces.dialect import Dialect
from traces.readers import read_trace
from traces.stamps import CLOCK_MS, coarse_clock_warnings, stamp_warnings

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


@pytest.mark.parametrize("tick_ms", [1000.0, 3000.0])
def test_a_clock_that_ticks_slowly(tick_ms: float) -> None:
    """Whole seconds, as of nginx or `created`, and Mooncake's three; a night without requests."""
    stamps = sorted(every(tick_ms, count=10) * 3)
    told = f"t: 30 requests have 10 stamps, {tick_ms:g} ms apart, and those of one stamp come at "
    assert coarse_clock_warnings("t", stamps) == [
        f"{told}once: run and traces convert distribute them (--spread)"
    ]
    night = [*stamps, *(at + 8 * 3_600_000 for at in stamps)]
    assert len(coarse_clock_warnings("t", night)) == 1


def test_bursts_that_were_sent() -> None:
    """Groups at any time, ticks that hardly anybody shares, fine ticks, too few to tell."""
    groups = sorted([0.0, 700.0, 3000.0, 3900.0, 8000.0, 9999.0, 15e3, 15.9e3, 19e3, 29e3] * 5)
    alone = [*every(1000.0), *every(1000.0, count=9)]
    for stamps in (groups, sorted(alone), every(400.0) * 3, every(1000.0, count=9) * 9):
        assert coarse_clock_warnings("t", sorted(stamps)) == []


@pytest.mark.parametrize(("spread", "told"), [(False, 1), (True, 0)])
def test_spread_requests_are_no_bursts(tmp_path: Path, spread: bool, told: int) -> None:
    record = {"input_length": 5, "output_length": 2}
    stamps = sorted([1000 * place for place in range(20)] * 4)
    lines = (json.dumps({"timestamp": at, **record}) for at in stamps)
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert len(read_trace(tmp_path / "t.jsonl", spread=spread).warnings) == told
