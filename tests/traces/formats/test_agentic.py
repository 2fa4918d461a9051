"""Recorded agent sessions: chains, think times, ids, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import one_line
import pytest
from public_data import needed

from superinfer.errors import ConfigError, InputError
from superinfer.request import Request
from traces.convert import native_bytes, write_lines
from traces.dialect import Dialect
from traces.formats.agentic import API_S, API_S_PER_TOKEN, SESSION_GAP_S
from traces.readers import read_trace
from traces.stats import trace_stats
from traces.workload import Workload

AGENTIC = "traces/agentic_kv_cache_tester"


def turn(t: float, tokens: int = 130, out: int = 10, **fields: Any) -> dict[str, Any]:
    """A turn whose prompt has an id per full block; a field given as None is left out."""
    made = {
        "t": t,
        "type": "n",
        "model": "m",
        "in": tokens,
        "out": out,
        "hash_ids": list(range(1, 1 + tokens // 64)),
        "input_types": ["text"],
        "output_types": [],
        "stop": "",
        "api_time": 2.5,
        "think_time": 3.0,
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None}


def subagent(t: float, duration_ms: float, *requests: dict[str, Any]) -> dict[str, Any]:
    """A subagent that ended at `t`."""
    names = ("agent_id", "subagent_type", "status", "models", "total_tokens", "tool_use_count")
    fields = dict.fromkeys((*names, "tool_tokens", "system_tokens"))
    entry = {"t": t, "type": "subagent", "duration_ms": duration_ms, "requests": requests}
    return {**fields, **entry}


def session(*requests: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A session file."""
    head = {"id": "s", "models": [], "block_size": 64, "hash_id_scope": "local"}
    rest = {"tool_tokens": 1, "system_tokens": 2, "requests": requests, "totals": {}}
    return {**head, **rest, **fields}


def write(folder: Path, *sessions: dict[str, Any] | str) -> Path:
    """A folder with these session files: a.json, b.json ..."""
    folder.mkdir(exist_ok=True)
    for name, content in zip("abcdef", sessions, strict=False):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return folder


def read(tmp_path: Path, *sessions: dict[str, Any], **options: Any) -> Workload:
    """The workload of a folder with these sessions."""
    return read_trace(write(tmp_path / "folder", *sessions), **options)


def named(workload: Workload) -> dict[str, Request]:
    """Requests by id."""
    return {request.request_id: request for request in workload.requests}


def error_of(path: Path, **options: Any) -> str:
    return one_line.error_of(lambda: read_trace(path, **options), InputError)


def test_a_turn_becomes_a_request(tmp_path: Path) -> None:
    workload = read(tmp_path, session(turn(0.5, 130, 17)))
    (request,) = workload.requests
    assert (request.request_id, request.session_id, request.namespace) == ("a/1", "a", "a")
    assert (request.arrival_s, request.prompt_tokens, request.delay_s) == (0.5, 130, None)
    assert (request.hash_block_tokens, request.hash_ids[:2]) == (64, (1, 2))
    assert (workload.output_tokens, workload.name, workload.warnings) == ([17], "folder", [])


def test_sessions_begin_after_one_another_and_are_merged_by_time(tmp_path: Path) -> None:
    sessions = [session(turn(0), turn(1.5 * SESSION_GAP_S)), session(turn(0), turn(1))]
    starts = {r.request_id: r.arrival_s for r in read(tmp_path, *sessions).requests}
    gap_s = SESSION_GAP_S
    assert starts == {"a/1": 0.0, "b/1": gap_s, "b/2": gap_s + 1, "a/2": 1.5 * gap_s}
    assert list(starts.values()) == sorted(starts.values())
    together = read(tmp_path, *sessions, dialect=Dialect(session_gap_s=0.0)).requests
    assert [request.request_id for request in together] == ["a/1", "b/1", "b/2", "a/2"]
    assert [request.index for request in together] == [0, 1, 2, 3]


def test_think_time_follows_the_turn_before(tmp_path: Path) -> None:
    requests = named(read(tmp_path, session(turn(0), turn(19, think_time=12.0))))
    assert (requests["a/1"].delay_s, requests["a/2"].delay_s) == (None, 12.0)


@pytest.mark.parametrize(
    ("before", "after", "delay_s"),
    [
        # Without api_time, think_time counts from the end of some earlier turn.
        ({"api_time": None, "out": 100}, {}, 50 - API_S - 100 * API_S_PER_TOKEN),
        ({"api_time": None, "out": 100_000}, {}, 0.0),
        ({}, {"think_time": None}, 47.5),
        ({"api_time": None}, {"think_time": None}, 50 - API_S - 10 * API_S_PER_TOKEN),
    ],
)
def test_think_time_that_is_not_recorded(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], delay_s: float
) -> None:
    requests = named(read(tmp_path, session(turn(0, **before), turn(50, **after))))
    assert requests["a/2"].delay_s == pytest.approx(delay_s)


def test_a_partial_last_block_gets_an_id_of_its_own(tmp_path: Path) -> None:
    turns = [turn(0, 100), turn(1, 100), turn(2, 63), turn(3, 128), turn(4, 100, hash_ids=[1, 9])]
    other = session(turn(0, 100), hash_id_scope="global")
    ids = {name: r.hash_ids for name, r in named(read(tmp_path, session(*turns), other)).items()}
    assert [len(ids[f"a/{number}"]) for number in range(1, 6)] == [2, 2, 1, 2, 2]
    assert ids["a/4"] == (1, 2)
    assert ids["a/5"] == (1, 9)
    tails = [ids[name][-1] for name in ("a/1", "a/2", "a/3", "b/1")]
    assert len({*tails, 1, 2, 9}) == 7


def test_a_turn_may_have_no_ids(tmp_path: Path) -> None:
    request = read(tmp_path, session(turn(0, hash_ids=None))).requests[0]
    assert (request.hash_ids, request.hash_block_tokens) == ((), 512)


def test_global_ids_are_shared_between_sessions(tmp_path: Path) -> None:
    sessions = [session(turn(0, 128)), session(turn(0, 128))]
    assert trace_stats(read(tmp_path, *sessions))["prefix_hit_rate"] == 0
    shared = [{**item, "hash_id_scope": "global"} for item in sessions]
    assert trace_stats(read(tmp_path, *shared))["prefix_hit_rate"] == 0.5


def test_a_subagent_is_a_chain_that_ends_at_its_time(tmp_path: Path) -> None:
    inner = subagent(100.0, 90_000.0, turn(0), turn(20.0, think_time=4.0))
    requests = named(read(tmp_path, session(turn(0), inner, turn(120, think_time=117.5))))
    assert requests["a/2/1"].arrival_s == 10.0
    assert requests["a/2/2"].arrival_s == 30.0
    assert {requests[name].session_id for name in ("a/2/1", "a/2/2")} == {"a/2"}
    assert (requests["a/2/1"].delay_s, requests["a/2/2"].delay_s) == (None, 4.0)
    assert {request.namespace for request in requests.values()} == {"a"}
    assert (requests["a/3"].session_id, requests["a/3"].delay_s) == ("a", 117.5)


def test_a_subagent_may_have_subagents(tmp_path: Path) -> None:
    inner = subagent(15.0, 10_000.0, turn(1.0))
    outer = subagent(100.0, 90_000.0, turn(0), inner)
    requests = named(read(tmp_path, session(turn(0), outer)))
    assert requests["a/2/2/1"].arrival_s == 10.0 + 5.0 + 1.0
    assert requests["a/2/2/1"].session_id == "a/2/2"


def test_a_subagent_never_starts_before_its_session(tmp_path: Path) -> None:
    requests = named(read(tmp_path, session(turn(0), subagent(1.0, 90_000.0, turn(0)))))
    assert requests["a/2/1"].arrival_s == 0.0


def test_options_work_as_with_other_formats(tmp_path: Path) -> None:
    one = session(turn(0), turn(0), turn(8, out=3000))
    path = write(tmp_path / "folder", one)
    assert [request.arrival_s for request in read_trace(path, spread=True).requests] == [0, 4, 8]
    assert len(read_trace(path, limit=2).requests) == 2
    assert read_trace(path).raised_max_tokens == 1
    with pytest.raises(ConfigError, match="session_gap_s: expected a number from 0"):
        read_trace(path, dialect=Dialect(session_gap_s=-1.0))


def test_unknown_fields_are_named_in_one_warning(tmp_path: Path) -> None:
    made = session(turn(0, extra=1), subagent(5, 1, turn(0, other=1)), later=1)
    workload = read(tmp_path, made)
    folder = tmp_path / "folder"
    assert workload.warnings == [f"{folder}: ignored unknown fields: extra, later, other"]


def tar_of(folder: Path, target: Path, mode: Any = "w:gz") -> Path:
    """An archive of a folder's files."""
    with tarfile.open(target, mode) as archive:
        for file in folder.iterdir():
            archive.add(file, f"./traces/{file.name}")
    return target


def test_a_file_an_archive_and_a_folder_of_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "folder", session(turn(0), turn(9)), session(turn(0)))
    wanted = read_trace(folder).requests
    published = tmp_path / "published"
    published.mkdir()
    (published / "LICENSE").write_text("text")
    archive = tar_of(folder, published / "half.tar.gz")
    assert read_trace(archive).requests == read_trace(published).requests == wanted
    assert (read_trace(archive).name, read_trace(published).name) == ("half", "published")
    assert read_trace(tar_of(folder, tmp_path / "x.tar", "w")).requests == wanted
    assert read_trace(folder / "a.json").requests == wanted[:2]
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress((folder / "a.json").read_bytes()))
    assert read_trace(packed).requests == read_trace(folder / "a.json").requests
    stdin = io.TextIOWrapper(io.BytesIO((folder / "a.json").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert [request.session_id for request in read_trace("-").requests] == ["stdin", "stdin"]


def test_a_session_is_no_line_of_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.source.MOST_LINE_BYTES", 20)
    folder = write(tmp_path / "folder", session(turn(0)))
    for path in (folder / "a.json", tar_of(folder, tmp_path / "x.tar.gz")):
        assert len(read_trace(path).requests) == 1
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}')
    with pytest.raises(InputError, match="expected lines of at most"):
        read_trace(lines)


def test_a_file_over_many_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(session(turn(0)), indent=2))
    assert read_trace(path).requests[0].request_id == "a/1"


def test_files_hide_archives_and_equal_names_are_told_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", session(turn(0)))
    published = tmp_path / "published"
    published.mkdir()
    tar_of(folder, published / "1.tgz")
    tar_of(folder, published / "2.tgz")
    assert [r.session_id for r in read_trace(published).requests] == ["a", "a-2"]
    tar_of(folder, folder / "again.tgz")
    assert len(read_trace(folder).requests) == 1


def test_native_and_back(tmp_path: Path) -> None:
    workload = read(tmp_path, session(turn(0), subagent(9, 5000, turn(0)), turn(12, 700)))
    target = tmp_path / "native.jsonl"
    write_lines(native_bytes(workload), target)
    again = read_trace(target)
    assert again.requests == workload.requests
    assert again.output_tokens == workload.output_tokens


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "zero": (turn(0, 0), "in: expected an integer from 1 to 10000000 (tokens), got 0"),
    "huge": (turn(0, 10_000_001, hash_ids=None), "in: expected an integer from 1 to 10000000 "),
    "text": (turn(0, out="x"), 'out: expected an integer from 1 to 10000000 (tokens), got "x"'),
    "time": (turn(-1), "t: expected a number from 0 to 10**12 (s), got -1"),
    "no time": ({**turn(0), "t": None}, "t: expected a number from 0 to 10**12 (s), got null"),
    "few ids": (
        turn(0, 130, hash_ids=[1]),
        "hash_ids: expected 2 ids (in 130 / 64), or one more for a rest, got 1",
    ),
    "id": (turn(0, hash_ids=[1, -2]), "hash_ids[1]: expected a list of integers >= 0, got -2"),
    "type": (turn(0, type="x"), 'type: expected "n", "s" or "subagent", got "x"'),
    "no type": (turn(0, type=None), 'type: expected "n", "s" or "subagent", got nothing'),
    "no requests": (
        {"type": "subagent", "t": 1, "duration_ms": 0},
        "requests: expected a list of requests, got nothing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_named_or_skipped(tmp_path: Path, case: str) -> None:
    bad, expected = BAD[case]
    path = write(tmp_path / "folder", session(turn(0), bad, turn(20)))
    assert error_of(path).startswith(f"{path}/a.json: requests[1].{expected}")
    workload = read_trace(path, skip_bad=True)
    assert [request.request_id for request in workload.requests] == ["a/1", "a/3"]
    assert workload.skipped == 1


def test_a_bad_request_of_a_subagent_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "folder", session(turn(0), subagent(1, 1, turn(0), turn(1, 0))))
    assert error_of(path).startswith(f"{path}/a.json: requests[1].requests[1].in: expected ")
    assert read_trace(path, skip_bad=True).skipped == 1


BAD_FILES = {
    "broken": ('{"requests": [', "expected JSON, got a broken document: "),
    "list": ("[]", "expected an object, got a list"),
    "empty": ("", "expected JSON, got a broken document: "),
    "no block": ('{"requests": []}', "block_size: expected an integer from 1 to 10000000 "),
    "scope": (
        '{"requests": [], "block_size": 64, "hash_id_scope": "x"}',
        'hash_id_scope: expected "local" or "global", got "x"',
    ),
    "requests": ('{"requests": 3, "block_size": 64}', "requests: expected a list of requests, "),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_or_skipped(tmp_path: Path, case: str) -> None:
    content, expected = BAD_FILES[case]
    path = write(tmp_path / "folder", session(turn(0)), content, session(turn(0)))
    assert error_of(path).startswith(f"{path}/b.json: {expected}")
    workload = read_trace(path, skip_bad=True)
    assert [request.arrival_s for request in workload.requests] == [0, SESSION_GAP_S]
    assert workload.skipped == 1


def test_deep_nesting_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "folder", '{"block_size":1,"requests":' + "[" * 100_000)
    assert error_of(path).startswith(f"{path}/a.json: expected JSON, got a ")


def test_a_folder_of_nothing_is_an_error(tmp_path: Path) -> None:
    assert error_of(tmp_path).endswith("expected a trace file, got a directory")
    empty = write(tmp_path / "folder", session())
    assert error_of(empty) == f"{empty}: expected at least one good record, got none"
    (tmp_path / "bad.tgz").write_bytes(b"x")
    assert "bad.tgz: expected a complete tar archive, got: " in error_of(tmp_path)


@pytest.mark.slow
def test_the_public_sessions() -> None:
    workload = read_trace(needed(AGENTIC))
    requests = workload.requests
    prompts = [request.prompt_tokens for request in requests]
    assert (len(requests), workload.skipped, workload.warnings) == (6110, 0, [])
    assert len({request.namespace for request in requests}) == 89
    assert len({request.session_id for request in requests}) == 89 + 16
    assert np.percentile(prompts, [50, 99]) == pytest.approx([107_000, 475_000], rel=0.002)
    assert np.percentile(workload.output_tokens, [50, 99]) == pytest.approx([233, 4022], abs=1)
    assert np.mean(prompts) == pytest.approx(130_000, rel=0.002)
    delays_s = [request.delay_s for request in requests if request.delay_s is not None]
    assert len(delays_s) == 6110 - 89 - 16
    assert 5 < np.median(delays_s) < 12


@pytest.mark.slow
def test_the_public_sessions_share_their_prefixes() -> None:
    stats = trace_stats(read_trace(needed(AGENTIC)))
    assert stats["prefix_hit_rate"] == pytest.approx(0.96, abs=0.005)
