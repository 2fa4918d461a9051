"""What the runs say together: who wins, and what the gain is that was simulated and measured."""

from __future__ import annotations

from experiments.gpu_check.checks import Check
from experiments.gpu_check.scenarios.validation import SUMMARIES

CHECKS: dict[str, Check] = SUMMARIES
