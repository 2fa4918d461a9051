"""From block tables to the tensors of one step: rows, work items, chunks; one copy to the device.

All of it is numpy over whole batches: a row's blocks are grouped by precision (attention over
cached keys does not depend on their order), each group is cut into items, and everything is laid
into one buffer of bytes, of which the tensors on the device are views.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from executor.kv.layout import KVLayout
from executor.steps.packing import CLASSES, Array, HostInputs, Sizes, pack, step_of
from executor.steps.step import StepInputs

_CLASS_OF_BITS = np.full(17, 127, np.int8)
_CLASS_OF_BITS[[16, 8, 4]] = (0, 1, 2)
_BITS_OF_CLASS = np.array((16, 8, 4), np.int32)


class Table(Protocol):
    """The blocks of a sequence in the order of its tokens (`kv.tables.BlockTable`)."""

    @property
    def offsets(self) -> Array:
        """int64: byte offset of each block in the arena."""

    @property
    def bits(self) -> Array:
        """int8: 16, 8 or 4."""


@dataclass(slots=True)
class DecodeRow:
    """A sequence that gets one token."""

    table: Table
    length: int
    """Keys after this step's write: the position of `token`, plus one."""
    token: int


@dataclass(slots=True)
class Decodes:
    """Rows that decode, as columns."""

    tables: Sequence[Table]
    lengths: Array
    """int64"""
    tokens: Array
    """int64"""

    @classmethod
    def of(cls, rows: Sequence[DecodeRow]) -> Decodes:
        """The rows as columns."""
        return cls(
            [row.table for row in rows],
            np.array([row.length for row in rows], np.int64),
            np.array([row.token for row in rows], np.int64),
        )

    def __len__(self) -> int:
        return len(self.tables)

    def __iter__(self) -> Iterator[DecodeRow]:
        columns = zip(self.tables, self.lengths.tolist(), self.tokens.tolist(), strict=True)
        return itertools.starmap(DecodeRow, columns)


@dataclass(slots=True)
class ChunkRows:
    """A stretch of a prompt."""

    table: Table
    context: int
    """Position of the first token."""
    tokens: Sequence[int] | Array
    wants_logits: bool


def build_inputs(
    decodes: list[DecodeRow],
    chunks: list[ChunkRows],
    layout: KVLayout,
    device: torch.device,
    *,
    item_blocks: int,
    pad_rows: int = 0,
    pad_items: int = 0,
) -> StepInputs:
    """The inputs of a step, on the device.

    Decode rows are padded up to `pad_rows` and work items up to `pad_items`; a padding row writes
    nothing, attends to nothing and wants its logits. An item has at most `item_blocks` blocks.
    """
    host = host_inputs(
        Decodes.of(decodes),
        chunks,
        layout,
        item_blocks=item_blocks,
        pad_rows=pad_rows,
        pad_items=pad_items,
    )
    buffer = pack(host, host.sizes, pinned=device.type == "cuda")
    return step_of(buffer.to(device, non_blocking=True), host.sizes)


def host_inputs(
    decodes: Decodes,
    chunks: list[ChunkRows],
    layout: KVLayout,
    *,
    item_blocks: int,
    pad_rows: int = 0,
    pad_items: int = 0,
) -> HostInputs:
    """The arrays of `build_inputs`, before they are laid into one buffer."""
    padded = max(pad_rows, len(decodes))
    lists = _grouped(decodes.tables, decodes.lengths, layout.block_tokens)
    arrays = _decode_rows(decodes, lists.tails, layout.block_tokens, padded)
    items, blocks = 0, 0
    if padded:
        arrays |= _decode_items(
            decodes.lengths, lists, layout.block_tokens, item_blocks, (padded, pad_items)
        )
        items, blocks = len(arrays["item_bits"]), len(arrays["decode_offsets"])
    longest = 0
    if chunks:
        _add_chunk_rows(arrays, chunks, layout.block_tokens, padded)
        arrays |= _chunk_lists(chunks, layout.block_tokens)
        longest = max(len(chunk.tokens) for chunk in chunks)
    sizes = Sizes(
        rows=len(arrays["token_ids"]),
        decodes=padded,
        items=items,
        decode_blocks=blocks,
        chunks=len(chunks),
        chunk_blocks=len(arrays["chunk_offsets"]) if chunks else 0,
        wanted=len(arrays["logit_rows"]),
        longest=longest,
    )
    return HostInputs(sizes, arrays)


# -- decodes ------------------------------------------------------------------------------------


def _decode_rows(rows: Decodes, tails: Array, block_tokens: int, padded: int) -> dict[str, Array]:
    """Token, position and place to write of each row, its block being one of `tails`; padding is
    token 0 that goes nowhere.
    """
    count = len(rows)
    tokens, offsets = np.zeros(padded, np.int64), np.zeros(padded, np.int64)
    positions, slots = np.zeros(padded, np.int32), np.full(padded, -1, np.int32)
    positions[:count] = rows.lengths - 1
    tokens[:count] = rows.tokens
    offsets[:count] = tails
    slots[:count] = positions[:count] % block_tokens
    return {
        "token_ids": tokens,
        "positions": positions,
        "write_offsets": offsets,
        "write_slots": slots,
        "logit_rows": np.arange(padded, dtype=np.int64),
    }


def _decode_items(
    lengths: Array, lists: _Lists, block_tokens: int, item_blocks: int, padded: tuple[int, int]
) -> dict[str, Array]:
    """Work items of rows and their lists of blocks; `padded` holds rows and items at least."""
    counts = lists.counts.reshape(-1)
    per_group = -(-counts // item_blocks)
    items, total = int(per_group.sum()), max(int(per_group.sum()), padded[1])
    group = np.repeat(np.arange(len(counts)), per_group)
    number = np.arange(items) - np.repeat(np.cumsum(per_group) - per_group, per_group)
    # Items of a group differ by one block at most: nobody waits for one that is far longer.
    of_group, shares = counts[group], per_group[group]
    before = number * of_group // shares
    start = (np.cumsum(counts) - counts)[group] + before
    held = (number + 1) * of_group // shares - before
    # What the tail block lacks of being full is missing from the last item of the 16-bit group.
    tokens = held * block_tokens
    last_of_row = np.cumsum(per_group)[::CLASSES] - 1
    tokens[last_of_row] -= -(-lengths // block_tokens) * block_tokens - lengths
    row_items = np.full(padded[0] + 1, items, np.int32)
    row_items[0] = 0
    row_items[1 : len(lengths) + 1] = np.cumsum(per_group)[CLASSES - 1 :: CLASSES]
    return {
        "item_bits": _lengthened(_BITS_OF_CLASS[group % CLASSES], total),
        "item_rows": _lengthened(group // CLASSES, total),
        "item_first": _lengthened(start, total),
        "item_tokens": _lengthened(tokens, total),
        "row_items": row_items,
        "decode_offsets": lists.offsets,
        "decode_positions": lists.positions,
    }


def _lengthened(values: Array, count: int) -> Array:
    """`values` as int32, with zeros behind up to `count`; padding is an item of 16 bits, empty."""
    longer = np.zeros(count, np.int32)
    longer[: len(values)] = values
    return longer


# -- chunks -------------------------------------------------------------------------------------


def _add_chunk_rows(
    arrays: dict[str, Array], chunks: list[ChunkRows], block_tokens: int, decodes: int
) -> None:
    """Put the tokens of the chunks behind the rows that are there.

    One that lies in a block of fewer bits was there before: the last token of a chunk runs though
    all of it is cached (`Draft.prefill`), and writes nothing.
    """
    counts = np.array([len(chunk.tokens) for chunk in chunks])
    ends = np.cumsum(counts)
    positions = [np.arange(c.context, c.context + len(c.tokens)) for c in chunks]
    offsets = [
        np.asarray(chunk.table.offsets)[place // block_tokens]
        for chunk, place in zip(chunks, positions, strict=True)
    ]
    bits = [c.table.bits[place // block_tokens] for c, place in zip(chunks, positions, strict=True)]
    place = np.concatenate(positions)
    wanted = np.array([chunk.wants_logits for chunk in chunks])
    for name, added in (
        ("token_ids", np.concatenate([np.asarray(chunk.tokens) for chunk in chunks])),
        ("positions", place),
        ("write_offsets", np.concatenate(offsets)),
        ("write_slots", np.where(np.concatenate(bits) == 16, place % block_tokens, -1)),
        ("logit_rows", decodes + ends[wanted] - 1),
    ):
        arrays[name] = np.concatenate((arrays[name], added.astype(arrays[name].dtype)))


def _chunk_lists(chunks: list[ChunkRows], block_tokens: int) -> dict[str, Array]:
    """Ranges of blocks of each chunk, one per precision; new tokens are in the first."""
    counts = np.array([len(chunk.tokens) for chunk in chunks])
    context = np.array([chunk.context for chunk in chunks])
    lengths = context + counts
    lists = _grouped([chunk.table for chunk in chunks], lengths, block_tokens)
    tokens = lists.counts * block_tokens
    held = -(-lengths // block_tokens)
    last = [chunk.table.bits[count - 1] for chunk, count in zip(chunks, held, strict=True)]
    tokens[np.arange(len(chunks)), _CLASS_OF_BITS[last]] -= held * block_tokens - lengths
    flat = lists.counts.reshape(-1)
    first = (np.cumsum(flat) - flat).reshape(-1, CLASSES)
    return {
        "first_row": np.concatenate(([0], np.cumsum(counts))),
        "context": context,
        "chunk_first": first,
        "chunk_tokens": tokens,
        "chunk_offsets": lists.offsets,
        "chunk_positions": lists.positions,
    }


# -- lists of blocks ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Lists:
    counts: Array
    """[tables, 3]: blocks of each precision."""
    offsets: Array
    positions: Array
    tails: Array
    """[tables]: offset of the last block of each."""


def _grouped(tables: Sequence[Table], lengths: Array, block_tokens: int) -> _Lists:
    """The blocks of each table that hold its first `length` tokens, grouped by precision.

    Inside a group they stay in order; the tail block has 16 bits, so it ends its group.
    """
    held = -(-lengths // block_tokens)
    if not len(tables):
        none = np.zeros(0, np.int64)
        return _Lists(none.reshape(0, CLASSES), none, none, none)
    each = held.tolist()
    offsets = np.concatenate([t.offsets[:n] for t, n in zip(tables, each, strict=True)])
    bits = np.concatenate([t.bits[:n] for t, n in zip(tables, each, strict=True)])
    ends = np.cumsum(held)
    tails = offsets[ends - 1]
    position = np.arange(len(offsets)) - np.repeat(ends - held, held)
    position = (position * block_tokens).astype(np.int32)
    if (bits == 16).all():
        counts = np.zeros((len(tables), CLASSES), np.int64)
        counts[:, 0] = held
        return _Lists(counts, offsets, position, tails)
    key = np.repeat(np.arange(len(tables)) * CLASSES, held) + _CLASS_OF_BITS[bits]
    counts = np.bincount(key, minlength=len(tables) * CLASSES).reshape(-1, CLASSES)
    # Keys of 16 bits are sorted by radix, in linear time.
    small = key.astype(np.uint16) if len(tables) * CLASSES < 1 << 16 else key
    order = np.argsort(small, kind="stable")
    return _Lists(counts, offsets[order], position[order], tails)
