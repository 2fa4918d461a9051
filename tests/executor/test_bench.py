"""What `bench` measures beside the floors: attention alone, peers, and how they are shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from executor.bench import session as bench
from executor.bench.attention import sdpa_decode
from executor.bench.paged_peers import VLLM_MODULES
from executor.bench.report import HANDICAPS, bench_lines
from executor.bench.session import PARTS, TINY_POINTS, Points, Session
from executor.calibration.timing import Deadline
from experiments.gpu_check.checks import Context
from experiments.gpu_check.floors import tiny_config

POINTS = Points(TINY_POINTS[:3], (64,))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A tiny model on this CPU."""
    context = Context("cpu", 60.0, {}, tmp_path_factory.mktemp("bench"))
    return Session.open(tiny_config(context), torch.device("cpu"), torch.float32)


def test_attention_of_decodes_and_of_prompts(opened: Session) -> None:
    rows = list(PARTS["attention"](opened, POINTS, Deadline(60)))
    names = [row["point"] for row in rows]
    assert names == [*(f"attention B=1 ctx=65 kv={bits}" for bits in (16, 8, 4)), names[-1]]
    assert names[-1] == "attention prefill 64"
    assert all(row["share_of_copy"] > 0 for row in rows[:3]) and rows[3]["share_of_gemm"] > 0
    lines = list(bench_lines(opened.header(), {"attention": rows}))
    assert len(lines) == 6 and "of a copy" in lines[2] and lines[5].endswith("of a product")


def test_a_peer_that_is_not_there_says_so(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the 16-bit points and the prompts; torch's own runs."""
    monkeypatch.setattr(bench, "PEERS", {"torch SDPA": sdpa_decode})
    for name in ("flashinfer", *VLLM_MODULES):
        monkeypatch.setitem(sys.modules, name, None)
    rows = {row["point"]: row for row in PARTS["peers"](opened, POINTS, Deadline(60))}
    peers = ("torch SDPA", "vLLM Triton", "FlashInfer")
    expected = {f"{name} {point}" for name in peers for point in ("B=1 ctx=65 kv=16", "prefill 64")}
    assert set(rows) == expected
    for point, row in rows.items():
        if point.startswith("torch"):
            assert row["seconds"] > 0
        else:
            assert row["skipped"].startswith("not importable: ")
    lines = list(bench_lines(opened.header(), {"peers": list(rows.values())}))
    assert sum("not importable" in line for line in lines) == 4
    assert all(any(line.startswith(f"  {name}: ") for line in lines) for name in HANDICAPS)


def test_nothing_begins_after_the_deadline(opened: Session) -> None:
    for part in ("attention", "peers"):
        assert not list(PARTS[part](opened, POINTS, Deadline(-1.0)))


def test_handicaps_are_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
    for name in ("torch SDPA", "FlexAttention", "vLLM's Triton attention", "FlashInfer"):
        assert f"| {name} |" in page
