"""What the schedulers of a run predicted step times with, and what they learned of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from superinfer.costs import StepCost
from superinfer.costs.base import CostModel
from superinfer.costs.learned import WARM_UP, Correction, LearnedCost

KINDS: Final = {"decodes": "of decodes alone", "prefills": "with prefill"}
"""Kinds of steps, in words."""


def beliefs_of(believed: Sequence[CostModel]) -> dict[str, Any]:
    """The `beliefs` of a `trust` block, from what each replica predicts with: the `profile`, and
    under `learned`, for each replica that learned, the factor by which steps of each kind took
    longer than that says; None where too few were measured.
    """
    learned = [cost for cost in believed if isinstance(cost, LearnedCost)]
    first = learned[0].base if learned else believed[0]
    return {
        "profile": first.origin.profile if isinstance(first, StepCost) else None,
        "learned": [
            {"decodes": _factor(cost.decodes), "prefills": _factor(cost.prefills)}
            for cost in learned
        ],
    }


def beliefs_notes(beliefs: Mapping[str, Any]) -> list[str]:
    """A `beliefs` block in a line for the user."""
    said = f"schedulers predicted step times with {beliefs['profile']}"
    if not beliefs["learned"]:
        return [said]
    parts = [f"{KINDS[kind]} took {range_}" for kind, range_ in _ranges(beliefs["learned"])]
    if not parts:
        return [f"{said}, and too few were measured to learn from"]
    return [f"{said}, and learned: steps {', steps '.join(parts)}"]


# -- inside ---------------------------------------------------------------------------------------


def _factor(correction: Correction) -> float | None:
    return correction.factor if correction.measured >= WARM_UP else None


def _ranges(learned: Sequence[Mapping[str, float | None]]) -> Iterator[tuple[str, str]]:
    """Each kind of steps of which something was learned, and its factors over the replicas."""
    for kind in KINDS:
        factors = [each[kind] for each in learned if each[kind] is not None]
        known = sorted({f"{factor:.2f}" for factor in factors})
        if known:
            several = f"{known[0]} to {known[-1]}" if len(known) > 1 else known[0]
            yield kind, f"{several} times as long"
