"""What was measured, beside the marks: how much of what the device allows has to be reached.

Made of the results that are there, on any machine. The marks are the project's own, first and good;
shares are of floors and ceilings measured in the same run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.validation.steps import DECODES
from experiments.gpu_check.checks import Check, Context, Result

Data = dict[str, Any]
Found = Iterator[tuple[str, float]]
LONG_ENOUGH = r"B=(32 ctx=8192|128 ctx=(1024|8192))"
"""Points of at least 64k tokens: below, a kernel is too short to be held against bandwidth."""
HOST_ROWS = 32
"""Sequences for which host time is given."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A measure, and what it has to reach; `most` where less is better."""

    name: str
    find: Callable[[Data], Found]
    first: float
    good: float
    most: bool = False

    def rows(self, data: Data) -> Iterator[dict[str, Any]]:
        """What was measured, each with what it reaches."""
        for case, value in self.find(data):
            reached = [self.reached(value, mark) for mark in (self.first, self.good)]
            word = "good" if all(reached) else "first" if reached[0] else "short"
            row = {"mark": self.name, "case": case, "value": value}
            yield row | {"first": self.first, "good": self.good, "reached": word}

    def reached(self, value: float, mark: float) -> bool:
        """True if it is met."""
        return value <= mark if self.most else value >= mark


def check(data: Data, part: str, name: str) -> Data:
    """A check's result; empty where it did not run well."""
    found: Data = data.get(part, {}).get("checks", {}).get(name, {})
    return found if found.get("ok") else {}


def points(part: str, name: str, pattern: str, field: str) -> Callable[[Data], Found]:
    """Rows of a check whose point is as in `pattern`."""

    def find(data: Data) -> Found:
        for row in check(data, part, name).get("rows", []):
            if field in row and re.search(pattern, row.get("point", "")):
                yield row["point"], float(row[field])

    return find


def swap_shares(data: Data) -> Found:
    """Of one large copy's rate, blocks of 16 bits."""
    for row in check(data, "floors", "swap").get("rows", []):
        if row.get("block") == "16":
            yield f"16-bit blocks, {row['direction']}", float(row["share_of_large"])


def host_ms(data: Data) -> Found:
    """Beside the kernels, per step."""
    found = check(data, "calibrate-8b", "calibrate")
    if found:
        total_us = found["host_step_us"] + HOST_ROWS * found["host_per_sequence_us"]
        yield f"{HOST_ROWS} sequences", total_us / 1000


def beyond_kernels(data: Data) -> Found:
    """What decode steps of runs take longer than their kernels by the profile, as a share. With lag
    1 it is host time that is not hidden, what lies between steps, and how far the profile is off.
    """
    for run, found in data.get("validate", {}).get("checks", {}).items():
        groups = [group for group in found.get("steps", []) if group["kind"] == DECODES]
        if kernels_s := sum(group["kernels_s"] for group in groups):
            yield run, sum(group["measured_s"] for group in groups) / kernels_s - 1


def against(*peers: str) -> Callable[[Data], Found]:
    """Each of these peers' time over ours, on the same inputs in the same run."""

    def find(data: Data) -> Found:
        for ours, theirs, key in (
            ("decode", "decode_peers", ("B", "ctx")),
            ("prefill", "prefill_peers", ("chunk",)),
        ):
            mine = {_place(row, key): row["us"] for row in _timed(data, ours)}
            for row in _timed(data, theirs):
                name, place = str(row.get("peer", row.get("kernel"))), _place(row, key)
                if name in peers and place in mine:
                    yield f"{ours} {place} against {name}", row["us"] / mine[place]

    return find


def _timed(data: Data, name: str) -> list[Data]:
    """Rows of a check of `peers` that have a time, of whole prompts and of decodes."""
    rows: list[Data] = check(data, "peers", name).get("rows", [])
    return [row for row in rows if "us" in row and not row.get("context")]


def _place(row: Data, key: tuple[str, ...]) -> str:
    return " ".join(f"{name}={row[name]}" for name in key)


MARKS = (
    Mark(
        "decode step, B=1", points("floors", "decode", r"B=1 .*kv=16", "share_of_floor"), 0.65, 0.85
    ),
    Mark(
        "decode step, B=32 and 128",
        points("floors", "decode", r"B=(32|128) ", "share_of_floor"),
        0.60,
        0.80,
    ),
    *(
        Mark(
            f"decode attention alone, {bits} bits",
            points("floors", "attention", rf"{LONG_ENOUGH} kv={bits}$", "share_of_copy"),
            first,
            good,
        )
        for bits, first, good in ((16, 0.75, 0.90), (8, 0.60, 0.80), (4, 0.45, 0.70))
    ),
    Mark("prefill", points("floors", "prefill", "prefill", "share_of_floor"), 0.50, 0.70),
    Mark("70B int8, B=1", points("70b", "decode", "B=1 .*kv=16", "share_of_floor"), 0.55, 0.75),
    Mark("swap, share of the link", swap_shares, 0.80, 0.92),
    Mark("host time of a step (ms)", host_ms, 1.0, 0.0, most=True),
    Mark("decode steps of runs beyond their kernels", beyond_kernels, 0.05, 0.03, most=True),
    Mark(
        "decode slowed by swaps",
        points("floors", "swap", "beside swaps", "slowdown"),
        0.10,
        0.05,
        most=True,
    ),
    Mark("attention against others over pages", against("vLLM Triton", "FlashInfer"), 1.0, 1.0),
    Mark("attention against torch over dense tensors", against("torch SDPA"), 1.0, 1.0),
)


def marks(context: Context) -> Result:
    """A line for each mark and point; those without a measurement are named."""
    path: Path = context.options["out"] / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no part has left a result yet")
    return found_marks(json.loads(path.read_text(encoding="utf-8")))


def found_marks(data: Data) -> Result:
    """The same of given results."""
    rows = [row for mark in MARKS for row in mark.rows(data)]
    there = {row["mark"] for row in rows}
    missing = [mark.name for mark in MARKS if mark.name not in there]
    table = [
        f"   {row['reached']:5} {row['mark']}: {row['value']:.3g} "
        f"({row['first']:g}, then {row['good']:g}) {row['case']}"
        for row in rows
    ]
    table += [f"   not measured: {name}" for name in missing]
    if len(used := devices(data)) > 1:
        table.append(f"   of different machines, which do not compare: {', '.join(used)}")
    short = sum(row["reached"] == "short" for row in rows)
    return {"points": len(rows), "short": short, "missing": missing, "rows": rows, "table": table}


def devices(data: Data) -> list[str]:
    """The GPUs that results name."""
    found = [check for part in data.values() for check in part["checks"].values()]
    return sorted({result["device"] for result in found if "device" in result})


CHECKS: dict[str, Check] = {"marks": marks}
