"""The layers that all models share, and how they are laid out on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.kernels.ops import Ops
from executor.models.parallel import Group
from executor.models.weights import Piece, Weights, quantise_rows

_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`, in the model's type or with int8 weights.

    With a `group` the inputs are split over its ranks, and so the products are added up.
    """

    weight: Tensor
    """[out, in]; int8 where there are scales."""
    ops: Ops
    scales: Tensor | None = None
    bias: Tensor | None = None
    group: Group | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.scales is None and self.group is None and self.bias is not None:
            return F.linear(x, self.weight, self.bias)
        y = self._product(x)
        if self.group is not None:
            y = self.group.sum(y)
        return y if self.bias is None else y + self.bias

    def _product(self, x: Tensor) -> Tensor:
        if self.scales is None:
            return self.ops.linear(x, self.weight)
        return self.ops.linear_int8(x, self.weight, self.scales)


@dataclass(frozen=True, slots=True)
class Loader:
    """Lays weights out on a device."""

    weights: Weights
    device: torch.device
    dtype: torch.dtype
    ops: Ops
    group: Group
    int8: bool = False
    int8_head: bool = False

    def tensor(self, piece: Piece) -> Tensor:
        """One tensor of the model's type."""
        out = self.empty(piece.wanted, self.dtype)
        self.weights.fill(out, piece)
        return out

    def norm(self, name: str, length: int) -> Tensor:
        """The weights of a norm; ones where they are random."""
        return self.tensor(Piece(name, (length,), mean=1.0, std=0.0))

    def fused(self, pieces: Sequence[Piece]) -> Tensor:
        """Pieces one below the other, in one tensor."""
        sizes = [piece.wanted[0] for piece in pieces]
        out = self.empty((sum(sizes), *pieces[0].wanted[1:]), self.dtype)
        for rows, piece in zip(out.split(sizes), pieces, strict=True):
            self.weights.fill(rows, piece)
        return out

    def linear(
        self, pieces: Sequence[Piece], biases: Sequence[Piece] = (), summed: bool = False
    ) -> Linear:
        """Matrices fused along their outputs; `summed` if the ranks split their inputs."""
        bias = self.fused(biases) if biases else None
        group = self.group if summed and self.group.size > 1 else None
        if not self.int8:
            return Linear(self.fused(pieces), self.ops, bias=bias, group=group)
        codes, scales = self._fused_int8(pieces)
        return Linear(codes, self.ops, scales, bias, group)

    def head(self, weight: Tensor) -> Linear:
        """A head of weights that are on the device already; in int8 it is a copy."""
        if not self.int8_head:
            return Linear(weight, self.ops)
        codes = torch.empty_like(weight, dtype=torch.int8)
        scales = self.empty((weight.shape[0],), torch.float32)
        quantise_rows(weight, codes, scales)
        return Linear(codes, self.ops, scales)

    def _fused_int8(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        sizes = [piece.wanted[0] for piece in pieces]
        codes = self.empty((sum(sizes), pieces[0].wanted[1]), torch.int8)
        scales = self.empty((sum(sizes),), torch.float32)
        for rows, row_scales, piece in zip(
            codes.split(sizes), scales.split(sizes), pieces, strict=True
        ):
            self.weights.fill_int8(rows, row_scales, piece)
        return codes, scales

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Memory on the device, of the model's type unless told."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)


Shape2: TypeAlias = tuple[int, int]


def outputs(name: str, shape: Shape2, rows: slice) -> Piece:
    """Some outputs of a matrix [out, in]."""
    return Piece(name, shape, (rows, _ALL))


def inputs(name: str, shape: Shape2, columns: slice) -> Piece:
    """Some inputs of a matrix [out, in]."""
    return Piece(name, shape, (_ALL, columns))


def bias(name: str, length: int, rows: slice = _ALL) -> Piece:
    """Some entries of a bias; zeros where it is random."""
    return Piece(name, (length,), (rows,), std=0.0)


def times(heads: slice, head_dim: int) -> slice:
    """The rows of some heads."""
    return slice(heads.start * head_dim, heads.stop * head_dim)


class Head:
    """The last projection, to logits of the whole vocabulary.

    Ranks split the vocabulary where it divides among them.
    """

    def __init__(self, linear: Linear, group: Group, split: bool) -> None:
        self._linear, self._group, self._split = linear, group, split

    def __call__(self, x: Tensor) -> Tensor:
        logits = self._linear(x)
        return self._group.join_columns(logits) if self._split else logits


def load_head(loader: Loader, embedding: Tensor, tied: bool) -> Head:
    """The embedding as a head where they are `tied`, else one of its own: `lm_head` everywhere."""
    group, (vocab, hidden) = loader.group, embedding.shape
    split = group.size > 1 and vocab % group.size == 0
    rows = group.part(vocab) if split else slice(0, vocab)
    if tied:
        return Head(loader.head(embedding[rows] if split else embedding), group, split)
    loader = replace(loader, int8=loader.int8_head)
    return Head(loader.linear([outputs("lm_head.weight", (vocab, hidden), rows)]), group, split)
