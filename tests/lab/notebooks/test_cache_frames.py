"""Cache studies as frames and pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from superinfer.costs import build_cost
from superinfer.errors import ConfigError, InputError
from superinfer.lab import load_cache_study, plot_cache_study
from superinfer.lab.studies.cache_study import cache_study, study_json
from superinfer.request import Request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """What `cache-study --json` prints about three prompts that take turns."""
    requests = [
        Request(
            f"r{i}",
            float(i),
            prompt_tokens=128,
            max_tokens=8,
            index=i,
            hash_ids=(2 * (i % 3), 2 * (i % 3) + 1),
            hash_block_tokens=64,
        )
        for i in range(30)
    ]
    study = cache_study(requests, 0.0, build_cost("llama-3.1-8b", "a100-80g", costs="roofline"))
    outcomes = study.outcomes(["lru", "lfu", "belady"], [2, 4, 8])
    path = tmp_path / "study.json"
    path.write_text(json.dumps(study_json(study, "turns/x.jsonl", outcomes)))
    return path


def test_a_row_per_policy_and_capacity(path: Path) -> None:
    frame = load_cache_study(path)
    assert list(frame.columns) == [
        "policy", "capacity_blocks", "hit_rate", "gap_closed", "prefill_seconds_saved"
    ]  # fmt: skip
    assert len(frame) == 9
    assert frame.attrs["block_tokens"] == 64
    rows = frame.set_index(["policy", "capacity_blocks"])
    assert rows.loc[("lru", 8), "hit_rate"] == pytest.approx(0.9)  # all but the first three
    assert rows.loc[("lru", 4), "hit_rate"] < rows.loc[("belady", 4), "hit_rate"]
    assert rows.loc[("belady", 4), "gap_closed"] == 1
    assert rows["gap_closed"].isna().loc[("lru", 8)]  # nothing between the ends


def test_a_line_per_policy(path: Path) -> None:
    frame = load_cache_study(path)
    axes = plot_cache_study(frame)
    shown = {line.get_label(): line for line in axes.lines}
    assert list(shown) == ["lru", "lfu", "belady"]
    x, y = shown["belady"].get_data()
    assert list(x) == [2, 4, 8]
    assert list(y) == frame.loc[frame["policy"] == "belady", "hit_rate"].tolist()
    assert "64 tokens" in axes.get_xlabel()
    assert "x.jsonl" in axes.get_title()
    assert "seconds" in plot_cache_study(frame, "prefill_seconds_saved").get_ylabel()


def test_other_columns_and_other_files(path: Path) -> None:
    with pytest.raises(ConfigError, match="column: expected one of hit_rate, gap_closed"):
        plot_cache_study(load_cache_study(path), "hits")
    with pytest.raises(InputError, match="cannot read: No such file"):
        load_cache_study(path.with_name("nowhere.json"))
    broken = ("", "{}", "[]", '{"results": [{"policy": "lru"}]}', '{"results": 3}', "[" * 100_000)
    for text in broken:
        path.write_text(text)
        with pytest.raises(InputError, match="expected what `cache-study --json` prints"):
            load_cache_study(path)


def test_what_is_printed_may_come_through_a_pipe(path: Path) -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "wb") as pipe:
        pipe.write(path.read_bytes())
        pipe.close()
        found = load_cache_study(f"/dev/fd/{read_end}")
    assert found.equals(load_cache_study(path))
