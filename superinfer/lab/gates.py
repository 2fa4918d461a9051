"""Gates on a summary, such as `slo_attainment>=0.95`: what `--require` checks."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from superinfer.errors import ConfigError
from superinfer.lab.numbers import close_keys

AFTERWARDS = ("counters.", "load.", "run.")
"""Sections of a summary whose keys depend on what happened and on how requests were sent."""
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*(?P<key>[^<>=]+?)\s*(?P<op>>=|<=|==|>|<)\s*(?P<bound>[^<>=\s]+)\s*")


@dataclass(slots=True, frozen=True)
class Gate:
    """A bound on one number of a summary, named by a dotted key."""

    key: str
    op: str
    bound: float

    def __str__(self) -> str:
        return f"{self.key}{self.op}{self.bound:g}"

    def check(self, summary: Mapping[str, Any]) -> GateResult:
        """Compare the summary's value; one that is null does not pass."""
        value = look_up(summary, self.key)
        passed = value is not None and _COMPARE[self.op](value, self.bound)
        return GateResult(self, value, passed)


@dataclass(slots=True, frozen=True)
class GateResult:
    """A gate, the value that it met (`None` where the summary says null) and the verdict."""

    gate: Gate
    value: float | None
    passed: bool

    def __str__(self) -> str:
        found = "null" if self.value is None else f"{self.value:.6g}"
        return f"{'pass' if self.passed else 'FAIL'}: {self.gate} (found {found})"


def parse_gate(text: str) -> Gate:
    """Read `key op number`, where op is one of >=, <=, >, < and ==."""
    match = _FORM.fullmatch(text)
    try:
        bound = float(match["bound"]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or math.isnan(bound):
        raise ConfigError(f"--require {text!r}: expected a form like 'slo_attainment>=0.95'")
    if math.isinf(bound):
        raise ConfigError(f"--require {text!r}: expected a finite number, got {match['bound']}")
    return Gate(match["key"], match["op"], bound)


def check_gates(gates: Iterable[Gate | str], summary: Mapping[str, Any]) -> list[GateResult]:
    """Check every gate against a summary."""
    parsed = [parse_gate(gate) if isinstance(gate, str) else gate for gate in gates]
    return [gate.check(summary) for gate in parsed]


def check_keys(gates: Iterable[Gate], summary: Mapping[str, Any]) -> None:
    """ConfigError for a gate on a number that summaries like this one have no place for.

    What only the run itself can tell, of `AFTERWARDS`, is let through.
    """
    for gate in gates:
        if not gate.key.startswith(AFTERWARDS):
            look_up(summary, gate.key)


def look_up(summary: Mapping[str, Any], key: str) -> float | None:
    """The number under a dotted key; names of classes and tenants may contain dots themselves."""
    numbers = dict(_numbers(summary))
    if key not in numbers:
        hint = close_keys(key, numbers)
        raise ConfigError(f"--require: no number called {key!r} in the summary{hint}")
    return numbers[key]


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float | None]]:
    """Every number or null of a nested mapping, with its dotted key."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{name}", value
