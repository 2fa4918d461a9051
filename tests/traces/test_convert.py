"""Writing a workload and reading it back."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from public_data import REPOSITORY

from superinfer.request import DEFAULT_CLASS, Request
from traces.convert import milliseconds, native_bytes, write_lines
from traces.readers import read_trace
from traces.workload import Workload

FULL = {
    "timestamp": 12.25,
    "input_length": 100,
    "output_length": 40,
    "max_tokens": 50,
    "class": "chat",
    "tenant": "t",
    "priority": -3,
    "session_id": "s",
    "delay_ms": 1500.0,
    "request_id": "r",
    "namespace": "n",
    "slo": {"ttft_ms": 250.0, "tpot_ms": 0.0, "min_tokens_per_s": 5.0},
    "hash_block_size": 64,
    "hash_ids": [1, 2],
}
PLAIN = {"timestamp": 13, "input_length": 512, "output_length": 1}


def round_trip(folder: Path, *records: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Read records, write them, check that reading again changes nothing; the written lines."""
    source = folder / "same.jsonl"
    source.write_text("\n".join(json.dumps(record) for record in records))
    workload = read_trace(source, **options)
    target = folder / "again" / "same.jsonl.gz"
    target.parent.mkdir()
    write_lines(native_bytes(workload), target)
    again = read_trace(target)
    assert again.requests == workload.requests
    assert again.output_tokens == workload.output_tokens
    assert again.raised_max_tokens == workload.raised_max_tokens
    assert again.name == workload.name
    return [json.loads(line) for line in gzip.decompress(target.read_bytes()).splitlines()]


def test_every_field_is_kept(tmp_path: Path) -> None:
    assert round_trip(tmp_path, FULL, PLAIN) == [FULL, PLAIN]


def test_raised_limits_are_left_for_the_reader_to_raise(tmp_path: Path) -> None:
    raised = {**PLAIN, "output_length": 1500}
    declared = {**raised, "max_tokens": 2048}
    own = {**raised, "max_tokens": 1500}
    assert round_trip(tmp_path, raised, own, raised) == [raised, own, raised]
    (tmp_path / "b").mkdir()
    assert round_trip(tmp_path / "b", declared) == [declared]


def test_line_numbers_survive_skipped_lines(tmp_path: Path) -> None:
    records = round_trip(tmp_path, PLAIN, {}, PLAIN, skip_bad=True)
    assert [record.get("request_id") for record in records] == [None, "3"]


def test_spread_arrivals_are_exact(tmp_path: Path) -> None:
    stamps = [0] * 7 + [3000] * 11 + [6001] * 13
    round_trip(tmp_path, *({**PLAIN, "timestamp": stamp} for stamp in stamps), spread=True)


def test_the_sample_is_reproduced(tmp_path: Path) -> None:
    sample = REPOSITORY / "traces/samples/mixed.jsonl"
    target = tmp_path / "mixed.jsonl"
    write_lines(native_bytes(read_trace(sample)), target)
    assert target.read_bytes() == sample.read_bytes()


def test_equal_workloads_give_equal_gzip_bytes(tmp_path: Path) -> None:
    workload = Workload([Request("1", 0.0, 5, 1024)], [3])
    for name in ("a.gz", "b.gz"):
        write_lines(native_bytes(workload), tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_workload_made_by_hand_can_be_written() -> None:
    requests = [Request("x", 1.5, 5, 1024, slo_class=DEFAULT_CLASS)]
    line = b'{"timestamp":1500,"input_length":5,"output_length":3,"request_id":"x"}\n'
    assert native_bytes(Workload(requests, [3])) == line


@given(st.floats(0, 2**53))
def test_milliseconds_read_back_exactly(stamp_ms: float) -> None:
    assert milliseconds(stamp_ms / 1000) / 1000 == stamp_ms / 1000


def test_milliseconds_are_short() -> None:
    draws = random.Random(3)
    for _ in range(1000):
        stamp_ms = draws.randrange(10**10) / 1000
        assert milliseconds(stamp_ms / 1000) == stamp_ms
