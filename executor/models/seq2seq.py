"""Generation with an encoder-decoder: the shortest loop that uses T5 as it is meant.

Every prompt is encoded once and its cross keys and values written to blocks of their own. The
decoder's prompt is its start token, so all its steps are decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from executor.kv.tables import BlockTable
from executor.models.base import check_length
from executor.models.t5 import T5, CrossKeys
from executor.steps.inputs import DecodeRow, build_inputs

ITEM_BLOCKS = 4
"""Blocks of one work item of attention."""


Choose: TypeAlias = Callable[[Tensor, int], Tensor]
"""The tokens, int64 [rows], of float32 logits [rows, vocab] for a position of the decoder."""


@dataclass(slots=True)
class _Sequence:
    index: int
    cross: BlockTable
    cross_tokens: int
    own: BlockTable
    tokens: list[int]


def greedy(logits: Tensor, position: int) -> Tensor:
    """The most likely tokens."""
    return logits.argmax(dim=1)


def generate(
    model: T5, prompts: Sequence[Sequence[int]], max_tokens: int, end_tokens: Collection[int] = ()
) -> list[list[int]]:
    """The decoder's greedy tokens for each prompt: up to `max_tokens`, an end token the last.

    Raises InputError for a prompt or an answer above the model's context.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for step in steps(model, prompts, max_tokens, end_tokens):
        for index, token in step:
            answers[index].append(token)
    return answers


def steps(
    model: T5,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    end_tokens: Collection[int] = (),
    choose: Choose = greedy,
) -> Iterator[list[tuple[int, int]]]:
    """Step by step, the prompts that got a token, and which. Errors as of `generate`."""
    running, arena = _prepared(model, prompts, max_tokens)
    for position in range(1, max_tokens + 1):
        if not running:
            return
        chosen = choose(_step(model, running, arena), position).tolist()
        for sequence, token in zip(running, chosen, strict=True):
            sequence.tokens.append(token)
        yield [(sequence.index, sequence.tokens[-1]) for sequence in running]
        running = [sequence for sequence in running if sequence.tokens[-1] not in end_tokens]


def _prepared(
    model: T5, prompts: Sequence[Sequence[int]], max_tokens: int
) -> tuple[list[_Sequence], Tensor]:
    """Sequences with their blocks, those of the encoder written."""
    for prompt in prompts:
        check_length(model.max_model_len, len(prompt))
    check_length(model.max_model_len, 1, max_tokens)
    layout, size = model.layout, model.layout.block_bytes[16]
    own = _blocks(max_tokens + 1, layout.block_tokens)
    cross = [_blocks(len(prompt), layout.block_tokens) for prompt in prompts]
    arena = torch.zeros(
        (sum(cross) + own * len(prompts)) * size, dtype=torch.uint8, device=model.device
    )
    tables = _tables([count for each in cross for count in (each, own)], size)
    sequences = [
        _Sequence(index, next(tables), len(prompt), next(tables), [model.start_token])
        for index, prompt in enumerate(prompts)
    ]
    for sequence, encoded in zip(sequences, model.encode(prompts), strict=True):
        _write(model, sequence, encoded, arena)
    return sequences, arena


def _blocks(tokens: int, block_tokens: int) -> int:
    return -(-tokens // block_tokens)


def _tables(counts: Sequence[int], size: int) -> Iterator[BlockTable]:
    """Tables of so many 16-bit blocks each, side by side in the arena."""
    first = 0
    for count in counts:
        table = BlockTable(count)
        table.append(np.arange(first, first + count, dtype=np.int64) * size, 16)
        first += count
        yield table


def _write(model: T5, sequence: _Sequence, encoded: Tensor, arena: Tensor) -> None:
    places = np.arange(sequence.cross_tokens)
    block_tokens = model.layout.block_tokens
    offsets = torch.from_numpy(sequence.cross.offsets[places // block_tokens])
    slots = torch.from_numpy((places % block_tokens).astype(np.int32))
    model.write_cross(encoded, arena, offsets.to(model.device), slots.to(model.device))


def _step(model: T5, running: list[_Sequence], arena: Tensor) -> Tensor:
    """One token for every sequence; float32 logits [sequences, vocab]."""
    own = [DecodeRow(s.own, len(s.tokens), s.tokens[-1]) for s in running]
    other = [DecodeRow(s.cross, s.cross_tokens, 0) for s in running]
    place = (model.layout, model.device)
    step = build_inputs(own, [], *place, item_blocks=ITEM_BLOCKS)
    cross = build_inputs(other, [], *place, item_blocks=ITEM_BLOCKS)
    return model.forward(step, arena, CrossKeys(len(running), cross.decode)).float()
