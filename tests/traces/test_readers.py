"""What good traces become."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.errors import ConfigError, InputError
from superinfer.request import DEFAULT_CLASS, SLO, SLOClass
from superinfer.slo_classes import PRESETS
from traces.formats.native import NativeParser
from traces.readers import read_trace
from traces.stamps import longest_ordered, spread_stamps
from traces.workload import Workload

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:17:03.9799600,4808,10\n"
    "2023-11-16 18:17:04.0319601,3180,8\n"
)


def record(timestamp: float = 0, /, **fields: Any) -> dict[str, Any]:
    """A good record, with some fields changed."""
    return {"timestamp": timestamp, "input_length": 100, "output_length": 10, **fields}


def write(folder: Path, *records: dict[str, Any], name: str = "trace.jsonl") -> Path:
    """A trace file of these records."""
    path = folder / name
    path.write_text("".join(json.dumps(item) + "\n" for item in records))
    return path


def read(folder: Path, *records: dict[str, Any], **options: Any) -> Workload:
    """The workload of these records."""
    return read_trace(write(folder, *records), **options)


def test_a_minimal_record_gets_the_defaults(tmp_path: Path) -> None:
    workload = read(tmp_path, record(), record(1500))
    request = workload.requests[1]
    assert (request.request_id, request.arrival_s, request.prompt_tokens) == ("2", 1.5, 100)
    assert (request.tenant, request.session_id, request.priority) == ("default", None, 0)
    assert (request.hash_ids, request.hash_block_tokens, request.namespace) == ((), 512, "")
    assert (request.index, request.max_tokens) == (1, 1024)
    assert (workload.output_tokens, workload.name) == ([10, 10], "trace")
    assert (workload.skipped, workload.raised_max_tokens, workload.warnings) == (0, 0, [])


def test_every_field_is_read(tmp_path: Path) -> None:
    fields = {
        "max_tokens": 50,
        "hash_ids": [1, -2],
        "hash_block_size": 64,
        "namespace": "a",
        "request_id": "r",
        "session_id": "s",
        "tenant": "t",
        "class": "chat",
        "priority": -3,
        "slo": {"ttft_ms": 250, "min_tokens_per_s": 5},
    }
    request = read(tmp_path, record(**fields)).requests[0]
    assert (request.max_tokens, request.hash_ids, request.hash_block_tokens) == (50, (1, -2), 64)
    assert (request.namespace, request.request_id, request.session_id) == ("a", "r", "s")
    assert (request.tenant, request.slo_class, request.priority) == ("t", PRESETS["chat"], -3)
    assert request.slo == SLO(ttft_s=0.25, tpot_s=0.1, min_tokens_per_s=5.0)


def test_null_is_the_same_as_absent(tmp_path: Path) -> None:
    names = ("max_tokens", "hash_ids", "hash_block_size", "namespace", "request_id", "session_id")
    fields = dict.fromkeys((*names, "tenant", "class", "priority", "slo"))
    assert read(tmp_path, record(**fields)) == read(tmp_path, record())


def test_a_zero_target_takes_the_class_target_away(tmp_path: Path) -> None:
    request = read(tmp_path, record(**{"class": "chat", "slo": {"tpot_ms": 0}})).requests[0]
    assert request.slo == SLO(ttft_s=1.0)


def test_equal_targets_share_one_object(tmp_path: Path) -> None:
    plain = read(tmp_path, record(), record()).requests
    own = read(tmp_path, record(slo={"ttft_ms": 9}), record(slo={"ttft_ms": 9})).requests
    assert plain[0].slo is plain[1].slo is DEFAULT_CLASS.slo
    assert own[0].slo is own[1].slo


def test_class_limit_is_doubled_until_it_covers_the_answer(tmp_path: Path) -> None:
    classes = {"small": SLOClass("small", max_tokens=10)}
    lengths = [record(output_length=n, **{"class": "small"}) for n in (10, 11, 41)]
    workload = read(tmp_path, *lengths, classes=classes)
    assert [request.max_tokens for request in workload.requests] == [10, 20, 80]
    assert workload.raised_max_tokens == 2


def test_given_classes_replace_the_presets(tmp_path: Path) -> None:
    mine = SLOClass("mine", SLO(ttft_s=3.0))
    default = SLOClass("default", max_tokens=7)
    records = (record(**{"class": "mine"}), record(output_length=1))
    requests = read(tmp_path, *records, classes={"mine": mine, "default": default}).requests
    assert requests[0].slo_class is mine
    assert requests[1].max_tokens == 7


def test_without_slo_takes_every_target_away(tmp_path: Path) -> None:
    records = (record(**{"class": "chat"}), record(slo={"ttft_ms": 5}))
    for request in read(tmp_path, *records, without_slo=True).requests:
        assert request.slo.empty
        assert request.slo_class.slo.empty
    kept = read(tmp_path, *records, without_slo=True).requests[0].slo_class
    assert (kept.name, kept.max_stall_s) == ("chat", 1.0)


def test_unknown_fields_are_named_in_one_warning(tmp_path: Path) -> None:
    path = write(tmp_path, record(delay=1), record(type="a", slo={"p": 1, "ttft_ms": 2}))
    workload = read_trace(path)
    assert workload.warnings == [f"{path}: ignored unknown fields: delay, slo.p, type"]
    assert workload.requests[1].slo.ttft_s == 0.002
    path = write(tmp_path, record(ttft_ms=500))
    said = f"{path}: ignored unknown fields: ttft_ms (targets go into slo)"
    assert read_trace(path).warnings == [said]


def test_many_unknown_fields_are_counted(tmp_path: Path) -> None:
    warning = read(tmp_path, record(**{f"x{i:02}": 0 for i in range(30)})).warnings[0]
    assert warning.endswith("x08, x09 and 20 more")


def test_blank_lines_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    line = json.dumps(record())
    path.write_bytes(f"\ufeff\r\n{line}\r\n\r\n  \r\n{line}".encode())
    assert [request.request_id for request in read_trace(path).requests] == ["2", "5"]


def test_a_line_number_never_takes_a_given_id(tmp_path: Path) -> None:
    requests = read(tmp_path, record(request_id="2"), record(), record()).requests
    assert [request.request_id for request in requests] == ["2", "line-2", "3"]


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv", "t"])
def test_content_decides_the_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(json.dumps(record()).encode()))
    workload = read_trace(path)
    assert (len(workload.requests), workload.name) == (1, "t")


def test_gzip_members_may_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    member = gzip.compress(json.dumps(record()).encode() + b"\n")
    path.write_bytes(member + member + b"\0" * 512)
    assert len(read_trace(path).requests) == 2


def test_azure_counts_from_its_first_request(tmp_path: Path) -> None:
    path = tmp_path / "azure.jsonl"
    path.write_text(AZURE)
    workload = read_trace(path)
    assert [request.arrival_s for request in workload.requests] == [0.0, pytest.approx(0.0520001)]
    assert [request.prompt_tokens for request in workload.requests] == [4808, 3180]
    assert workload.output_tokens == [10, 8]


def test_azure_may_be_gzip_and_carry_time_zones(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv.gz"
    rows = "2024-05-10 23:59:59+00:00,1,1\r\n2024-05-11T02:00:00.5+02:00,2,2\r\n"
    path.write_bytes(gzip.compress((AZURE.splitlines()[0] + "\r\n" + rows).encode()))
    workload = read_trace(path)
    assert (workload.requests[1].arrival_s, workload.name) == (1.5, "azure")


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps(record()).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_trace("-").name == "stdin"


def test_limit_keeps_the_first_and_looks_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, record(), record(), record(5))
    path.write_text(path.read_text() + "rubbish\n")
    assert len(read_trace(path, limit=3).requests) == 3
    with pytest.raises(ConfigError, match="limit: expected an integer >= 1, got 0"):
        read_trace(path, limit=0)


def test_limit_counts_good_records_only(tmp_path: Path) -> None:
    records = [record(10), record(5), record(12), record(input_length=0), record(14)]
    workload = read(tmp_path, *records, skip_bad=True, limit=2)
    assert [request.arrival_s for request in workload.requests] == [0.01, 0.012]
    assert workload.skipped == 1


def test_spread_fills_every_stamp_evenly(tmp_path: Path) -> None:
    stamps = [0, 0, 0, 3000, 9000, 9000]
    requests = read(tmp_path, *map(record, stamps), spread=True).requests
    assert [request.arrival_s for request in requests] == [0, 1, 2, 3, 9, 11.25]


def test_spread_without_a_gap_changes_nothing() -> None:
    assert spread_stamps([7.0, 7.0]) == [7.0, 7.0]


@given(st.lists(st.integers(0, 20).map(float), min_size=1))
def test_spread_keeps_order_and_first_of_each_stamp(stamps: list[float]) -> None:
    stamps.sort()
    spread = spread_stamps(stamps)
    assert spread == sorted(spread)
    assert all(a <= b for a, b in zip(stamps, spread, strict=True))
    assert {spread[stamps.index(stamp)] for stamp in stamps} == set(stamps)


@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=8))
def test_longest_ordered_keeps_as_many_as_any_choice(stamps: list[float]) -> None:
    kept = longest_ordered(stamps)
    chosen = [stamps[i] for i in kept]
    assert kept == sorted(set(kept))
    assert chosen == sorted(chosen)
    best = [1] * len(stamps)
    for i, stamp in enumerate(stamps):
        best[i] = 1 + max((best[j] for j in range(i) if stamps[j] <= stamp), default=0)
    assert len(kept) == max(best)


LINE = '{"timestamp":%d,"input_length":5,"output_length":7}'


@pytest.mark.parametrize(
    "text",
    [
        f"{LINE % 0}\n{LINE % 1}\n",
        f"\n  \n{LINE % 0}\n\t\n{LINE % 1}",
        f"{LINE % 0}\r\n{LINE % 1}\r\n",
        f"{LINE % 0}{LINE % 0}\n{LINE % 1}\n",
        f'{{"timestamp":0,\n"input_length":5,"output_length":7}}\n{LINE % 1}\n',
        f'{{"slo":{{}}\n{{"timestamp":0}}\n{LINE % 1}\n',
        f'{LINE % 0}\n{{"timestamp":1,"input_length":5,"output_length":7,"class":"none"}}\n',
        f'{LINE % 0}\n{{"timestamp":1,"input_length":5,"output_length":7,"color":"red"}}\n',
        f"{LINE % 2}\n{LINE % 1}\n",
    ],
)
def test_lines_at_once_equal_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text, newline="")
    found: list[Any] = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(NativeParser, "parse_all", lambda *_: None)
        try:
            found.append(read_trace(path))
        except InputError as error:
            found.append(str(error))
    assert found[0] == found[1]
