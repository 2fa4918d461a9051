"""How long the steps of the decode batch took lately."""

from __future__ import annotations

from typing import Final

from superinfer.draft import Draft

REMEMBERED: Final = 64
"""Steps that the mean looks back on: as long as a few prompts, so that it follows a burst."""


class RecentSteps:
    """A running mean, prompts that were computed beside the decodes included."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        """Seconds per step; 0 before the first."""
        self._from_s = 0.0
        self._from_step: int | None = None
        """Since when the next steps count; None while nobody decodes."""

    def look(self, draft: Draft) -> None:
        """A new decision: take in the steps that have ended since the last one."""
        batch = draft.batch
        known, since = batch.known_steps, self._from_step
        if since is not None and known > since:
            steps = known - since
            took_s = (batch.end_s[-1] - self._from_s) / steps
            self.mean_s += (1.0 - (1.0 - 1.0 / REMEMBERED) ** steps) * (took_s - self.mean_s)
        self._from_s, self._from_step = draft.now, known if batch.size else None
