"""Each claim beside what was measured. No verdict is written by hand.

A claim holds if the measured value meets it and so does the whole 95 % interval; it holds in the
mean only if the value meets it and the interval reaches beyond; else it does not hold. An arm is
better if the interval of the difference lies above zero, and not worse unless all of it lies below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.scenarios.arms import (
    CHUNKED,
    EDF,
    PREFILL_FIRST,
    ROTATING,
    SGLANG,
    TENSORRT_LLM,
    VLLM_V1,
    WITH_MEMORY,
    label,
)
from experiments.scenarios.measures import ATTAINMENT, BATCH, MEAN_E2E, P99_TTFT, PEAK_KV
from experiments.tables.parts import Numbers

HOLDS, IN_THE_MEAN, FAILS = "holds", "holds in the mean only", "does not hold"

Parts = Mapping[str, Mapping[str, Any]]


@dataclass(slots=True, frozen=True)
class Measured:
    """A value with its 95 % interval, if there is one, and how it is written."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = "%"
    digits: int = 1
    signed: bool = True

    def __str__(self) -> str:
        sign, digits = "+" if self.signed else "", self.digits
        text = f"{self.value:{sign}.{digits}f} {self.unit}".rstrip()
        if self.low is None or self.high is None:
            return f"{text} (no interval)"
        return f"{text} [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"

    @property
    def above_zero(self) -> bool:
        """Whether all of the interval is."""
        return self.low is not None and self.low > 0

    @property
    def not_worse(self) -> bool:
        """For a difference of which more is better: whether the interval reaches zero."""
        return (self.value if self.high is None else self.high) >= 0


@dataclass(slots=True, frozen=True)
class Verdict:
    """A row of the table."""

    part: str
    claim: str
    measured: str
    outcome: str


def at_most(measured: Measured, bound: float) -> str:
    """Outcome of a claim that a value is not above a bound."""
    return _outcome(measured.value <= bound, measured.high is not None and measured.high <= bound)


def at_least(measured: Measured, bound: float) -> str:
    """Outcome of a claim that a value is not below a bound."""
    return _outcome(measured.value >= bound, measured.low is not None and measured.low >= bound)


def verdicts(parts: Parts) -> list[Verdict]:
    """All claims about the parts that are there, in the order of scenarios."""
    rows: list[Verdict] = []
    for name, part in parts.items():
        if name == "no-slo":
            rows += _without_slo(name, part)
        elif name == "wrong-slo":
            rows += _wrong_slo(name, part)
        elif "differences" not in part:
            rows.append(Verdict(name, "a load to compare at", part["star"]["said"], FAILS))
        elif name.startswith("article"):
            rows += _against_vllm(name, part)
            rows += [row for ours in _with_memory(part) for row in _of_ours(name, part, ours)]
        elif name.startswith("m-"):
            rows += [_beats(name, part, rival) for rival in _rivals(part)]
            rows += [_beats_all(name, part, ours) for ours in _with_memory(part)]
        else:
            rows += [
                _not_worse_than_best(name, part, ours) for ours in (ROTATING, *_with_memory(part))
            ]
    return rows


def relative(found: Numbers) -> Measured:
    """A relative difference in per cent."""
    return _hundredths(found, ("relative", "relative_low", "relative_high"), "%")


def points(found: Numbers) -> Measured:
    """A difference of shares in points."""
    return _hundredths(found, ("difference", "low", "high"), "points")


def _hundredths(found: Numbers, keys: Sequence[str], unit: str) -> Measured:
    value, low, high = (_per_cent(found[key]) for key in keys)
    return Measured(float("nan") if value is None else value, low, high, unit)


# -- claims ---------------------------------------------------------------------------------------

_ARTICLE = ("article", -40.0, 96.0, -4.0, -33.0)
_OURS = ("ours", -60.0, 98.0, -1.0, -40.0)


def _against_vllm(name: str, part: Numbers) -> list[Verdict]:
    """P99 TTFT, attainment, batch throughput and peak KV, against vLLM's better mode."""
    return [row for claims in (_ARTICLE, _OURS) for row in _four(name, part, ROTATING, claims)]


def _of_ours(name: str, part: Numbers, ours: str) -> list[Verdict]:
    """Our own claims, of an arm with the memory manager."""
    return _four(name, part, ours, (label(ours), *_OURS[1:]))


def _four(
    name: str, part: Numbers, ours: str, claims: tuple[str, float, float, float, float]
) -> list[Verdict]:
    arms, found = part["arms"], part["differences"][part["star"]["reference"]][ours]
    share = arms[ours][ATTAINMENT]
    kept = Measured(
        100 * share["mean"], _per_cent(share["low"]), _per_cent(share["high"]), signed=False
    )
    ttft, batch, peak = (relative(found[key]) for key in (P99_TTFT, BATCH, PEAK_KV))
    whose, p99, attained, lost, memory = claims
    return [
        Verdict(name, f"{whose}: chat P99 TTFT {p99:+.0f} %", str(ttft), at_most(ttft, p99)),
        Verdict(
            name,
            f"{whose}: chat attainment at least {attained:.0f} %",
            str(kept),
            at_least(kept, attained),
        ),
        Verdict(
            name,
            f"{whose}: batch tokens/s no less than {lost:+.0f} %",
            str(batch),
            at_least(batch, lost),
        ),
        Verdict(name, f"{whose}: peak KV {memory:+.0f} %", str(peak), at_most(peak, memory)),
    ]


_UNTUNED = (CHUNKED, PREFILL_FIRST, VLLM_V1, SGLANG, TENSORRT_LLM, EDF)
"""Arms of which there is a tuned one."""


def _rivals(part: Numbers) -> Sequence[str]:
    return [name for name in part["arms"] if name not in (*_UNTUNED, *WITH_MEMORY, ROTATING)]


def _with_memory(part: Numbers) -> Sequence[str]:
    return [name for name in WITH_MEMORY if name in part.get("with_memory_over", {})]


def _beats_all(name: str, part: Numbers, ours: str) -> Verdict:
    """Better than every rival at one of the two, not worse at the other; says against whom not."""
    lost = []
    for rival in _rivals(part):
        chat, batch = _over(part, rival, ours)
        if not _wins(chat, batch):
            lost.append(f"{label(rival)} (chat {chat}, batch {batch})")
    claim = (
        f"honest: {label(ours)} beats every rival on chat attainment or batch tokens/s, the other "
        "not worse"
    )
    said = f"all but {'; '.join(lost)}" if lost else f"all {len(_rivals(part))}"
    return Verdict(name, claim, said, FAILS if lost else HOLDS)


def _wins(chat: Measured, batch: Measured) -> bool:
    return (chat.above_zero and batch.not_worse) or (batch.above_zero and chat.not_worse)


def _beats(name: str, part: Numbers, rival: str) -> Verdict:
    """Better at one of chat attainment and batch throughput, not worse at the other."""
    chat, batch = _over(part, rival)
    claim = (
        f"honest: beats {label(rival)} on chat attainment or batch tokens/s, the other not worse"
    )
    outcome = HOLDS if _wins(chat, batch) else FAILS
    return Verdict(name, claim, f"chat {chat}, batch {batch}", outcome)


def _not_worse_than_best(name: str, part: Numbers, ours: str) -> Verdict:
    """Not worse than the rival with the highest chat attainment, at either."""
    rivals = [rival for rival in part["arms"] if rival not in (*WITH_MEMORY, ROTATING)]
    best = max(rivals, key=lambda rival: part["arms"][rival][ATTAINMENT]["mean"] or 0.0)
    chat, batch = _over(part, best, ours)
    holds = chat.not_worse and batch.not_worse
    whose = "" if ours == ROTATING else f"{label(ours)} "
    claim = (
        f"honest: {whose}not worse than {label(best)}, the best at chat attainment, nor at its "
        "batch tokens/s"
    )
    return Verdict(name, claim, f"chat {chat}, batch {batch}", HOLDS if holds else FAILS)


def _over(part: Numbers, rival: str, ours: str = ROTATING) -> tuple[Measured, Measured]:
    over = part["rotating_over"] if ours == ROTATING else part["with_memory_over"][ours]
    found = over[rival]
    return points(found[ATTAINMENT]), relative(found[BATCH])


def _without_slo(name: str, part: Numbers) -> list[Verdict]:
    rows = []
    for trace, found in part["traces"].items():
        change = relative(found["rotating_over_fcfs"][MEAN_E2E])
        reaches_zero = (change.value if change.low is None else change.low) <= 0
        rows.append(
            Verdict(
                name,
                f"no targets, {trace}: mean E2E not worse than that of fcfs",
                str(change),
                HOLDS if reaches_zero else FAILS,
            )
        )
    return rows


def _wrong_slo(name: str, part: Numbers) -> list[Verdict]:
    rows = []
    for scale, found in part["differences"].items():
        change = points(found[ATTAINMENT])
        claim = f"one tenant's targets {scale}: the others lose less than 2 points of attainment"
        rows.append(Verdict(name, claim, str(change), _costs_less_than_2(change)))
    return rows


def _costs_less_than_2(change: Measured) -> str:
    surely = change.low is not None and change.low > -2.0
    return _outcome(change.value > -2.0, surely)


def _outcome(value_meets: bool, interval_meets: bool) -> str:
    if not value_meets:
        return FAILS
    return HOLDS if interval_meets else IN_THE_MEAN


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share
