"""What a trace becomes: requests for the core, and apart from them the true answer lengths."""

from __future__ import annotations

from dataclasses import dataclass, field

from superinfer.request import Request


@dataclass(slots=True)
class Workload:
    """The requests of one trace in order of arrival, with the answer lengths an oracle needs."""

    requests: list[Request]
    """`Request.index` is the position in this list."""
    output_tokens: list[int]
    """True answer length of each request; the core never sees it."""
    name: str = ""
    raised_max_tokens: int = 0
    """Requests whose class limit was doubled until it covered the answer."""
    skipped: int = 0
    """Bad lines that were left out."""
    first_skipped: str = ""
    """What is wrong with the first of them, with its place."""
    warnings: list[str] = field(default_factory=list)

    @property
    def skipped_note(self) -> str:
        """How many bad lines were left out, and why the first; empty if none was."""
        return skipped_note(self.skipped, self.first_skipped)


def skipped_note(skipped: int, first: str) -> str:
    """So many bad lines were left out, and why the first; empty if none was."""
    if not skipped:
        return ""
    lines = "1 bad line" if skipped == 1 else f"{skipped:,} bad lines"
    lead = ": " if skipped == 1 else ", the first: "
    return f"skipped {lines}{lead + first if first else ''}"
