"""What a model is given in one step, as tensors on its device.

Rows are tokens: first one for each decode, in the order of the batch, then the tokens of the
prefill chunks one chunk after the other. All offsets into the arena are in bytes (int64); a block
of any precision is named by its offset (`kv.layout`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class BlockLists:
    """Lists of blocks, one after the other; items and chunks are ranges of them.

    Within a range all blocks have the same precision and stand in the order of their tokens.
    """

    offsets: Tensor
    """int64 [entries]: where the block is."""
    positions: Tensor
    """int32 [entries]: position in the sequence of the block's first token."""


@dataclass(slots=True)
class DecodeItems:
    """Attention of single-token rows, cut into items of one precision each.

    The items of a row are contiguous. Every entry of an item but the last is a full block.
    """

    bits: Tensor
    """int32 [items]: 16, 8 or 4."""
    rows: Tensor
    """int32 [items]: which row of the queries."""
    first: Tensor
    """int32 [items]: first entry in the block lists."""
    tokens: Tensor
    """int32 [items]: keys to attend; 0 for padding."""
    row_items: Tensor
    """int32 [rows + 1]: the items of row r are [row_items[r], row_items[r + 1])."""
    positions: Tensor
    """int32 [rows]: position of the query, used by a relative bias alone."""
    blocks: BlockLists
    found: Any = field(default=None, repr=False, compare=False)
    """What the operations in torch work out of it in the first layer, for all others."""


@dataclass(slots=True)
class PrefillChunks:
    """Attention of chunks of prompts: causal over what is there before and over themselves.

    The keys and values of the chunk's own tokens are written before attention runs, so all keys
    are in blocks. A chunk has up to three ranges of blocks, one per precision (16, 8, 4 bits).
    """

    first_row: Tensor
    """int32 [chunks + 1]: rows of chunk c are [first_row[c], first_row[c + 1]), decodes not
    counted."""
    context: Tensor
    """int32 [chunks]: position of the chunk's first token."""
    first: Tensor
    """int32 [chunks, 3]: first entry in the block lists for 16, 8 and 4 bits."""
    tokens: Tensor
    """int32 [chunks, 3]: keys in each range, the chunk's own included (those have 16 bits)."""
    blocks: BlockLists
    longest: int
    """Rows of the longest chunk, or of what it may be."""
    whole_step: bool = False
    """Rows are counted from the step's first one, decodes included, and all rows of the step are
    given; those of no chunk come out as zeros."""
    found: Any = field(default=None, repr=False, compare=False)
    """As in `DecodeItems`."""


@dataclass(slots=True)
class StepInputs:
    """One step of a decoder."""

    token_ids: Tensor
    """int64 [rows]."""
    positions: Tensor
    """int32 [rows]."""
    write_offsets: Tensor
    """int64 [rows]: the 16-bit block that takes the row's keys and values."""
    write_slots: Tensor
    """int32 [rows]: the row's token inside that block; -1: nothing is written (padding)."""
    decodes: int
    """Rows that decode; they come first. With `PrefillChunks.whole_step`: that may decode."""
    decode: DecodeItems | None
    prefill: PrefillChunks | None
    logit_rows: Tensor
    """int64 [wanted]: rows whose next token is asked for."""
