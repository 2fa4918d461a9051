"""The tables of `docs/scheduler.md`, from `python -m experiments.scenarios`."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.scenarios.arms import PRIORITY_SWAP, QOSERVE, ROTATING, WITH_MEMORY, label
from experiments.scenarios.measures import ATTAINMENT, BATCH, P99_TTFT, PEAK_KV
from experiments.scenarios.verdicts import points, relative
from experiments.tables.parts import Lines, Numbers, number, recorded, spread, table

PAGE = "docs/scheduler.md"
FILE = "simulated/scenarios/summary.json"
SHOWN = (
    "vllm-tuned",
    "vllm-v1-tuned",
    "sglang-tuned",
    "tensorrt-llm-tuned",
    "edf-tuned",
    QOSERVE,
    PRIORITY_SWAP,
    ROTATING,
    *WITH_MEMORY,
)
"""The arms that a short table has; `results.md` has all."""
SAME = ["no such run", "no such run"]
"""Where a variant gives the very numbers of another one, the study leaves it out."""


def arms(found: Numbers, part: str) -> Lines:
    """Chat, batch and memory of the arms in one setting."""
    head = ["", "chat requests in time (%)", "chat P99 TTFT (ms)", "batch tokens/s"]
    head.append("peak KV (GiB per GPU)")
    numbers = found["parts"][part]["arms"]
    rows = ([label(arm), *_cells(numbers[arm])] for arm in SHOWN if arm in numbers)
    return table(head, rows)


def mechanisms(found: Numbers) -> Lines:
    """What is lost without one mechanism at a time, memory-bound and compute-bound."""
    head = ["without", "chat, memory-bound", "batch tokens/s", "chat, compute-bound"]
    return table([*head, "batch tokens/s"], _mechanisms(found))


TABLES = {
    "scenario m-pcie": recorded(FILE, lambda found: arms(found, "m-pcie")),
    "scenario c": recorded(FILE, lambda found: arms(found, "c")),
    "mechanisms": recorded(FILE, mechanisms),
}

# -- inside ---------------------------------------------------------------------------------------


def _cells(numbers: Numbers) -> list[str]:
    return [
        spread(numbers[ATTAINMENT], 1, 100),
        spread(numbers[P99_TTFT]),
        spread(numbers[BATCH], 1),
        number(numbers[PEAK_KV]["mean"], 2),
    ]


def _mechanisms(found: Numbers) -> Iterator[list[str]]:
    settings = [found["parts"][part]["ablation"]["differences"] for part in ("m-pcie", "c")]
    for mechanism in settings[0]:
        cells = []
        for differences in settings:
            each = differences.get(mechanism)
            cells += [str(points(each[ATTAINMENT])), str(relative(each[BATCH]))] if each else SAME
        yield [mechanism.removesuffix(" off"), *cells]
