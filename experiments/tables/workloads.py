"""The tables of `docs/workloads.md`: what specifications draw, and what scenarios leave over."""

from __future__ import annotations

from experiments.tables.parts import Lines, Numbers, recorded, table

PAGE = "docs/workloads.md"
ABOUT = {
    "chat": "conversations under four system prompts",
    "agent": "tool calls, long prompts that are mostly repeated",
    "code": "completion while somebody types",
    "batch": "jobs of 38 to 68 documents at once",
    "video": "frames of 8 tokens at 5 frames/s",
    "mixed": "chat, code and batch; the bundled trace is its seed 0",
    "scenario-m": "chat above a backlog of 3,000 batch requests",
}
SCENARIO = "scenario-m"


def bundled(found: Numbers) -> Lines:
    """What each specification draws."""
    head = ["bundled", "what", "requests", "requests/s", "prompt tokens", "answer tokens"]
    rows = (_row(name, each) for name, each in found["specifications"].items())
    return table([*head, "prefix share"], rows, 2)


def blocks(found: Numbers) -> Lines:
    """Batch output tokens/s of the scenarios, and what twice the blocks add."""
    head = ["batch tokens/s", "M", "twice the blocks", "C", "twice the blocks"]
    rows = (
        [name, *(cell for each in arm.values() for cell in _added(each))]
        for name, arm in found["arms"].items()
    )
    return table(head, rows)


TABLES = {
    "bundled": recorded("simulated/workloads/summary.json", bundled),
    "scenario blocks": recorded("simulated/scenario-blocks/summary.json", blocks),
}

# -- inside ---------------------------------------------------------------------------------------


def _row(name: str, found: Numbers) -> list[str]:
    scenario = name == SCENARIO
    return [
        f"`{name}`, `scenario-c`" if scenario else f"`{name}`",
        ABOUT[name],
        f"{found['requests']:,.0f} ± {found['requests_deviation']:,.0f}",
        f"chat: {found['chat_per_s']:.2f}" if scenario else f"{found['rate_per_s']:.2f}",
        _lengths(found["prompt_tokens"]),
        _lengths(found["output_tokens"]),
        f"{found['prefix_hit_rate']:.3f}",
    ]


def _lengths(found: Numbers) -> str:
    return " / ".join(f"{found[each]:,.0f}" for each in ("mean", "p50", "p99"))


def _added(found: Numbers) -> tuple[str, str]:
    plain, doubled = found["batch_tokens_per_s"], found["with_twice_the_blocks"]
    return f"{plain:,.0f}", f"{100 * (doubled / plain - 1):+.1f} %"
