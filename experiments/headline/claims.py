"""What the article claims, and what the 70B part says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from experiments.headline.measures import ATTAINMENT, BATCH, E2E, PEAK, TTFT
from experiments.headline.settings import OURS, OURS_KV4, VLLM, VLLM_TUNED
from experiments.studykit.measures import Measure
from experiments.tables.parts import Numbers

REACHED, MEAN_ONLY, NOT_REACHED = "yes", "in the mean only", "no"


@dataclass(slots=True, frozen=True)
class Claim:
    """A figure of the article."""

    words: str
    measure: Measure
    bound: float
    """A share of the reference's value; of attainment the value itself."""
    lower_is_better: bool


CLAIMS = (
    Claim("P99 latency -40 %", E2E, -0.40, True),
    Claim("P99 latency -40 %", TTFT, -0.40, True),
    Claim("SLO attainment 78 -> 96 %", ATTAINMENT, 0.96, False),
    Claim("batch throughput -4 %", BATCH, -0.04, False),
    Claim("peak KV -33 %", PEAK, -0.33, True),
)
"""Of a news item of 2026 without an artefact. For which workload and degree of tensor parallelism
they hold, and whether the latency is to the first or to the last token, is not known here."""
ARMS = (OURS, OURS_KV4)
AGAINST = (VLLM, VLLM_TUNED)


@dataclass(slots=True, frozen=True)
class Finding:
    """A claim against one arm of ours and one way of running vLLM."""

    claim: Claim
    arm: str
    rival: str
    before: float | None
    after: float | None
    change: Numbers
    """Of what is compared with the bound: mean, low, high."""
    reached: str


def findings(part: Numbers) -> Iterator[Finding]:
    """Every claim against every arm of ours, against vLLM v0.6.0 as it comes and tuned."""
    for arm in ARMS:
        over = part["ours_over"] if arm == OURS else part["variants"].get(arm)
        for rival in AGAINST if over else ():
            for claim in CLAIMS:
                yield _finding(part, claim, arm, rival, over[rival])


def _finding(part: Numbers, claim: Claim, arm: str, rival: str, over: Numbers) -> Finding:
    key = claim.measure.key
    before, after = (part["arms"][name][key] for name in (rival, arm))
    found = over[key]
    if claim.measure == ATTAINMENT:
        change = {end: after[end] for end in ("mean", "low", "high")}
    else:
        names = {"mean": "relative", "low": "relative_low", "high": "relative_high"}
        change = {end: found[name] for end, name in names.items()}
    reached = _reached(claim, change)
    return Finding(claim, arm, rival, before["mean"], after["mean"], change, reached)


def _reached(claim: Claim, change: Numbers) -> str:
    def meets(value: float | None) -> bool:
        if value is None:
            return False
        return value <= claim.bound if claim.lower_is_better else value >= claim.bound

    if not meets(change["mean"]):
        return NOT_REACHED
    return REACHED if meets(change["high" if claim.lower_is_better else "low"]) else MEAN_ONLY
