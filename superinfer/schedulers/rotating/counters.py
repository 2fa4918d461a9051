"""How often each mechanism acted; goes into the summary."""

from __future__ import annotations


class Counters(dict[str, float]):
    """Numbers by name, from nothing."""

    def add(self, name: str, by: float = 1) -> None:
        """Count one more, or `by` more."""
        self[name] = self.get(name, 0) + by
