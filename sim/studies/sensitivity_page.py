"""What `superinfer-sim sensitivity` says: a table, and the conclusion in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_SURVIVES = {True: "yes", False: "NO", None: "does not apply"}


def sensitivity_table(outcome: Mapping[str, Any]) -> Table:
    """One row per part, the part that matters most first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    one, other = outcome["schedulers"]
    per_cent = f"{100 * outcome['by']:g} %"
    base = outcome["base"]
    title = f"{outcome['metric']}: {other} less {one}, as it is {_number(base['difference'])}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title))
    for name in ("Part", f"-{per_cent}", f"+{per_cent}", "Winner at", "Survives"):
        table.add_column(name)
    for entry in outcome["parts"]:
        ends = [entry[key] for key in ("faster", "slower")]
        winners = [end["winner"] or "tie" for end in ends]
        named = winners[0] if winners[0] == winners[1] else " / ".join(winners)
        table.add_row(
            entry["part"],
            *(_number(end["difference"]) for end in ends),
            Text(named),
            _SURVIVES[entry["survives"]],
        )
    table.caption = Text(conclusion(outcome))
    table.caption_justify = "left"
    return table


def conclusion(outcome: Mapping[str, Any]) -> str:
    """Whether the winner stays the winner, in one sentence."""
    winner = outcome["base"]["winner"]
    parts, per_cent = outcome["parts"], f"{100 * outcome['by']:g} %"
    if winner is None:
        return f"The two do not differ in {outcome['metric']}: nothing to survive."
    broken = [entry["part"] for entry in parts if entry["survives"] is False]
    if not broken:
        count = sum(entry["survives"] is True for entry in parts)
        idle = [entry["part"] for entry in parts if entry["survives"] is None]
        without = f" Nothing here depends on: {', '.join(idle)}." if idle else ""
        counted = f"{count} part{'s' * (count != 1)}"
        return f"{winner} is better under every error of {per_cent} of {counted}.{without}"
    return f"{winner} is better, but not under an error of {per_cent} of: {', '.join(broken)}."


# -- inside ---------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4g}"
