"""What marks are made of recorded figures of a device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")


from executor.validation.steps import DECODES, PROMPTS, StepGroup
from experiments.gpu_check.marks import MARKS, found_marks

ROOT = Path(__file__).parents[2]
RECORDED = json.loads(
    (ROOT / "experiments/results/h200-early/results.json").read_text(encoding="utf-8")
)


def test_marks_of_a_recorded_run() -> None:
    """Rows as they were measured; what that run has no figures of is named."""
    found = found_marks(RECORDED)
    rows = {(row["mark"], row["case"]): row for row in found["rows"]}
    decode = rows["decode step, B=1", "decode B=1 ctx=1024 kv=16"]
    assert 0.65 <= decode["value"] < 0.85 and decode["reached"] == "first"
    assert rows["70B int8, B=1", "decode B=1 ctx=1024 kv=16"]["reached"] == "first"
    slowed = next(row for row in found["rows"] if row["mark"] == "decode slowed by swaps")
    assert slowed["value"] < 0.05 and slowed["reached"] == "good"
    assert "attention against others over pages" in found["missing"]
    assert {mark.name for mark in MARKS} == {mark for mark, _ in rows} | set(found["missing"])


def test_marks_take_what_ran_well_alone() -> None:
    """A check that failed has no say, and one that is short is counted."""
    rows = [{"point": "decode B=1 ctx=1024 kv=16", "share_of_floor": 0.5}]
    short = {"floors": {"checks": {"decode": {"ok": True, "rows": rows}}}}
    assert found_marks(short)["short"] == 1
    failed = {"floors": {"checks": {"decode": {"ok": False, "rows": rows}}}}
    assert found_marks(failed)["points"] == 0


def test_peers_are_held_against_on_the_same_inputs() -> None:
    """Those that read pages as ours do, and torch's, which does not, apart."""
    checks = {
        "decode": {"ok": True, "rows": [{"B": 32, "ctx": 8192, "us": 100.0}]},
        "decode_peers": {
            "ok": True,
            "rows": [
                {"peer": "vLLM Triton", "B": 32, "ctx": 8192, "us": 150.0},
                {"peer": "vLLM Triton", "B": 1, "ctx": 1024, "us": 10.0},
                {"peer": "torch SDPA", "B": 32, "ctx": 8192, "us": 80.0},
                {"peer": "FlashInfer", "B": 32, "ctx": 8192, "error": "not importable"},
            ],
        },
        "prefill": {"ok": True, "rows": [{"chunk": 512, "context": 8192, "us": 1.0}]},
        "prefill_peers": {"ok": True, "rows": [{"kernel": "vLLM Triton", "chunk": 512, "us": 2.0}]},
    }
    rows = found_marks({"peers": {"checks": checks}})["rows"]
    assert [
        (row["mark"].split()[2], row["case"], row["value"], row["reached"]) for row in rows
    ] == [
        ("others", "decode B=32 ctx=8192 against vLLM Triton", 1.5, "good"),
        ("torch", "decode B=32 ctx=8192 against torch SDPA", 0.8, "short"),
    ]


def test_attention_alone_is_judged_where_it_is_long() -> None:
    """At 64k tokens and more."""
    names = [f"attention B={b} ctx={c} kv=8" for b in (1, 32, 128) for c in (1024, 8192)]
    rows = [{"point": name, "share_of_copy": 0.5} for name in names]
    found = found_marks({"floors": {"checks": {"attention": {"ok": True, "rows": rows}}}})
    cases = [row["case"] for row in found["rows"]]
    assert cases == [names[3], names[4], names[5]]


def test_host_time_of_runs_is_what_decode_steps_take_beyond_their_kernels() -> None:
    groups = [
        StepGroup(DECODES, "1 to 8", 10, 1.02, 1.1, kernels_s=1.0).row(),
        StepGroup(DECODES, "9 to 32", 10, 1.06, 1.1, kernels_s=1.0).row(),
        StepGroup(PROMPTS, "1 to 128", 1, 9.0, 1.0, kernels_s=1.0).row(),
    ]
    checks = {"m-vllm": {"steps": groups}, "m-rotating": {"ok": True}}
    (row,) = found_marks({"validate": {"checks": checks}})["rows"]
    assert row["case"] == "m-vllm" and row["value"] == pytest.approx(0.04)
    assert row["reached"] == "first"


def test_marks_of_two_machines_say_so() -> None:
    """Their shares do not compare."""
    parts = {name: {"checks": {"x": {"ok": True, "device": name}}} for name in ("H100", "H200")}
    assert found_marks(parts)["table"][-1].endswith("do not compare: H100, H200")
