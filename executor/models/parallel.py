"""Tensor parallelism: which part of each matrix a rank has, and the sums between ranks.

Query heads, KV heads and MLP columns are split evenly; where there are more ranks than KV heads,
neighbours hold the same one. Collectives are torch.distributed's, NCCL or gloo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superinfer.costs.shapes import ModelShape
from superinfer.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """The ranks that share one model; by default this process alone."""

    rank: int = 0
    size: int = 1
    handle: Any = None
    """A process group of torch.distributed; None: the default one."""

    def part(self, length: int) -> slice:
        """This rank's even share of `length`."""
        each = length // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def kv_part(self, kv_heads: int) -> slice:
        """KV heads of this rank."""
        if kv_heads >= self.size:
            return self.part(kv_heads)
        first = self.rank * kv_heads // self.size
        return slice(first, first + 1)

    def require(self, shape: ModelShape) -> None:
        """Raise ConfigError unless heads and MLP divide among the ranks."""
        shape.require_tp(self.size)
        larger, smaller = sorted((shape.kv_heads, self.size), reverse=True)
        for what, left in (
            ("KV heads", larger % smaller),
            ("MLP columns", shape.intermediate % self.size),
        ):
            if left:
                raise ConfigError(f"tp={self.size} does not fit the {what} of {shape.name}")

    def sum(self, x: Tensor) -> Tensor:
        """`x` added up over the ranks, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(x, group=self.handle)
        return x

    def join_columns(self, x: Tensor) -> Tensor:
        """The columns of all ranks, `x` [rows, columns] being those of this one."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x.contiguous(), group=self.handle)
        return torch.cat(parts, dim=1)


def world() -> Group:
    """All processes of torch.distributed, or this one alone where it is not started."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Group()
    return Group(torch.distributed.get_rank(), torch.distributed.get_world_size())
