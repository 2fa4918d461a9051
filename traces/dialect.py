"""What a trace leaves open, and who reads it has to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from superinfer.errors import InputError
from traces.formats.agentic import SESSION_GAP_S
from traces.formats.native import MOONCAKE_BLOCK_TOKENS

TIME_UNITS_MS: Final[Mapping[str, float]] = {"ms": 1.0, "s": 1e3}
"""Milliseconds in the units that stamps may count in."""


@dataclass(slots=True, frozen=True)
class Dialect:
    """How records are to be taken that do not say it themselves."""

    hash_block_tokens: int = MOONCAKE_BLOCK_TOKENS
    """Of JSON lines: tokens per hash id of a record without `hash_block_size`."""
    time_unit: str = "ms"
    """Of JSON lines: what `timestamp` counts in (`TIME_UNITS_MS`); all else stays in ms."""
    session_gap_s: float = SESSION_GAP_S
    """Recorded sessions begin so long after one another."""

    def require_usual(self, file: str) -> None:
        """Raise InputError where the format of `file` says what would be said of JSON lines."""
        if replace(self, session_gap_s=SESSION_GAP_S) != USUAL:
            expected = "expected native or Mooncake's records, which alone leave them open"
            raise InputError(f"hash_block_size, time_unit: {expected}", file=file)


USUAL: Final = Dialect()
