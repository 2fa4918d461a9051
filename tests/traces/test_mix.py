"""Merging traces: order, names, namespaces, classes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from one_line import error_of

from superinfer.errors import ConfigError, InputError
from superinfer.request import SLO, SLOClass
from superinfer.slo_classes import PRESETS
from traces.convert import native_bytes, write_lines
from traces.mix import mix, parse_sources
from traces.readers import read_trace
from traces.stats import trace_stats


def record(timestamp: float = 0, /, **fields: Any) -> dict[str, Any]:
    """A good record, with some fields changed."""
    return {"timestamp": timestamp, "input_length": 100, "output_length": 10, **fields}


def write(folder: Path, name: str, *records: dict[str, Any]) -> str:
    """A trace of these records; `name` may hold a folder."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in records))
    return str(path)


def test_requests_are_merged_by_time_and_ties_by_source(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(0, output_length=1), record(2000, output_length=2))
    b = write(tmp_path, "b.jsonl", record(0, output_length=3), record(1000, output_length=4))
    workload = mix([(a, None), (b, None)])
    assert workload.output_tokens == [1, 3, 4, 2]
    assert [request.arrival_s for request in workload.requests] == [0, 0, 1, 2]
    assert [request.index for request in workload.requests] == [0, 1, 2, 3]
    assert workload.name == "a+b"
    assert mix([(b, None), (a, None)]).output_tokens == [3, 1, 4, 2]


def test_line_numbers_of_two_sources_are_told_apart(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(session_id="s"), record(2, session_id="own"))
    b = write(tmp_path, "b.jsonl", record(1, session_id="s"))
    workload = mix([(a, None), (b, None)])
    assert [request.request_id for request in workload.requests] == ["a/1", "b/1", "a/2"]
    assert [request.session_id for request in workload.requests] == ["a/s", "b/s", "a/own"]


def test_names_that_differ_are_kept(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(request_id="x", session_id="s"))
    b = write(tmp_path, "b.jsonl", record(1, request_id="y", session_id="t"), record(2))
    requests = mix([(a, None), (b, None)]).requests
    assert [request.request_id for request in requests] == ["x", "y", "2"]
    assert [request.session_id for request in requests] == ["s", "t", None]


def test_an_id_that_looks_labelled_does_not_clash(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(), record(request_id="b/1"))
    b = write(tmp_path, "b.jsonl", record(), record(request_id="a/1"))
    ids = [request.request_id for request in mix([(a, None), (b, None)]).requests]
    assert sorted(ids) == ["a/1", "a/b/1", "b/1", "b/a/1"]


def test_sources_of_one_name_get_labels_of_their_own(tmp_path: Path) -> None:
    one = write(tmp_path, "1/t.jsonl", record(namespace="n"), record())
    two = write(tmp_path, "2/t.jsonl", record())
    third = write(tmp_path, "3/t-2.jsonl", record())
    workload = mix([(one, None), (two, None), (third, None)])
    found = [request.namespace for request in workload.requests]
    assert found == ["t/n", "t", "t-2", "t-2-2"]


def test_prefixes_of_different_sources_never_match(tmp_path: Path) -> None:
    shared = {"input_length": 1024, "hash_ids": [1, 2]}
    path = write(tmp_path, "a.jsonl", record(**shared), record(1, **shared))
    assert trace_stats(mix([(path, None)]))["prefix_hit_rate"] == 0.5
    copy = write(tmp_path, "b.jsonl", record(**shared), record(1, **shared))
    stats = trace_stats(mix([(path, None), (copy, None)]))
    assert (stats["prefix_hit_rate"], stats["prefix_unique_blocks"]) == (0.5, 4)


def test_a_class_is_that_of_every_record(tmp_path: Path) -> None:
    own = {"class": "batch", "slo": {"ttft_ms": 250}}
    a = write(tmp_path, "a.jsonl", record(), record(1, **own), record(2, max_tokens=5000))
    requests = mix([(a, "chat")]).requests
    assert {request.slo_class for request in requests} == {PRESETS["chat"]}
    assert [request.slo for request in requests] == [
        PRESETS["chat"].slo,
        SLO(ttft_s=0.25, tpot_s=0.1),
        PRESETS["chat"].slo,
    ]
    assert [request.max_tokens for request in requests] == [1024, 1024, 5000]
    assert [request.slo_class.name for request in mix([(a, None)]).requests] == [
        "default",
        "batch",
        "default",
    ]


def test_a_class_of_a_file_and_its_limit(tmp_path: Path) -> None:
    classes = {"mine": SLOClass("mine", SLO(ttft_s=3.0), max_tokens=4)}
    a = write(tmp_path, "a.jsonl", record(**{"class": "mine"}), record())
    workload = mix([(a, "mine"), (a, None)], classes=classes)
    names = [(request.slo_class.name, request.max_tokens) for request in workload.requests]
    assert names == [("mine", 16), ("mine", 16), ("mine", 16), ("default", 1024)]
    assert workload.raised_max_tokens == 3


def test_stamps_are_kept_unless_starts_are_aligned(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(5000), record(7000))
    b = write(tmp_path, "b.jsonl", record(6000))
    sources = [(a, None), (b, None)]
    assert [request.arrival_s for request in mix(sources).requests] == [5, 6, 7]
    assert [request.arrival_s for request in mix(sources, align=True).requests] == [0, 0, 2]


def test_the_limit_is_that_of_the_mixture(tmp_path: Path) -> None:
    long = {"output_length": 2000}
    a = write(tmp_path, "a.jsonl", *(record(10 * i, **long) for i in range(5)))
    b = write(tmp_path, "b.jsonl", record(0, **long), record(5, output_length=1), record(100))
    workload = mix([(a, None), (b, None)], limit=4)
    assert [request.arrival_s for request in workload.requests] == [0, 0, 0.005, 0.01]
    assert (workload.raised_max_tokens, len(workload.output_tokens)) == (3, 4)
    with pytest.raises(ConfigError, match="limit: expected an integer >= 1"):
        mix([(a, None)], limit=0)


def test_options_go_to_every_source(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(0), record(0), record(8), record(9, input_length=0))
    b = write(tmp_path, "b.jsonl", record(0, extra=1))
    with pytest.raises(InputError, match=r"a\.jsonl:4: input_length"):
        mix([(a, None), (b, None)])
    workload = mix([(a, None), (b, None)], skip_bad=True, spread=True)
    assert [request.arrival_s for request in workload.requests] == [0, 0, 0.004, 0.008]
    assert workload.skipped == 1
    assert workload.warnings == [f"{b}: ignored unknown fields: extra"]


def test_native_and_back(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", record(0, session_id="s"), record(3, output_length=3000))
    b = write(tmp_path, "b.jsonl", record(1, session_id="s", delay_ms=3, namespace="n"))
    workload = mix([(a, "chat"), (b, "batch")])
    target = tmp_path / "mixed.jsonl"
    write_lines(native_bytes(workload), target)
    again = read_trace(target)
    assert again.requests == workload.requests
    assert again.raised_max_tokens == workload.raised_max_tokens == 1


def test_a_folder_of_sessions_is_a_source(tmp_path: Path) -> None:
    turn = {"t": 0, "type": "n", "in": 64, "out": 5, "hash_ids": [1]}
    (tmp_path / "agents").mkdir()
    text = json.dumps({"block_size": 64, "requests": [turn]})
    (tmp_path / "agents" / "a.json").write_text(text)
    request = mix([(str(tmp_path / "agents"), "agent")]).requests[0]
    assert (request.namespace, request.slo_class.name) == ("agents/a", "agent")


def test_standard_input_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path, "a.jsonl", record())
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps(record()).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    requests = mix([("-", None), (a, None)]).requests
    assert [request.namespace for request in requests] == ["stdin", "a"]
    with pytest.raises(ConfigError, match="sources: expected standard input"):
        mix([("-", None), ("-", "chat")])


def test_sources_and_classes_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sources: expected at least one trace, got none"):
        mix([])
    a = write(tmp_path, "a.jsonl", record())
    with pytest.raises(ConfigError, match=r"class: expected one of agent, .*, got 'chta'"):
        mix([(a, "chta")])


def test_arguments_become_sources(tmp_path: Path) -> None:
    odd = write(tmp_path, "odd:name.jsonl", record())
    args = ["a.jsonl", "a.jsonl:chat", "x:y/b:batch", "-", "-:default", odd, f"{odd}:code"]
    assert parse_sources(args, PRESETS) == [
        ("a.jsonl", None),
        ("a.jsonl", "chat"),
        ("x:y/b", "batch"),
        ("-", None),
        ("-", "default"),
        (odd, None),
        (odd, "code"),
    ]
    assert parse_sources(["a:mine"], {"mine": SLOClass("mine")}) == [("a", "mine")]


@pytest.mark.parametrize("arg", ["a.jsonl:chta", ":chat", "a:", "nowhere:x:y"])
def test_a_bad_argument_names_the_classes(arg: str) -> None:
    message = error_of(lambda: parse_sources([arg], PRESETS), ConfigError)
    assert message.startswith(f"{arg}: expected PATH or PATH:CLASS with a class of agent, batch, ")
