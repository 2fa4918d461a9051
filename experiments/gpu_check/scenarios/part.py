"""The checks of part `scenarios`: M and C, scaled to the card, and a slice of a real trace."""

from __future__ import annotations

from experiments.gpu_check.checks import Check
from experiments.gpu_check.scenarios.run import checks_of

CHECKS: dict[str, Check] = checks_of("m", "real", "c")
