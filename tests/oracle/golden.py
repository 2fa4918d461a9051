"""Golden traces: cases with the steps that the real scheduler took, as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

from oracle.cases import Case, Job, Settings, Step, Texts, random_case, random_offload_case

_TEXTS = Texts()


def _alone(index: int, prompt: int, output: int, **more: object) -> Job:
    """A request that shares nothing and stops at its limit."""
    words = [1000 * (index + 1) + place for place in range(-(-prompt // 16))]
    return Job(prompt, output, output, hash_ids=_TEXTS.ids(words), **more)  # type: ignore[arg-type]


def _shared(index: int, common: int, prompt: int, output: int, **more: object) -> Job:
    """A request whose first `common` blocks are those of everybody."""
    own = [1000 * (index + 1) + place for place in range(-(-prompt // 16) - common)]
    ids = _TEXTS.ids([*range(common), *own])
    return Job(prompt, output, output, hash_ids=ids, **more)  # type: ignore[arg-type]


_RARER = (40, 50, 56, 70, 78, 91, 94, 111)
"""Cases without chunked prefill or without prefix caching."""

_OFFLOADS = (1, 7, 11, 14, 23, 41, 45, 50, 59, 82)
"""Cases in which much is loaded back from the host."""

NAMED: dict[str, Case] = {
    "budget": Case(Settings(40), (_alone(0, 300, 4), _alone(1, 100, 4), _alone(2, 74, 4))),
    "shared": Case(
        Settings(20),
        (
            _shared(0, 4, 74, 3),
            _shared(1, 4, 74, 3, arrival_step=1),
            _alone(2, 280, 3, arrival_step=4),
            _shared(3, 4, 74, 3, arrival_step=8),
        ),
    ),
    "preempt_last": Case(Settings(14), tuple(_alone(i, 40, 60) for i in range(4))),
    "preempt_priority": Case(
        Settings(14, policy="priority"),
        tuple(_alone(i, 40, 60, priority=[1, 2, 0, 2][i]) for i in range(4)),
    ),
    "ahead": Case(
        Settings(14, async_scheduling=True), tuple(_alone(i, 40, 60 - i) for i in range(4))
    ),
    "threshold": Case(
        Settings(60, long_prefill_token_threshold=40, max_num_batched_tokens=64),
        (_alone(0, 200, 5), _alone(1, 90, 5), _alone(2, 20, 9)),
    ),
    **{f"random_{seed:03}": random_case(Random(seed)) for seed in (*range(24), *_RARER)},
    **{f"offload_{seed:03}": random_offload_case(Random(seed)) for seed in _OFFLOADS},
}


def write(path: Path, case: Case, steps: list[Step], source: dict[str, str]) -> None:
    """One file: a line for each request and each step."""
    table = case.to_json()
    lines = [
        '{"source": ' + json.dumps(source),
        '"settings": ' + json.dumps(table["settings"]),
        '"jobs": [\n' + ",\n".join(map(json.dumps, table["jobs"])) + "\n]",
        '"steps": [\n' + ",\n".join(json.dumps(_values(s)) for s in steps) + "\n]}",
    ]
    path.write_text(",\n".join(lines) + "\n", encoding="utf-8")


def _values(step: Step) -> list[object]:
    return [value for value in asdict(step).values() if value is not None]


def read(path: Path) -> tuple[Case, list[Step]]:
    """A case, and what the real scheduler did with it."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return Case.from_json(table), [Step(*values) for values in table["steps"]]
