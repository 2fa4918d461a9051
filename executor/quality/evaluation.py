"""What fewer bits for keys and values cost in quality, measured on a real model.

Text goes through the model block by block, as chunks of a prompt (or token by token, as decodes).
Each block is attended to with 16 bits while it is the newest and then rewritten with the bits of
the form that is measured, by the operations with which the executor demotes blocks. So all keys but
those of the tail block are of the form, which is the worst that memory pressure can bring.

Predictions are compared with those of the same model with 16 bits everywhere: change of perplexity,
Kullback-Leibler divergence and how often the likeliest token is the same. Only tokens behind the
first block count, since those have keys of the form.

Large models have channels of K far larger than the others; small ones lack them. `with_outliers`
puts them in without changing the function of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executor.calibration.cases import Table
from executor.kernels.ops import ops_for
from executor.kv.layout import PRECISIONS, KVLayout
from executor.models.base import Model
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from executor.steps.step import StepInputs

ALIGNMENT = 256
"""Bytes; blocks begin at multiples."""
ITEM_BLOCKS = 8


@dataclass(frozen=True)
class Form:
    """The bits of each block of a sequence once it is full.

    Block i gets `pattern[i % len(pattern)]` when `after` newer blocks are full. With `through_8` a
    block first gets 8 bits and then 4, as one does that is demoted twice. `naive` 4 bits have one
    scale and minimum for each token and head, for K as for V, and are there for comparison alone.
    """

    name: str
    pattern: tuple[int, ...]
    after: int = 0
    through_8: bool = False
    naive: bool = False


EXACT = Form("16 bits", (16,))
NAIVE = Form("4 bits, K per token", (4,), naive=True)
FORMS = (
    Form("8 bits", (8,)),
    Form("4 bits", (4,)),
    Form("4 bits, behind 4 blocks of 16", (4,), after=4),
    Form("4 bits, after 8", (4,), through_8=True),
    Form("half 16, half 8 bits", (16, 8)),
    Form("half 16, half 4 bits", (16, 4)),
    Form("half 8, half 4 bits", (8, 4)),
    NAIVE,
)
"""What is measured; the first two are the figures of a profile."""


class Walk:
    """Windows of text going through a model, their keys and values in blocks of one form."""

    def __init__(self, model: Model, form: Form, windows: Tensor, by_decode: bool = False) -> None:
        """`windows` int64 [windows, tokens], whole blocks."""
        self.model, self.form, self.windows = model, form, windows.cpu().numpy()
        self.layout, self.ops = model.layout, ops_for(model.device)
        self.stride = 1 if by_decode else self.layout.block_tokens
        rooms, arena_bytes = _rooms(self.layout, *self._blocks())
        self.rooms = rooms
        self.arena = torch.zeros(arena_bytes, dtype=torch.uint8, device=model.device)
        sixteen = np.full(self._blocks()[1], 16, np.int8)
        self.tables = [Table(offsets.copy(), sixteen.copy()) for offsets in rooms[16]]

    def logits(self) -> Iterator[tuple[int, Tensor]]:
        """First position and float32 logits [windows, tokens, vocab] of each step."""
        with torch.inference_mode():
            for start in range(0, self.windows.shape[1], self.stride):
                logits = self.model.forward(self._step(start), self.arena).float()
                yield start, logits.view(len(self.windows), self.stride, -1)
                block, inside = divmod(start + self.stride, self.layout.block_tokens)
                if not inside:
                    self._full(block - 1)

    def _blocks(self) -> tuple[int, int]:
        """Windows, and blocks of each."""
        rows, tokens = self.windows.shape
        return rows, tokens // self.layout.block_tokens

    def _step(self, start: int) -> StepInputs:
        tokens = self.windows[:, start : start + self.stride]
        decodes, chunks = [], []
        if self.stride == 1:
            decodes = [
                DecodeRow(table, start + 1, int(row[0]))
                for table, row in zip(self.tables, tokens, strict=True)
            ]
        else:
            chunks = [
                ChunkRows(table, start, row, True)
                for table, row in zip(self.tables, tokens, strict=True)
            ]
        device = self.model.device
        step = build_inputs(decodes, chunks, self.layout, device, item_blocks=ITEM_BLOCKS)
        step.logit_rows = torch.arange(tokens.size, device=device)
        return step

    def _full(self, newest: int) -> None:
        """Give the block that now has `after` full blocks behind it its bits."""
        block = newest - self.form.after
        bits = self.form.pattern[block % len(self.form.pattern)]
        if block < 0 or bits == 16:
            return
        if self.form.naive:
            _requantise_per_token(self.arena, self.layout, self._offsets(16, block))
            return
        if bits == 4 and self.form.through_8:
            self._requantise(block, 16, 8)
            self._requantise(block, 8, 4)
        else:
            self._requantise(block, 16, bits)

    def _requantise(self, block: int, from_bits: int, to_bits: int) -> None:
        sources, targets = self._offsets(from_bits, block), self._offsets(to_bits, block)
        self.ops.requantise(self.arena, self.layout, sources, targets, from_bits, to_bits)
        for table, offset in zip(self.tables, self.rooms[to_bits][:, block], strict=True):
            table.offsets[block], table.bits[block] = offset, to_bits

    def _offsets(self, bits: int, block: int) -> Tensor:
        return torch.from_numpy(self.rooms[bits][:, block].copy()).to(self.model.device)


def _rooms(layout: KVLayout, rows: int, blocks: int) -> tuple[dict[int, NDArray[np.int64]], int]:
    """A place for each block in each precision, int64 [rows, blocks], and the bytes of all."""
    rooms, end = {}, 0
    for bits in PRECISIONS:
        stride = -(-layout.block_bytes[bits] // ALIGNMENT) * ALIGNMENT
        rooms[bits] = end + stride * np.arange(rows * blocks, dtype=np.int64).reshape(rows, blocks)
        end += stride * rows * blocks
    return rooms, end


def _requantise_per_token(arena: Tensor, layout: KVLayout, offsets: Tensor) -> None:
    """Round K and V of 16-bit blocks to 4 bits with one scale and minimum per token and head.

    They stay where they are and as wide as they are.
    """
    for offset in offsets.tolist():
        block = arena[offset : offset + layout.block_bytes[16]].view(layout.dtype)
        values = block.view(-1, layout.head_dim).float()
        least = values.amin(-1, keepdim=True).half().float()
        scale = ((values.amax(-1, keepdim=True) - least) / 15).half().float()
        codes = ((values - least) / scale.clamp(min=1e-8)).round().clamp(0, 15)
        block.view(-1, layout.head_dim).copy_(codes * scale + least)


@dataclass(frozen=True)
class Difference:
    """How predictions with a form differ from those with 16 bits, over `tokens` of them."""

    perplexity_change: float
    """0.01 is one percent more."""
    perplexity_error: float
    """Standard error of the change, over windows."""
    kl: float
    """Mean Kullback-Leibler divergence from the predictions with 16 bits, in nats."""
    same_top1: float
    """Share of tokens with the same likeliest next token."""
    tokens: int


class Baseline:
    """The predictions of a model with 16 bits everywhere."""

    def __init__(self, model: Model, windows: Tensor, by_decode: bool = False) -> None:
        """`windows` int64 [windows, tokens + 1]: each token but the first is predicted."""
        self.model = model
        self.inputs, self.targets = windows[:, :-1], windows[:, 1:].to(model.device)
        self._walk = partial(Walk, model, windows=self.inputs, by_decode=by_decode)
        parts = [part.log_softmax(-1) for _, part in self._walk(EXACT).logits()]
        self.log_shares = torch.cat(parts, dim=1)

    def nats(self) -> Tensor:
        """Loss of each token that counts [windows, tokens]."""
        return -picked(self.log_shares, self.targets)[:, self.model.layout.block_tokens :]

    def difference(self, form: Form) -> Difference:
        """Of the same windows with blocks of a form."""
        ours, theirs, divergences, same = [], [], [], []
        for start, logits in self._walk(form).logits():
            if start < self.model.layout.block_tokens:
                continue
            stop = start + logits.shape[1]
            exact, targets = self.log_shares[:, start:stop], self.targets[:, start:stop]
            found = logits.log_softmax(-1)
            ours.append(-picked(found, targets))
            theirs.append(-picked(exact, targets))
            divergences.append((exact.exp() * (exact - found)).sum(-1))
            same.append(exact.argmax(-1) == found.argmax(-1))
        more = (torch.cat(ours, 1) - torch.cat(theirs, 1)).double()
        kl, agreed = torch.cat(divergences, 1), torch.cat(same, 1)
        change = math.exp(float(more.mean())) - 1
        error = float(more.mean(1).std()) / math.sqrt(len(more)) if len(more) > 1 else math.inf
        return Difference(
            change, error, float(kl.mean()), float(agreed.float().mean()), more.numel()
        )


def picked(log_shares: Tensor, targets: Tensor) -> Tensor:
    """The entry of each target in the last dimension."""
    return log_shares.gather(-1, targets[..., None])[..., 0]


def windows_of(tokens: Sequence[int], count: int, length: int) -> Tensor:
    """`count` windows of `length` + 1 tokens, evenly over the text; int64."""
    last = max(len(tokens) - length - 1, 0)
    starts = [round(last * index / max(count - 1, 1)) for index in range(count)]
    return torch.tensor([list(tokens[start : start + length + 1]) for start in starts])
