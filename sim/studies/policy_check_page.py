"""What `check-policy` prints: a table, or JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sim.studies.policy_check import Finding, place
from superinfer.lab.config import Config

if TYPE_CHECKING:
    from rich.table import Table

_NUMBER: Final = re.compile(r"(?<![\w:.])\d+(?:[.,]\d+)*(?:e[+-]\d+)?")
"""Not a part of a name, and not the line of a file."""
_CONDITION = ("KV memory", "Lag", "Prefix cache", "Cut off")
_COUNTS = ("Requests", "Finished", "Rejected", "Failed", "Preemptions")


def findings_table(found: Sequence[Finding]) -> Table:
    """A row for each condition; of several replicas also how many requests each took."""
    from rich import box
    from rich.table import Table

    replicas = any(finding.sent_to for finding in found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _CONDITION:
        table.add_column(name)
    for name in (*_COUNTS, *(("By replica",) if replicas else ())):
        table.add_column(name, justify="right")
    table.add_column("")
    for finding in found:
        sent_to = ", ".join(str(count) for count in finding.sent_to or ())
        shown = (*_counts(finding), *((sent_to,) if replicas else ()))
        table.add_row(*_conditions(finding), *shown, _verdict(finding))
    return table


def findings_json(config: Config, found: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints; router and replicas where there are several of these."""
    run = config.run
    names: dict[str, Any] = {"scheduler": run.scheduler, "memory": run.memory}
    if run.replicas > 1:
        names |= {"router": run.router, "replicas": run.replicas}
    return {**names, "conditions": [asdict(finding) for finding in found]}


def told_once(found: Sequence[Finding], what: str) -> list[str]:
    """Each `fault`, or each that is `unfit`, once: with the first condition that shows it, and how
    many others do. Those that differ in numbers alone, such as times, are told as the first one.
    """
    alike: dict[str, list[Finding]] = {}
    for finding in found:
        if line := getattr(finding, what):
            alike.setdefault(_without_numbers(line), []).append(finding)
    return [f"{_places(each, what)}: {getattr(each[0], what)}" for each in alike.values()]


# -- inside ---------------------------------------------------------------------------------------


def _without_numbers(line: str) -> str:
    return _NUMBER.sub("0", line)


def _places(findings: Sequence[Finding], what: str) -> str:
    first, *others = findings
    if not others:
        return place(first.condition)
    like = "the like " if len({getattr(each, what) for each in findings}) > 1 else ""
    plural = "s" if len(others) > 1 else ""
    return f"{place(first.condition)}, and {like}under {len(others)} other condition{plural}"


def _conditions(finding: Finding) -> tuple[str, ...]:
    condition = finding.condition
    cut = f"{condition.duration_s:g} s" if condition.duration_s else "no"
    caching = "yes" if condition.prefix_caching else "no"
    return condition.memory, str(condition.lag), caching, cut


def _counts(finding: Finding) -> tuple[str, ...]:
    ends = finding.outcomes or {}
    ended = (ends.get(end, 0) for end in ("finished", "rejected", "failed"))
    return tuple(str(count) for count in (finding.requests, *ended, finding.preemptions))


def _verdict(finding: Finding) -> str:
    return "FAULT" if finding.fault else "not possible" if finding.unfit else "ok"
