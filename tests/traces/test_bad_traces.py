"""Every way in which a trace can be wrong: one line that names the place, or a skipped record."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import one_line
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.errors import InputError
from traces.readers import read_trace
from traces.source import MOST_LINE_BYTES

GOOD = b'{"timestamp":5,"input_length":100,"output_length":10}'
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = b"2023-11-16 18:17:03.9799600,4808,10\n"
LENGTH = "an integer from 1 to 10000000 (tokens)"
STAMP = "a number from 0 to 2**53 (ms)"


def with_fields(**fields: Any) -> bytes:
    """A good record with some fields changed (NaN and Infinity as Python writes them)."""
    return json.dumps({**json.loads(GOOD), **fields}).encode()


def without(field: str) -> bytes:
    """A good record without one field."""
    return json.dumps({k: v for k, v in json.loads(GOOD).items() if k != field}).encode()


def write(folder: Path, content: bytes, name: str = "t.jsonl") -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(content)
    return path


def error_of(path: Path | str, **options: Any) -> str:
    """The one line that reading `path` ends with."""
    message = one_line.error_of(lambda: read_trace(path, **options), InputError)
    assert message.isprintable()
    assert len(message) - len(str(path)) < 600
    return message


BAD_LINES = {
    "cut off": (GOOD[:-9], "expected a JSON object, got a broken one: "),
    "no JSON": (b'{"timestamp" 5}', "expected a JSON object, got malformed JSON at column 14"),
    "two objects": (GOOD + GOOD, "expected a JSON object, got malformed JSON at column 5"),
    "a list": (b"[1, 2]", "expected a JSON object, got a list"),
    "a number": (b"17", "expected a JSON object, got 17"),
    "text": (b"hello", "expected a JSON object, got malformed JSON at column 1"),
    "deep": (b'{"x":' + b"[" * 200_000, "expected a JSON object, got one nested too deeply"),
    "surrogate": (with_fields(tenant="\ud800"), "expected a JSON object, got a broken one: "),
    "no timestamp": (without("timestamp"), f"timestamp: expected {STAMP}, got nothing"),
    "no input": (without("input_length"), f"input_length: expected {LENGTH}, got nothing"),
    "another log": (
        b'{"created":0,"usage":{"prompt_tokens":5}}',
        "expected timestamp, input_length, output_length (superinfer-sim traces from-log reads",
    ),
    "in capitals": (
        b'{"Timestamp":0,"input_length":5,"output_length":5}',
        f"timestamp: expected {STAMP}, got nothing (did you mean 'Timestamp'?)",
    ),
    "no output": (without("output_length"), f"output_length: expected {LENGTH}, got nothing"),
    "text time": (with_fields(timestamp="5"), f'timestamp: expected {STAMP}, got "5"'),
    "null time": (with_fields(timestamp=None), f"timestamp: expected {STAMP}, got null"),
    "true time": (with_fields(timestamp=True), f"timestamp: expected {STAMP}, got true"),
    "negative time": (with_fields(timestamp=-1), f"timestamp: expected {STAMP}, got -1"),
    "late time": (with_fields(timestamp=2**53 + 2), f"timestamp: expected {STAMP}, got 900719925"),
    "NaN": (with_fields(timestamp=float("nan")), f"timestamp: expected {STAMP}, got NaN"),
    "Infinity": (with_fields(timestamp=float("inf")), f"timestamp: expected {STAMP}, got Infinity"),
    "1e999": (GOOD.replace(b"5", b"1e999"), f"timestamp: expected {STAMP}, got Infinity"),
    "NaN in slo": (with_fields(slo={"ttft_ms": float("nan")}), "slo.ttft_ms: expected a number"),
    "NaN in ids": (with_fields(hash_ids=[float("nan")]), "hash_ids: expected a list of 64-bit"),
    "zero input": (with_fields(input_length=0), f"input_length: expected {LENGTH}, got 0"),
    "zero output": (with_fields(output_length=0), f"output_length: expected {LENGTH}, got 0"),
    "negative input": (with_fields(input_length=-4), f"input_length: expected {LENGTH}, got -4"),
    "half a token": (with_fields(input_length=1.5), f"input_length: expected {LENGTH}, got 1.5"),
    "huge input": (with_fields(input_length=10_000_001), f"input_length: expected {LENGTH}, got 1"),
    "endless int": (
        GOOD.replace(b"100", b"9" * 5000),
        f"input_length: expected {LENGTH}, got Infinity",
    ),
    "huge limit": (with_fields(max_tokens=10**12), f"max_tokens: expected {LENGTH}, got 10000000"),
    "zero limit": (with_fields(max_tokens=0), f"max_tokens: expected {LENGTH}, got 0"),
    "small limit": (
        with_fields(max_tokens=9),
        "max_tokens: expected max_tokens >= output_length 10, got 9",
    ),
    "few ids": (
        with_fields(input_length=1025, hash_ids=[1, 2]),
        "hash_ids: expected 3 ids (input_length 1025 / hash_block_size 512, rounded up; "
        "--hash-block-size gives another), got 2",
    ),
    "many ids": (
        with_fields(hash_ids=[1, 2, 3], hash_block_size=64),
        "hash_ids: expected 2 ids (input_length 100 / hash_block_size 64, rounded up), got 3",
    ),
    "no ids": (
        with_fields(hash_ids=[]),
        "hash_ids: expected 1 ids (input_length 100 / hash_block_size 512, rounded up; "
        "--hash-block-size gives another), got 0",
    ),
    "text id": (
        with_fields(hash_ids=["a"]),
        'hash_ids[0]: expected a list of 64-bit integers, got "a"',
    ),
    "huge id": (with_fields(hash_ids=[2**63]), "hash_ids[0]: expected a list of 64-bit integers"),
    "id alone": (with_fields(hash_ids=7), "hash_ids: expected a list of 64-bit integers, got 7"),
    "zero block": (with_fields(hash_block_size=0), f"hash_block_size: expected {LENGTH}, got 0"),
    "no class": (with_fields(**{"class": "chta"}), "class: expected one of agent, batch, chat, "),
    "class type": (with_fields(**{"class": 3}), "class: expected a string, got 3"),
    "tenant type": (with_fields(tenant=[]), "tenant: expected a string, got a list"),
    "id type": (with_fields(request_id=3), "request_id: expected a string, got 3"),
    "priority type": (
        with_fields(priority=1.5),
        "priority: expected an integer from -2**53 to 2**53, got 1.5",
    ),
    "slo type": (with_fields(slo=3), "slo: expected an object of targets, got 3"),
    "bad target": (
        with_fields(slo={"ttft_ms": "fast"}),
        'slo.ttft_ms: expected a number from 0 to 2**53 (0 = none), got "fast"',
    ),
    "negative target": (
        with_fields(slo={"tpot_ms": -1}),
        "slo.tpot_ms: expected a number from 0 to 2**53 (0 = none), got -1",
    ),
    "latin 1": (
        GOOD.replace(b"}", b',"tenant":"caf\xe9"}'),
        "expected UTF-8 text, got byte 0xe9 at column 67",
    ),
    "latin 1 in an unknown field": (
        GOOD.replace(b"}", b',"x":"\xe9"}'),
        "expected UTF-8 text, got byte 0xe9 at column 59",
    ),
    "bytes": (bytes(range(128, 256)).replace(b"\n", b""), "expected UTF-8 text, got byte 0x80"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, case: str) -> None:
    line, expected = BAD_LINES[case]
    path = write(tmp_path, GOOD + b"\n" + line + b"\n" + GOOD)
    assert error_of(path).startswith(f"{path}:2: {expected}")


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_alone_is_skipped(tmp_path: Path, case: str) -> None:
    line = BAD_LINES[case][0]
    path = write(tmp_path, b"\n".join([line, GOOD, line, GOOD, GOOD, line]))
    workload = read_trace(path, skip_bad=True)
    assert [request.request_id for request in workload.requests] == ["2", "4", "5"]
    assert [request.index for request in workload.requests] == [0, 1, 2]
    assert (workload.skipped, len(workload.output_tokens)) == (3, 3)


def test_an_unknown_class_names_the_known_ones(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, with_fields(**{"class": "x"})))
    assert "default, mlperf-deepseek-r1-interactive" in message
    assert message.endswith('video, got "x"')


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, with_fields(timestamp="\n" * 1000)))
    assert message.endswith("\\n...")


def test_time_must_not_run_backwards(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + b"\n\n" + with_fields(timestamp=4.5) + b"\nrubbish")
    expected = "timestamp: expected no time before the previous request's 5 ms, got 4.5"
    assert error_of(path) == f"{path}:3: {expected}"


def test_a_stamp_that_jumps_ahead_costs_one_record(tmp_path: Path) -> None:
    stamps = [0, 10, 10**9, 20, 5, 30]
    path = write(tmp_path, b"\n".join(with_fields(timestamp=stamp) for stamp in stamps))
    workload = read_trace(path, skip_bad=True)
    assert [request.arrival_s for request in workload.requests] == [0, 0.01, 0.02, 0.03]
    assert workload.skipped == 2


def test_request_ids_must_differ(tmp_path: Path) -> None:
    path = write(tmp_path, b"\n".join([with_fields(request_id="a"), GOOD] * 2))
    expected = 'request_id: expected an id of its own, got "a" (line 1 has it too)'
    assert error_of(path) == f"{path}:3: {expected}"
    workload = read_trace(path, skip_bad=True)
    assert [request.request_id for request in workload.requests] == ["a", "2", "4"]
    assert workload.skipped == 1


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("content", [b"", b" \n\n", gzip.compress(b"", mtime=0), b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes, skip_bad: bool) -> None:
    path = write(tmp_path, content)
    message = error_of(path, skip_bad=skip_bad)
    assert message.startswith(f"{path}: expected at least one ")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_missing_file_is_an_error(tmp_path: Path, skip_bad: bool) -> None:
    path = tmp_path / "nowhere"
    message = error_of(path, skip_bad=skip_bad)
    assert message == f"{path}: expected a trace file, got no such file"


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_directory_is_an_error(tmp_path: Path, skip_bad: bool) -> None:
    message = error_of(tmp_path, skip_bad=skip_bad)
    assert message == f"{tmp_path}: expected a trace file, got a directory"


@pytest.mark.parametrize("path", ["x" * 5000, "nul\0"])
def test_an_impossible_path_is_an_error(path: str) -> None:
    with pytest.raises(InputError, match="expected a readable file"):
        read_trace(path)


def test_binary_rubbish_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, random.Random(1).randbytes(5000))
    assert error_of(path).startswith(f"{path}:1: expected UTF-8 text, got byte 0x")
    assert error_of(path, skip_bad=True) == error_of(path)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"PAR1", "a Parquet file"),
        ("TIMESTAMP".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_logs_come_in_too(tmp_path: Path, head: bytes, kind: str) -> None:
    path = write(tmp_path, head + b"rest\n")
    for skip_bad in (False, True):
        said = error_of(path, skip_bad=skip_bad)
        assert said.startswith(f"{path}: expected text, plain or by gzip, got {kind}")
    assert ("pandas.read_parquet" in said) == (head == b"PAR1")


def test_text_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, b"\na,b,c\n")
    known = "a JSON object or TIMESTAMP,ContextTokens,GeneratedTokens"
    expected = f'expected {known} (superinfer-sim traces from-log reads other logs), got "a,b,c"'
    assert error_of(path) == f"{path}:2: {expected}"


def test_a_column_too_many_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER.replace(b"\n", b",user\n"))
    assert error_of(path).endswith(' got "TIMESTAMP,ContextTokens,GeneratedTokens,user"')


def test_a_file_of_bad_records_says_how_many(tmp_path: Path) -> None:
    path = write(tmp_path, (without("timestamp") + b"\n") * 3)
    message = error_of(path, skip_bad=True, spread=True)
    first = "line 1: timestamp: expected a number from 0 to 2**53 (ms), got nothing"
    found = f"none and 3 bad lines, the first: {first}"
    assert message == f"{path}: expected at least one good record, got {found}"


def truncated_gzip(folder: Path) -> Path:
    """The first half of a compressed trace whose lines hardly compress."""
    noise = random.Random(2)
    line = '{"timestamp":%d,"input_length":%d,"output_length":1}\n'
    text = "".join(line % (i, noise.randint(1, 10**7)) for i in range(5000))
    data = gzip.compress(text.encode())
    return write(folder, data[: len(data) // 2], "t.jsonl.gz")


def test_a_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    path = truncated_gzip(tmp_path)
    message = error_of(path)
    assert message.startswith(f"{path}:")
    assert message.endswith(": expected a complete gzip stream, got a truncated one")


def test_a_truncated_gzip_keeps_the_lines_before_the_cut(tmp_path: Path) -> None:
    path = truncated_gzip(tmp_path)
    workload = read_trace(path, skip_bad=True)
    line = int(error_of(path).removeprefix(f"{path}:").partition(":")[0])
    assert 2000 < len(workload.requests) == line - 1 < 3000
    assert "truncated one: read up to here" in workload.warnings[0]


def test_a_truncated_csv_loses_its_half_row(tmp_path: Path) -> None:
    data = gzip.compress(HEADER + ROW + ROW[:-2], compresslevel=0)
    workload = read_trace(write(tmp_path, data[:-8]), skip_bad=True)
    assert workload.output_tokens == [10]


def test_a_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(GOOD))
    data[20] ^= 255
    path = write(tmp_path, bytes(data))
    assert error_of(path).endswith("expected a complete gzip stream, got a damaged one")


BAD_ROWS = {
    "columns": (b"2023-11-16 18:17:03,1", "expected 3 columns, got 2"),
    "time": (b"16/11/2023,1,1", 'TIMESTAMP: expected a time like "2023-11-16 18:17:03.9799600", '),
    "month": (b"2023-13-16 18:17:03,1,1", "TIMESTAMP: expected a time like "),
    "no prompt": (
        b"2023-11-16 18:17:04,0,1",
        'ContextTokens: expected an integer from 1 to 10000000, got "0"',
    ),
    "no answer": (
        b"2023-11-16 18:17:04,1,",
        'GeneratedTokens: expected an integer from 1 to 10000000, got ""',
    ),
    "huge": (b"2023-11-16 18:17:04,1,99999999", "GeneratedTokens: expected an integer"),
    "fraction": (b"2023-11-16 18:17:04,1.5,1", "ContextTokens: expected an integer"),
    "bytes": (b"2023-11-16 18:17:04,\xff,1", "expected UTF-8 text, got byte 0xff at column 21"),
    "earlier": (b"2023-11-16 18:17:02,1,1", "TIMESTAMP: expected no time before the previous"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_or_skipped(tmp_path: Path, case: str) -> None:
    row, expected = BAD_ROWS[case]
    path = write(tmp_path, HEADER + ROW + row + b"\n" + ROW)
    assert error_of(path).startswith(f"{path}:3: {expected}")
    workload = read_trace(path, skip_bad=True)
    assert [request.request_id for request in workload.requests] == ["2", "4"]
    assert workload.skipped == 1


def test_a_dropped_first_row_moves_the_start(tmp_path: Path) -> None:
    late = b"2023-11-17 00:00:00,1,1\n"
    workload = read_trace(write(tmp_path, HEADER + late + ROW + ROW), skip_bad=True)
    assert [request.arrival_s for request in workload.requests] == [0.0, 0.0]


def test_rows_before_the_header_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, b"exported by a tool\n" + HEADER + ROW)
    assert error_of(path).startswith(f"{path}:1: expected a JSON object or TIMESTAMP")
    assert read_trace(path, skip_bad=True).skipped == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_line_without_an_end_is_refused(tmp_path: Path, packed: bool, skip_bad: bool) -> None:
    content = GOOD + b"\n" + b"x" * (MOST_LINE_BYTES + 1)
    path = write(tmp_path, gzip.compress(content, 1) if packed else content)
    with pytest.raises(InputError) as caught:
        read_trace(path, skip_bad=skip_bad)
    assert str(caught.value) == f"{path}:2: expected lines of at most 64 MiB, got a longer one"


def test_what_is_compressed_has_no_lines_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(GOOD, 0, mtime=0)
    assert b"\n" not in packed
    monkeypatch.setattr("traces.source.MOST_LINE_BYTES", len(GOOD))
    assert len(read_trace(write(tmp_path, packed)).requests) == 1


def test_a_device_without_an_end_is_refused() -> None:
    assert (
        error_of(Path("/dev/zero"))
        == "/dev/zero:1: expected lines of at most 64 MiB, got a longer one"
    )


FIELDS = [*json.loads(GOOD), "max_tokens", "hash_ids", "hash_block_size", "namespace"]
FIELDS += ["request_id", "session_id", "tenant", "class", "priority", "slo", "other"]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a\u00e9\n[", max_size=5)
)
TARGETS = st.dictionaries(st.sampled_from(["ttft_ms", "other"]), SCALARS)
VALUES = SCALARS | st.lists(SCALARS) | TARGETS


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_fields_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.getbasetemp(), with_fields(**fields))
    try:
        read_trace(path)
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}:1: ")
    assert message.isprintable()


@given(st.binary())
def test_any_bytes_are_refused_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), b"x" + content + b"\n" + GOOD)
    assert len(read_trace(path, skip_bad=True).requests) == 1
