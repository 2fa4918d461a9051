"""Which experts a batch of tokens reaches, and what they take, when a router prefers some of them.

With skew s the expert of rank r (from 1) has the weight `r**-s`. A token picks k different experts
of E, so an expert is among them with probability `q_r = min(1, c * r**-s)`, c such that all q add
up to k: nobody is picked twice, and what the most popular ones cannot take goes to the others.
Skew 0 is the even routing, `q = k / E`. Tokens pick independently, so n of them reach
`sum(1 - (1 - q_r)**n)` experts. A layer's experts are computed one beside the other without
overlap: `sum(max(n * q_r * flops / F, (1 - (1 - q_r)**n) * bytes / B))`. Every expert is split over
all GPUs, so an uneven batch leaves no GPU idle: skew saves weights that a small batch need not read
and costs where popular experts are bound by compute while others still wait for their weights.
"""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=64)
def picks(experts: int, per_token: int, skew: float) -> tuple[float, ...]:
    """Chance of each expert to be among a token's, most popular first; sums to `per_token`."""
    weights = [rank**-skew for rank in range(1, experts + 1)]
    for sure in range(per_token + 1):
        rest = weights[sure:]
        if not rest:
            break
        share = (per_token - sure) / sum(rest)
        if share * rest[0] <= 1.0:
            return (*([1.0] * sure), *(share * weight for weight in rest))
    return (1.0,) * experts


def reached(experts: int, per_token: int, skew: float, tokens: float) -> float:
    """How many experts so many tokens reach on average."""
    return math.fsum(1.0 - (1.0 - pick) ** tokens for pick in picks(experts, per_token, skew))


def experts_s(chances: tuple[float, ...], tokens: float, token_s: float, weights_s: float) -> float:
    """Seconds of a layer's experts: `token_s` to compute a token in one, `weights_s` to read it."""
    return math.fsum(
        max(tokens * pick * token_s, (1.0 - (1.0 - pick) ** tokens) * weights_s) for pick in chances
    )
