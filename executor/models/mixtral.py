"""Mixtral (arXiv 2401.04088): the Llama frame with a mixture of experts as MLP.

Every row goes to the experts with the highest routing probabilities, whose shares are scaled to sum
up to one. Ranks split the columns of every expert. The router keeps the model's type where other
matrices become int8: it is small, and which experts work on a row hangs on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from executor.kernels.ops import Ops
from executor.models.config import ModelConfig
from executor.models.layers import Loader, inputs, outputs
from executor.models.llama import Llama, load_llama
from executor.models.parallel import Group
from executor.models.weights import Piece, Weights
from superinfer.costs.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Matrices:
    """One matrix of every expert."""

    weight: Tensor
    """[experts, out, in]; int8 where there are scales."""
    scales: Tensor | None = None
    """Float32 [experts, out]."""

    @staticmethod
    def empty(loader: Loader, experts: int, outs: int, ins: int) -> Matrices:
        """Memory for them."""
        shape = (experts, outs, ins)
        if not loader.int8:
            return Matrices(loader.empty(shape))
        return Matrices(loader.empty(shape, torch.int8), loader.empty(shape[:2], torch.float32))

    def fill(self, weights: Weights, expert: int | slice, rows: slice, piece: Piece) -> None:
        """Write some rows of one expert; a slice if its piece is cut out of all experts'."""
        if self.scales is None:
            weights.fill(self.weight[expert, rows], piece)
        else:
            weights.fill_int8(self.weight[expert, rows], self.scales[expert, rows], piece)


@dataclass(frozen=True, slots=True)
class Experts:
    """A router and its experts."""

    router: Tensor
    """[experts, hidden]."""
    gate_up: Matrices
    """[experts, 2 * n, hidden]."""
    down: Matrices
    """[experts, hidden, n]."""
    per_token: int
    ops: Ops
    group: Group

    def __call__(self, x: Tensor) -> Tensor:
        odds = torch.nn.functional.linear(x, self.router).float().softmax(dim=-1)
        weights, chosen = odds.topk(self.per_token, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        matrices = (self.gate_up.weight, self.down.weight)
        return self.group.sum(self.ops.moe(x, weights, chosen, *matrices, self._scales()))

    def _scales(self) -> tuple[Tensor, Tensor] | None:
        up, down = self.gate_up.scales, self.down.scales
        return None if up is None or down is None else (up, down)


def load_mixtral(
    config: ModelConfig, loader: Loader, block_tokens: int, max_model_len: int
) -> Llama:
    """The model; experts are read by their names on disk, one by one or stacked."""
    return load_llama(config, loader, block_tokens, max_model_len, _load_experts)


def _load_experts(loader: Loader, config: ModelConfig, prefix: str) -> Experts:
    shape = config.shape
    stacked = loader.weights.has(prefix + "mlp.experts.gate_up_proj")
    folder = prefix + ("mlp." if stacked else "block_sparse_moe.")
    columns = loader.group.part(shape.intermediate)
    each, pieces = columns.stop - columns.start, _stacked if stacked else _single
    gate_up = Matrices.empty(loader, shape.experts, 2 * each, shape.hidden)
    down = Matrices.empty(loader, shape.experts, shape.hidden, each)
    for expert in range(shape.experts):
        at = slice(expert, expert + 1) if stacked else expert
        gate, up, out = pieces(shape, folder + "experts.", expert, columns)
        gate_up.fill(loader.weights, at, slice(each), gate)
        gate_up.fill(loader.weights, at, slice(each, None), up)
        down.fill(loader.weights, at, slice(None), out)
    router = loader.tensor(Piece(folder + "gate.weight", (shape.experts, shape.hidden)))
    return Experts(router, gate_up, down, shape.experts_per_token, loader.ops, loader.group)


def _single(shape: ModelShape, prefix: str, expert: int, columns: slice) -> Iterator[Piece]:
    """Gate, way up and way down of an expert that has tensors of its own: w1, w3 and w2."""
    wide, narrow = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    yield outputs(f"{prefix}{expert}.w1.weight", wide, columns)
    yield outputs(f"{prefix}{expert}.w3.weight", wide, columns)
    yield inputs(f"{prefix}{expert}.w2.weight", narrow, columns)


def _stacked(shape: ModelShape, prefix: str, expert: int, columns: slice) -> Iterator[Piece]:
    """The same where all experts are in one tensor, gates above the ways up."""
    n, mine, everything = shape.intermediate, slice(expert, expert + 1), slice(None)
    wide, narrow = (shape.experts, 2 * n, shape.hidden), (shape.experts, shape.hidden, n)
    for first in (0, n):
        rows = slice(first + columns.start, first + columns.stop)
        yield Piece(prefix + "gate_up_proj", wide, (mine, rows, everything))
    yield Piece(prefix + "down_proj", narrow, (mine, everything, columns))
