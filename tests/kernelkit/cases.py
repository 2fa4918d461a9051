"""Cases for the attention kernels: blocks of known content and what attention over them gives.

A case is made on the CPU and moved to a device by `on`. Memory that holds no key is filled with
bytes that are not a number in any float type. What is expected is computed in float64 from the
values that the blocks stand for, without the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from executor.kv.layout import PRECISIONS, KVLayout
from executor.steps.step import BlockLists, DecodeItems, PrefillChunks


@dataclass
class Known:
    """A sequence whose keys and values are known, block by block."""

    bits: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    """float64 [tokens, kv_heads, D] of each block."""
    values: list[Tensor] = field(default_factory=list)
    layer: int = 0

    @property
    def length(self) -> int:
        return sum(self.tokens)


class Memory:
    """An arena on the CPU into which known blocks are written one after the other."""

    def __init__(self, layout: KVLayout, blocks: int, seed: int = 0) -> None:
        self.layout = layout
        self.generator = torch.Generator().manual_seed(seed)
        size = (blocks + 1) * (layout.block_bytes[16] + 48)
        self.arena = torch.full((size // 16 * 16,), 255, dtype=torch.uint8)
        self.end = 16

    def sequence(self, blocks: Sequence[tuple[int, int]], layer: int = 0) -> Known:
        """A sequence of blocks of (bits, tokens), in order of position."""
        known = Known(layer=layer)
        for bits, tokens in blocks:
            offset = self.end
            self.end += self.layout.block_bytes[bits] + 16
            keys, values = self._fill(offset, bits, tokens, layer)
            known.bits.append(bits)
            known.tokens.append(tokens)
            known.offsets.append(offset)
            known.keys.append(keys)
            known.values.append(values)
        assert self.end <= self.arena.numel(), "Memory was made too small"
        return known

    def _fill(self, offset: int, bits: int, tokens: int, layer: int) -> tuple[Tensor, Tensor]:
        units = [self._unit(bits, tokens) for _ in range(self.layout.kv_heads)]
        start = offset + self.layout.unit_offset(bits, layer)
        raw = torch.cat([unit[0] for unit in units])
        self.arena[start : start + len(raw)] = raw
        return torch.stack([u[1] for u in units], 1), torch.stack([u[2] for u in units], 1)

    def _unit(self, bits: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Bytes of a unit, and the keys and values of its tokens in float64."""
        per_block, dim = self.layout.block_tokens, self.layout.head_dim
        if bits == 16:
            values = self._normal((2, per_block, dim)).to(self.layout.dtype)
            values[:, tokens:] = torch.nan
            return _bytes(values), *values[:, :tokens].double()
        if bits == 8:
            codes = self._integers(-127, 127, (2, per_block, dim)).to(torch.int8)
            scales = (self._uniform((2, per_block)) * 0.03 + 0.001).half()
            scales[:, tokens:] = torch.nan
            exact = codes.double() * scales.double()[..., None]
            return torch.cat((_bytes(codes), _bytes(scales))), *exact[:, :tokens]
        codes = self._integers(0, 15, (2, per_block, dim)).to(torch.uint8)
        low, high = codes.chunk(2, dim=-1)
        k_scale, v_scale = self._affine(dim), self._affine(per_block)
        for absent in v_scale:
            absent[tokens:] = torch.nan
        meta = torch.cat((*k_scale, *v_scale))
        k = codes[0].double() * k_scale[0].double() + k_scale[1].double()
        v = codes[1].double() * v_scale[0].double()[:, None] + v_scale[1].double()[:, None]
        return torch.cat((_bytes(low | high << 4), _bytes(meta))), k[:tokens], v[:tokens]

    def _affine(self, count: int) -> tuple[Tensor, Tensor]:
        scale = (self._uniform((count,)) * 0.4 + 0.01).half()
        return scale, (-7.5 * scale + 0.5 * self._normal((count,))).half()

    def queries(self, rows: int, heads: int) -> Tensor:
        """Queries of the model's type as a strided view of a fused projection."""
        fused = self._normal((rows, heads + 2 * self.layout.kv_heads, self.layout.head_dim))
        return fused.to(self.layout.dtype)[:, :heads]

    def _normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def _integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self.generator)


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8).flatten()


def blocks_of(length: int, block_tokens: int, bits: Sequence[int] = (16,)) -> list[tuple[int, int]]:
    """`length` tokens in full blocks and a rest; full blocks take `bits` in turn, the rest 16."""
    full, rest = divmod(length, block_tokens)
    blocks = [(bits[place % len(bits)], block_tokens) for place in range(full)]
    return [*blocks, (16, rest)] if rest else blocks


@dataclass
class DecodeCase:
    """Arguments of `decode_attention` and what it should give."""

    q: Tensor
    arena: Tensor
    layout: KVLayout
    layer: int
    items: DecodeItems
    scale: float
    bias: Tensor | None
    expected: Tensor
    """float64 [rows, heads, D]"""

    def on(self, device: torch.device | str, base: int = 0) -> DecodeCase:
        """The same on a device, blocks `base` bytes further on in the arena."""
        lists = _lists_on(self.items.blocks, device, base)
        names = ("bits", "rows", "first", "tokens", "row_items", "positions")
        moved = {name: getattr(self.items, name).to(device) for name in names}
        return replace(
            self,
            q=_strided_on(self.q, device),
            arena=_arena_on(self.arena, device, base),
            items=DecodeItems(**moved, blocks=lists),
            bias=None if self.bias is None else self.bias.to(device),
            expected=self.expected.to(device),
        )

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.q, self.arena, self.layout, self.layer, self.items, self.scale, self.bias


@dataclass
class PrefillCase:
    """Arguments of `prefill_attention` and what it should give."""

    q: Tensor
    arena: Tensor
    layout: KVLayout
    layer: int
    chunks: PrefillChunks
    scale: float
    bias: Tensor | None
    causal: bool
    expected: Tensor

    def on(self, device: torch.device | str, base: int = 0) -> PrefillCase:
        """The same on a device, blocks `base` bytes further on in the arena."""
        lists = _lists_on(self.chunks.blocks, device, base)
        names = ("first_row", "context", "first", "tokens")
        moved = {name: getattr(self.chunks, name).to(device) for name in names}
        return replace(
            self,
            q=_strided_on(self.q, device),
            arena=_arena_on(self.arena, device, base),
            chunks=PrefillChunks(**moved, blocks=lists, longest=self.chunks.longest),
            bias=None if self.bias is None else self.bias.to(device),
            expected=self.expected.to(device),
        )

    @property
    def arguments(self) -> tuple[object, ...]:
        return (
            self.q, self.arena, self.layout, self.layer, self.chunks, self.scale, self.bias,
            self.causal,
        )  # fmt: skip


def _arena_on(arena: Tensor, device: torch.device | str, base: int) -> Tensor:
    moved = torch.empty(base + arena.numel(), dtype=torch.uint8, device=device)
    moved[base:] = arena.to(device)
    return moved


def _lists_on(lists: BlockLists, device: torch.device | str, base: int) -> BlockLists:
    return BlockLists((lists.offsets + base).to(device), lists.positions.to(device))


def _strided_on(q: Tensor, device: torch.device | str) -> Tensor:
    """A copy whose rows stand apart as those of `q` do."""
    moved = torch.empty(q.stride(0) * q.shape[0], dtype=q.dtype, device=device)
    view = moved.view(q.shape[0], -1, q.shape[2])[:, : q.shape[1]]
    return view.copy_(q)


def decode_case(  # many columns, one per property of a case
    rows: Sequence[Sequence[tuple[int, int]]],
    layout: KVLayout,
    heads: int,
    *,
    item_blocks: int = 2,
    reach: int | None = None,
    pad_rows: int = 0,
    pad_items: int = 0,
    layer: int = 0,
    scale: float | None = None,
    empty_item: bool = False,
    seed: int = 0,
) -> DecodeCase:
    """Rows given as their blocks (bits, tokens), cut into items of at most `item_blocks`.

    `empty_item` gives every row a further item of no tokens.
    """
    memory = Memory(layout, sum(map(len, rows)), seed)
    sequences = [memory.sequence(blocks, layer) for blocks in rows]
    q = memory.queries(len(rows) + pad_rows, heads)
    scale = layout.head_dim**-0.5 if scale is None else scale
    bias = (
        None if reach is None else torch.randn((heads, 2 * reach + 1), generator=memory.generator)
    )
    positions = [max(known.length - 1, 0) for known in sequences]
    expected = torch.zeros(q.shape, dtype=torch.float64)
    for row, known in enumerate(sequences):
        if known.length:
            expected[row : row + 1] = dense(
                q[row : row + 1], known, scale, bias, positions[row], causal=False
            )
    items = _items(sequences, layout, item_blocks, pad_rows, pad_items, empty_item)
    return DecodeCase(q, memory.arena, layout, layer, items, scale, bias, expected)


def _items(
    sequences: Sequence[Known],
    layout: KVLayout,
    item_blocks: int,
    pad_rows: int,
    pad_items: int,
    empty_item: bool,
) -> DecodeItems:
    items: list[tuple[int, int, int, int]] = []
    entries: list[tuple[int, int]] = []
    row_items = [0]
    for row, known in enumerate(sequences):
        for bits in PRECISIONS:
            places = [place for place, b in enumerate(known.bits) if b == bits]
            for begin in range(0, len(places), item_blocks):
                part = places[begin : begin + item_blocks]
                items.append((bits, row, len(entries), sum(known.tokens[p] for p in part)))
                entries += [(known.offsets[p], sum(known.tokens[:p])) for p in part]
        if empty_item:
            items.append((16, row, 0, 0))
        row_items.append(len(items))
    row_items += [len(items)] * pad_rows
    items += [(16, 0, 0, 0)] * pad_items
    columns = np.array(items or [(16, 0, 0, 0)], dtype=np.int32).T
    lasts = [max(known.length - 1, 0) for known in sequences] + [0] * pad_rows
    bits_, rows_, first, tokens = (torch.from_numpy(column.copy()) for column in columns)
    return DecodeItems(
        bits=bits_,
        rows=rows_,
        first=first,
        tokens=tokens,
        row_items=torch.tensor(row_items, dtype=torch.int32),
        positions=torch.tensor(lasts, dtype=torch.int32),
        blocks=_lists(entries),
    )


def _lists(entries: list[tuple[int, int]]) -> BlockLists:
    entries = entries or [(0, 0)]
    return BlockLists(
        torch.tensor([offset for offset, _ in entries], dtype=torch.int64),
        torch.tensor([position for _, position in entries], dtype=torch.int32),
    )


def prefill_case(  # many columns, one per property of a case
    chunks: Sequence[tuple[Sequence[tuple[int, int]], int]],
    layout: KVLayout,
    heads: int,
    *,
    reach: int | None = None,
    causal: bool = True,
    layer: int = 0,
    scale: float | None = None,
    seed: int = 0,
) -> PrefillCase:
    """Chunks given as all blocks of their sequence and how many of its last tokens they are.

    Without `causal` the rows are no part of the sequence: they see all of its keys.
    """
    memory = Memory(layout, sum(len(blocks) for blocks, _ in chunks), seed)
    sequences = [memory.sequence(blocks, layer) for blocks, _ in chunks]
    lengths = [own for _, own in chunks]
    contexts = [
        known.length - own if causal else 0 for known, own in zip(sequences, lengths, strict=True)
    ]
    q = memory.queries(sum(lengths), heads)
    scale = layout.head_dim**-0.5 if scale is None else scale
    bias = (
        None if reach is None else torch.randn((heads, 2 * reach + 1), generator=memory.generator)
    )
    first_row = [0, *np.cumsum(lengths).tolist()]
    expected = torch.zeros(q.shape, dtype=torch.float64)
    for chunk, known in enumerate(sequences):
        rows = slice(first_row[chunk], first_row[chunk + 1])
        if known.length:
            expected[rows] = dense(q[rows], known, scale, bias, contexts[chunk], causal)
    found = _chunks(sequences, first_row, contexts, max(lengths, default=0))
    return PrefillCase(q, memory.arena, layout, layer, found, scale, bias, causal, expected)


def _chunks(
    sequences: Sequence[Known], first_row: list[int], contexts: list[int], longest: int
) -> PrefillChunks:
    entries: list[tuple[int, int]] = []
    first: list[list[int]] = []
    tokens: list[list[int]] = []
    for known in sequences:
        first.append([])
        tokens.append([])
        for bits in PRECISIONS:
            places = [place for place, b in enumerate(known.bits) if b == bits]
            first[-1].append(len(entries))
            tokens[-1].append(sum(known.tokens[p] for p in places))
            entries += [(known.offsets[p], sum(known.tokens[:p])) for p in places]
    return PrefillChunks(
        first_row=torch.tensor(first_row, dtype=torch.int32),
        context=torch.tensor(contexts, dtype=torch.int32),
        first=torch.tensor(first, dtype=torch.int32).reshape(-1, 3),
        tokens=torch.tensor(tokens, dtype=torch.int32).reshape(-1, 3),
        blocks=_lists(entries),
        longest=longest,
    )


def dense(
    q: Tensor, known: Known, scale: float, bias: Tensor | None, position: int, causal: bool
) -> Tensor:
    """Attention of `q` [rows, heads, D], the first at `position`, in float64."""
    keys, values = torch.cat(known.keys), torch.cat(known.values)
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("rhd,thd->hrt", q.double(), keys) * scale
    at = torch.arange(q.shape[0]) + position
    distance = torch.arange(len(keys)) - at[:, None]
    if bias is not None:
        reach = bias.shape[1] // 2
        scores += bias[:, distance.clamp(-reach, reach) + reach].double()
    if causal:
        scores = scores.masked_fill(distance > 0, -torch.inf)
    return torch.einsum("hrt,thd->rhd", scores.softmax(-1), values)
