"""T5's relative position bias (arXiv 1910.10683, section 2.1).

Distances fall into buckets: one for each small distance, then wider and wider ones up to
`max_distance`, behind which all are one. An encoder has half of them for each direction, a decoder
all of them for what came before. As all far distances share a bucket, a table over
-max_distance to max_distance says everything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bias_by_distance(weight: Tensor, max_distance: int, both_ways: bool) -> Tensor:
    """Float32 [heads, 2 * max_distance + 1] from `weight` [buckets, heads].

    Entry `max_distance + d` is for a key `d` positions behind the query (negative: before it).
    """
    distances = torch.arange(-max_distance, max_distance + 1, device=weight.device)
    found = buckets(distances, weight.shape[0], max_distance, both_ways)
    return weight.float()[found].T.contiguous()


def buckets(distances: Tensor, count: int, max_distance: int, both_ways: bool) -> Tensor:
    """The bucket of each distance key - query, int64."""
    first = torch.zeros_like(distances)
    if both_ways:
        count //= 2
        first = (distances > 0) * count
        steps = distances.abs()
    else:
        steps = (-distances).clamp(min=0)
    exact = count // 2
    wide = (steps.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (wide * (count - exact)).long()).clamp(max=count - 1)
    return first + torch.where(steps < exact, steps, far)


def square_bias(table: Tensor, length: int) -> Tensor:
    """The bias of every query and key of a sequence: [heads, length, length]."""
    reach = table.shape[1] // 2
    places = torch.arange(length, device=table.device)
    distances = (places[None, :] - places[:, None]).clamp(-reach, reach)
    return table[:, distances + reach]
