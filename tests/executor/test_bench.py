"""What `bench` measures beside the floors: attention alone, peers, and how they are shown."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from executor_runs import call

from executor.bench import engines
from executor.bench import session as bench
from executor.bench.attention import sdpa_decode
from executor.bench.engines import Load
from executor.bench.paged_peers import VLLM_MODULES
from executor.bench.report import HANDICAPS, bench_lines
from executor.bench.session import PARTS, TINY_POINTS, Points, Session
from executor.calibration.cases import RandomArena
from executor.calibration.timing import Deadline
from experiments.gpu_check.checks import Context
from experiments.gpu_check.small import tiny_config
from superinfer.errors import SuperInferError

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


def test_one_arena_at_a_time(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of one precision may take all the memory that the one before had."""
    made: list[weakref.ref[RandomArena]] = []

    def arena(*given: Any) -> RandomArena:
        assert not any(old() for old in made)
        found = RandomArena(*given)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(bench, "RandomArena", arena)
    for part in ("decode", "prefill", "attention"):
        assert list(PARTS[part](opened, POINTS, Deadline(60)))
    assert len(made) == 3 + 1 + 4


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


@pytest.mark.parametrize(
    "error", [AttributeError("has no attribute 'plan'"), KeyError("k"), OSError()]
)
def test_whatever_a_peer_raises_is_its_line(
    opened: Session, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def peer(*_sizes: object) -> None:
        raise error

    monkeypatch.setattr(bench, "PEERS", {"torch SDPA": peer})
    monkeypatch.setattr(bench, "PAGED_DECODES", {})
    monkeypatch.setattr(bench, "PAGED_PREFILLS", {})
    rows = list(PARTS["peers"](opened, POINTS, Deadline(60)))
    assert rows[0]["skipped"].startswith(f"{type(error).__name__}: ")
    assert rows[1]["seconds"] > 0


def test_an_engine_of_another_version_is_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_load: Load) -> float:
        raise KeyError("page_size")

    monkeypatch.setattr(engines, "ours", lambda _load: 2.0)
    monkeypatch.setattr(engines, "transformers_batching", raises)
    rows = list(engines.engines(Load("tiny", "cpu", "float32")))
    assert rows[0]["seconds"] == 2.0 and rows[1]["skipped"] == "KeyError: 'page_size'"


def test_lack_of_memory_is_a_line_after_the_rows_so_far(
    opened: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "open", lambda *_arguments: opened)
    sizes = ("--contexts", "65", "--bits", "16", "--prompts", "64", "--batches", 10**9)
    part = ("--only", "prefill,decode", "--device", "cpu", "--model", "tiny")
    code, shown, errors = call(monkeypatch, capsys, "bench", *part, *sizes)
    assert code == 1 and "prefill 64 " in shown
    said = errors.splitlines()[-1]
    assert said.startswith("error: out of memory while measuring decode: no ")
    assert said.endswith("left: lower --batches, --contexts or --prompts")


@pytest.mark.parametrize("part", PARTS)
def test_lengths_are_those_of_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """A length above the context is a mistake where something is measured at it, and else not."""

    def opens(*_arguments: object) -> None:
        raise SuperInferError("opened")

    monkeypatch.setattr(Session, "open", opens)
    for option, users in (
        ("--contexts", {"decode", "attention", "peers"}),
        ("--prompts", {"prefill", "attention", "peers"}),
    ):
        sizes = {"--contexts": 64, "--prompts": 64, option: 20_000}
        given = [each for pair in sizes.items() for each in pair]
        options = ("--only", part, "--device", "cpu", "--model", "tiny", *given)
        _, _, errors = call(monkeypatch, capsys, "bench", *options)
        fault = f"error: {option}: tiny has a context of 10240 tokens\n"
        assert errors == (fault if part in users else "error: opened\n")


def test_nothing_begins_after_the_deadline(opened: Session) -> None:
    for part in ("attention", "peers"):
        assert not list(PARTS[part](opened, POINTS, Deadline(-1.0)))


def test_handicaps_are_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
    for name in ("torch SDPA", "FlexAttention", "vLLM's Triton attention", "FlashInfer"):
        assert f"| {name} |" in page
