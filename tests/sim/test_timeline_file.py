"""`--timeline`: a track per request, and copies of the size that the summary counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.commands import RunOptions, run_and_write
from sim.workload import load_workload
from superinfer.lab.config import load_config

TRACE = "".join(
    json.dumps({"timestamp": 10 * i, "input_length": 100 + 31 * i, "output_length": 60 + i}) + "\n"
    for i in range(12)
)
SETTINGS = ("run.kv_blocks=64", "scheduler.preemption=swap")
REQUESTS, DEVICE, LINKS = 1, 2, 3


def written(
    folder: Path, settings: tuple[str, ...] = SETTINGS
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of the timeline and the summary of a run, by default of one that swaps."""
    (folder / "t.jsonl").write_text(TRACE)
    config = load_config(None, settings, trace=str(folder / "t.jsonl"), scheduler="vllm")
    options = RunOptions(plots=False, timeline=True)
    summary = run_and_write(config, load_workload(config), folder / "r", options)
    text = (folder / "r" / "timeline.json").read_text(encoding="ascii")
    return json.loads(text)["traceEvents"], summary


def test_requests_steps_and_links_have_tracks(tmp_path: Path) -> None:
    events, summary = written(tmp_path)
    tracks = [(e["pid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert sum(pid == REQUESTS for pid, _ in tracks) == summary["submitted"] == 12
    assert (DEVICE, "steps") in tracks
    for way in ("host to device", "device to host"):
        assert (LINKS, f"{way} (the step waits)") in tracks
    slices = [e for e in events if e["ph"] == "X"]
    assert sum(e["pid"] == DEVICE for e in slices) == summary["steps"]
    names = [e["name"] for e in slices if e["pid"] == REQUESTS]
    assert names.count("moving out") == names.count("moving in") == summary["rotations"] > 0


def test_copies_carry_the_bytes_that_the_summary_counts(tmp_path: Path) -> None:
    events, summary = written(tmp_path)
    moved = [e for e in events if e["pid"] == LINKS and e["ph"] == "X"]
    size = summary["run"]["block_bytes"]
    assert all(e["args"]["bytes"] == e["args"]["blocks"] * size for e in moved)
    for track, key in ((1, "h2d_bytes"), (2, "d2h_bytes")):
        assert sum(e["args"]["bytes"] for e in moved if e["tid"] == track) == summary[key] > 0


def test_requests_without_a_track_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("superinfer.lab.timelines.timeline.MAX_REQUESTS", 5)
    written(tmp_path)
    assert capsys.readouterr().err.endswith("timeline.json shows the first 5 of 12 requests\n")


def test_of_a_cluster_so_many_of_each_replica_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("superinfer.lab.timelines.timeline.MAX_REQUESTS", 6)
    written(tmp_path, ("run.replicas=3", "run.router=round_robin"))
    words = "timeline.json shows 6 of 12 requests: the first 2 of each replica\n"
    assert capsys.readouterr().err.endswith(words)
