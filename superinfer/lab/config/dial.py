"""The three-way dial: one setting for how cost, speed and quality are traded against each other.

The weights are normalised to a sum of 1, and each sets things of its own, so that turning one of
them up never turns back what it stands for:

* quality q: the KV precision. Classes that demand nothing may go down to 16 bits (q >= 1/2), 8 bits
  (q >= 1/5) or 4; what a class demands stays. Caches lose bits once live requests take 2 q of the
  memory (8 bits), or 2 q + 0.15 (4 bits).
* speed s: the margin before targets. Steps take at most 1 - 0.1 s of the tightest pace, and a first
  token is urgent 0.6 s seconds before its latest start.
* cost c: how full the machine is. The memory that admission plans with is 0.7 + 0.6 c of what there
  is (over-commit; above 1, what does not fit is rotated), and a step takes up to 1,024 * 4^c tokens
  of 128 * 4^c requests (batch depth).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from superinfer.errors import ConfigError

WEIGHTS: Final = ("cost", "speed", "quality")
MEMORY: Final = "slo_aware"
"""The memory policy that a dial asks for, unless another one is chosen."""
TILE_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class Dial:
    """Weights that sum to 1."""

    cost: float
    speed: float
    quality: float

    @property
    def floor_bits(self) -> int:
        """Fewest bits of KV cache for classes that demand nothing."""
        if self.quality >= 0.5:
            return 16
        return 8 if self.quality >= 0.2 else 4

    def settings(self, section: str) -> dict[str, Any]:
        """What it sets in `[scheduler]` or `[memory]`."""
        if section == "memory":
            at = 2 * self.quality
            return {"shrink_8_at": at, "shrink_4_at": at + 0.15}
        depth = 4.0**self.cost
        return {
            "pace_margin": 1.0 - 0.1 * self.speed,
            "promotion_margin_s": 0.6 * self.speed,
            "memory_share": 0.7 + 0.6 * self.cost,
            "max_num_batched_tokens": TILE_TOKENS * round(1024 * depth / TILE_TOKENS),
            "max_num_seqs": round(128 * depth),
        }


def dial_of(weights: Mapping[str, float]) -> Dial | None:
    """The dial of a `run.dial` table; None for an empty one. Weights left out are 0."""
    if not weights:
        return None
    values = [weights.get(name, 0.0) for name in WEIGHTS]
    known = set(weights) <= set(WEIGHTS)
    if not (known and all(0 <= value <= 1 for value in values) and sum(values) > 0):
        expected = "cost, speed and quality, each from 0 to 1 and not all 0"
        raise ConfigError(f"run.dial: expected {expected}, got {dict(weights)}")
    return Dial(*(value / math.fsum(values) for value in values))


def parse_dial(text: str) -> dict[str, float]:
    """The table that `cost=0.2,speed=0.5,quality=0.3` stands for."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            known = name in weights
            weights[name] = float(value)
        except ValueError:
            expected = "such as cost=0.2,speed=0.5,quality=0.3"
            raise ConfigError(f"--dial: expected weights {expected}, got {text!r}") from None
        if known:
            raise ConfigError(f"--dial: expected {name} once, got {text!r}")
    dial_of(weights)
    return weights
