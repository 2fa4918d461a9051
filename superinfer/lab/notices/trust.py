"""The `trust` block of a summary in words: how far a run left what its profile was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Trust = Mapping[str, Any]
OPTIMISTIC = "step times are nominal figures, and no real step is as fast"
WORTH_A_WARNING = 0.001
"""Share of the step time below which nobody is warned: `trust` and the report have it all the
same.
"""
ASSUMED = "trust.assumed in summary.json"


def warnings_of(run: Mapping[str, Any], trust: Trust, where: str = ASSUMED) -> list[str]:
    """All that there is to say of a run's step times. `run`: its section of settings; `where`: what
    says which shapes are assumed.
    """
    said = (range_warning(trust), assumed_warning(trust, where), nominal_warning(run, trust))
    return [warning for warning in said if warning]


def range_warning(trust: Trust) -> str:
    """One line on what a run left, up to where it was measured and how far the run went.

    Empty for a run that stayed inside, or nearly so (`WORTH_A_WARNING`).
    """
    rows = left_rows(trust)
    if not rows or trust["extrapolated_share"] < WORTH_A_WARNING:
        return ""
    several = len(rows) > 1
    parts = (
        f"{what} measured up to {limit}, went to {largest}" + (f" ({share})" if several else "")
        for what, limit, largest, share in rows
    )
    outside = percent(trust["extrapolated_share"])
    return f"{outside} of the step time is extrapolated from {trust['profile']}: {'; '.join(parts)}"


def assumed_warning(trust: Trust, where: str = ASSUMED) -> str:
    """One line on kernels of a shape that nobody measured, and where it says what stands in for
    them; empty where there are none.
    """
    assumed = trust.get("assumed") or {}
    if not assumed:
        return ""
    return (
        f"{trust['profile']} assumes {', '.join(assumed)}: shapes outside what was measured "
        f"({where})"
    )


def nominal(trust: Trust) -> bool:
    """Whether step times are those of nominal figures, not of a profile."""
    return "roofline" in str(trust["profile"])


def nominal_warning(run: Mapping[str, Any], trust: Trust) -> str:
    """One line where there is no profile for what a run asked for; empty where there is one, or
    where nominal figures are what it asked for. `run`: its section of settings.
    """
    if run["costs"] != "auto" or not nominal(trust):
        return ""
    return f"no profile of {run['model']} on {run['device']} at tp {run['tp']}: {OPTIMISTIC}"


def left_rows(trust: Trust) -> list[tuple[str, str, str, str]]:
    """Quantity, where measuring ended, how far the run went, and the share of the step time."""
    return [
        (left["what"], f"{left['limit']:,.0f}", f"{left['largest']:,.0f}", percent(left["share"]))
        for left in trust.get("left_range") or ()
    ]


def percent(share: float) -> str:
    """A share in per cent; never 0 for one that is not."""
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.3g} %"
