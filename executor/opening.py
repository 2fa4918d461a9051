"""How long it takes to open a session, by what is done."""

from __future__ import annotations

import time

import torch


class Stages:
    """Seconds of one stage after the other, a GPU's work that was queued in it included."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        """By stage, in their order."""
        self._device = device
        self._begun_s = time.perf_counter()

    def end(self, stage: str) -> None:
        """What was done since the stage before is this one."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now_s = time.perf_counter()
        self.seconds[stage] = now_s - self._begun_s
        self._begun_s = now_s
