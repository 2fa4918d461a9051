"""LLMServingSim's workloads: lengths, arrivals, content, and lines that are none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from superinfer.errors import InputError
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.readers import read_trace


def line(**changes: object) -> str:
    fields: dict[str, object] = {"input_toks": 40, "output_toks": 7, "arrival_time_ns": 1500000}
    return json.dumps(fields | {"hash_ids": [3, 4]} | changes)


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "workload.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_request(tmp_path: Path) -> None:
    workload = read_trace(write(tmp_path, line(), line(arrival_time_ns=2e9, hash_ids=[3, 9])))
    first, second = workload.requests
    assert (first.arrival_s, second.arrival_s) == (0.0015, 2.0)
    assert (first.prompt_tokens, first.max_tokens, workload.output_tokens) == (40, 7, [7, 7])
    assert first.hash_block_tokens == 16
    assert first.hash_ids is not None and second.hash_ids is not None
    assert (first.hash_ids[:2], second.hash_ids[:2]) == ((3, 4), (3, 9))
    # The rest of a prompt is no full block: nobody else has it.
    assert first.hash_ids[2] != second.hash_ids[2]


def test_prompts_of_whole_blocks_and_of_unknown_content(tmp_path: Path) -> None:
    path = tmp_path / "workload.jsonl.gz"
    lines = [line(input_toks=32), line(hash_ids=None)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    whole, unknown = read_trace(path).requests
    assert (whole.hash_ids, unknown.hash_ids) == ((3, 4), ())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (line(hash_ids=[1]), r"hash_ids: expected 2 ids \(input_toks 40 / 16\), got 1"),
        (line(input_toks=0), f"input_toks: expected an integer from 1 to {MAX_LENGTH_TOKENS}"),
        (
            line(output_toks=10**9),
            rf"output_toks: expected an integer from 1 to {MAX_LENGTH_TOKENS} \(tokens\), got 1000",
        ),
        (line(arrival_time_ns=-1), "arrival_time_ns: expected a number from 0"),
        (line(arrival_time_ns=1e30), r"arrival_time_ns: expected a number .*, got 1e\+30"),
        (
            line().replace("1500000", "1e400"),
            r"arrival_time_ns: expected a number from 0 to .* \(ns\), got Infinity",
        ),
        (line(arrival_time_ns=float("nan")), "arrival_time_ns: expected a number .*, got NaN"),
        (line(hash_ids="no"), "hash_ids: expected a list of integers from 0 to"),
        (line(hash_ids=[3, -1]), r"hash_ids\[1\]: expected a list of integers from 0 .*, got -1"),
        (line(hash_ids=[3, 2**63]), r"hash_ids\[1\]: expected a list of integers from 0"),
        ("[1]", "expected a JSON object, got a list"),
        ('{"input_toks": 4, "output_toks": 2}', "arrival_time_ns: expected .*, got nothing"),
        ('{"input_toks": 4', "expected a JSON object, got a broken one"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, words: str) -> None:
    path = write(tmp_path, line(), bad)
    with pytest.raises(InputError, match=words) as caught:
        read_trace(path)
    assert "2" in str(caught.value)
    assert len(read_trace(path, skip_bad=True).requests) == 1


def test_fields_that_nobody_reads_are_told(tmp_path: Path) -> None:
    known = line(input_tok_ids=[1, 2], output_tok_ids=[5])
    assert read_trace(write(tmp_path, known)).warnings == []
    workload = read_trace(write(tmp_path, known, line(priority=3, session_id="a")))
    (warning,) = workload.warnings
    assert warning.endswith("ignored unknown fields: priority, session_id")
    assert len(workload.requests) == 2


def test_time_must_not_run_backwards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="arrival_time_ns"):
        read_trace(write(tmp_path, line(), line(arrival_time_ns=1)))
