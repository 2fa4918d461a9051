"""What a memory policy has to say of a run: in the summary, in the report and on standard error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Cli

from superinfer.memory.lru import LruMemory

NOTE = "fell back to lru at request 7: hit rate 0.100, lru 0.200 <"


@dataclass
class Talkative(LruMemory):
    """`lru` that has something to say."""

    @property
    def notes(self) -> list[str]:
        return [NOTE]

    @property
    def counters(self) -> dict[str, float]:
        return {"pins": 3.0}


@pytest.mark.parametrize("memory", ["lru", f"{__name__}:Talkative"])
def test_notes_reach_the_reader(memory: str, work_folder: Path, cli: Cli) -> None:
    Path("t.jsonl").write_text('{"timestamp":0,"input_length":50,"output_length":5}\n')
    answer = cli("run", "t.jsonl", "--memory", memory, "--out", "r", "--prefix-caching")
    assert not answer.code
    talks = memory != "lru"
    summary = json.loads(Path("r/summary.json").read_text())
    assert summary["notes"] == ([NOTE] if talks else [])
    assert summary["counters"].get("pins") == (3.0 if talks else None)
    assert (f"note: {NOTE}\n" in answer.err) == talks
    page = Path("r/report.html").read_text()
    assert (NOTE.replace("<", "&lt;") in page) == talks
