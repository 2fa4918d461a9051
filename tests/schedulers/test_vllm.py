"""vLLM v0.6.0: the worked schedules, iteration by iteration."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, make_engine, request

from superinfer.schedulers.vllm import VllmScheduler

Step = tuple[str, str, int]


def schedule(
    jobs: dict[str, tuple[int, int]],
    arrivals: dict[str, int] | None = None,
    *,
    blocks: int = 8,
    engine: dict[str, Any] | None = None,
    **settings: Any,
) -> list[str]:
    """One line per iteration: prefills, decodes, preemptions and the blocks in use.

    `jobs` maps a name to (prompt, outputs); `arrivals` to the iteration before which it comes.
    """
    lines: list[str] = []
    late = arrivals or {}
    order = sorted(jobs, key=lambda name: late.get(name, 1))
    requests = [
        request(i, jobs[name][0], 0, (late.get(name, 1) - 1) - (0.5 if name in late else 0), name)
        for i, name in enumerate(order)
    ]
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("chunked", False)
    core = make_engine(VllmScheduler(**settings), blocks, host_blocks=64, **(engine or {}))

    def note(_: Any, plan: Any) -> None:
        names = lambda seqs: "".join(sorted(seq.request.request_id for seq in seqs))  # noqa: E731
        parts = [f"{c.sequence.request.request_id}{c.tokens}" for c in plan.chunks]
        parts += [
            f"-{names([c.sequence])}" for c in plan.changes if c.kind in ("preempt", "swap_out")
        ]
        parts += [f"+{names([c.sequence])}" for c in plan.changes if c.kind == "swap_in"]
        line = " ".join(parts + ([names(core.batch.members)] if plan.decodes else []))
        for _step in range(plan.steps):
            lines.append(f"{line} used {core.pool.referenced}")

    driver = BlockingDriver(core, requests, [jobs[name][1] for name in order], note)
    # Slices are unrolled step by step so that the lines can be read as iterations.
    core_plan = core.plan

    def one_step(now: float) -> Any:
        plan = core_plan(now)
        if plan is not None:
            plan.steps = 1
        return plan

    core.plan = one_step  # type: ignore[method-assign]
    driver.run()
    return lines


def test_v1_recompute() -> None:
    jobs = {"A": (8, 6), "B": (7, 6), "C": (4, 3)}
    assert schedule(jobs, max_num_batched_tokens=16) == [
        "A8 B7 used 4",
        "C4 used 5",
        "ABC used 7",
        "-C AB used 6",
        "C6 used 8",
        "AB used 6",
        "AB used 6",
        "AB used 7",
    ]


def test_v1_swap() -> None:
    jobs = {"A": (8, 6), "B": (7, 6), "C": (4, 3)}
    assert schedule(jobs, max_num_batched_tokens=16, preemption="swap") == [
        "A8 B7 used 4",
        "C4 used 5",
        "ABC used 7",
        "-C AB used 6",
        "AB used 6",
        "AB used 6",
        "AB used 7",
        "+C C used 2",
    ]


def test_v2_head_of_line() -> None:
    jobs = {"A": (8, 3), "B": (24, 2), "C": (4, 2)}
    assert schedule(jobs, max_num_batched_tokens=32) == [
        "A8 B24 used 8",
        "-B A used 3",
        "A used 3",
        "B25 C4 used 8",
        "C used 2",
    ]


def test_v3_chunked() -> None:
    jobs = {"A": (4, 5), "B": (14, 3)}
    assert schedule(jobs, {"B": 2}, max_num_batched_tokens=8, chunked=True) == [
        "A4 used 1",
        "B7 A used 6",
        "B7 A used 6",
        "AB used 6",
        "AB used 6",
    ]


def test_v3_not_chunked() -> None:
    jobs = {"A": (4, 5), "B": (14, 3)}
    assert schedule(jobs, {"B": 2}, max_num_batched_tokens=16) == [
        "A4 used 1",
        "B14 used 5",
        "AB used 6",
        "AB used 6",
        "A used 2",
        "A used 2",
    ]
