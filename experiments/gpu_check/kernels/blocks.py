"""What writes, requantises and copies KV blocks; and all that reads them, far into an arena."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from executor.calibration.cases import RandomArena
from executor.kv.layout import KVLayout
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.kernels.cases import MIXES, SHAPES, chunk_table, layout_of
from experiments.gpu_check.setting import device_of, ops_of, randn, tolerance, verdict


def rope_write(context: Context) -> Result:
    """Rotated queries, and keys and values in their blocks; with padding rows."""
    ops, errors = ops_of(context), {}
    for shape in SHAPES:
        heads, layout = layout_of(context, shape)
        source = RandomArena(layout, {16: 8}, device_of(context))
        rows, layer = 37, 1
        fused = randn(context, rows, (heads + 2 * layout.kv_heads) * layout.head_dim)
        q, k, v = fused.view(rows, -1, layout.head_dim).split(
            [heads, layout.kv_heads, layout.kv_heads], dim=1
        )
        cos, sin = tables(context, layout.head_dim)
        positions = torch.randint(0, len(cos), (rows,), device=context.device, dtype=torch.int32)
        offsets, slots = _places(context, source, rows)
        wanted_q = reference.rotate(q, cos, sin, positions)
        wanted_k = reference.rotate(k, cos, sin, positions)
        before = source.arena.clone()
        ops.rope_write(q, k, v, cos, sin, positions, source.arena, layout, layer, offsets, slots)
        errors[f"{shape} q"] = reference.relative_error(q, wanted_q)
        found_k, found_v = _written(source.arena, layout, layer, offsets, slots)
        live = (slots >= 0).cpu()
        errors[f"{shape} k"] = reference.relative_error(found_k, wanted_k[live])
        errors[f"{shape} v"] = reference.relative_error(found_v, v[live])
        changed = int((before != source.arena).sum())
        most = 2 * int(live.sum()) * layout.kv_heads * layout.head_dim * layout.dtype.itemsize
        errors[f"{shape} bytes beside"] = 0.0 if 0 < changed <= most else float("inf")
    return verdict(errors, tolerance(context, 5e-3))


def tables(context: Context, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of Llama's rotary embedding, [4096, D / 2]."""
    exponents = torch.arange(0, head_dim, 2, device=context.device) / head_dim
    angles = torch.arange(4096, device=context.device)[:, None] * 500000.0**-exponents
    return angles.cos().float(), angles.sin().float()


def _places(context: Context, source: RandomArena, rows: int) -> tuple[Tensor, Tensor]:
    """A place of its own for each row; every fifth row is padding."""
    tokens, blocks = source.layout.block_tokens, source.offsets[16]
    drawn = np.random.default_rng(1).permutation(len(blocks) * tokens)[:rows]
    offsets = torch.from_numpy(blocks[drawn // tokens]).to(context.device)
    slots = torch.from_numpy((drawn % tokens).astype(np.int32)).to(context.device)
    slots[::5] = -1
    return offsets, slots


def _written(
    arena: Tensor, layout: KVLayout, layer: int, offsets: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values [rows, kv_heads, D] that lie at the places of the rows that write."""
    keys, values = [], []
    for offset, slot in zip(offsets.tolist(), slots.tolist(), strict=True):
        if slot < 0:
            continue
        places = [(layer, head) for head in range(layout.kv_heads)]
        pairs = [reference.read_block(arena, layout, 16, offset, place) for place in places]
        keys.append(torch.stack([k[slot] for k, _ in pairs]))
        values.append(torch.stack([v[slot] for _, v in pairs]))
    return torch.stack(keys), torch.stack(values)


def requantise(context: Context, shape: str) -> Result:
    """What is read back is within half a step of what was there, and no other byte changes."""
    ops, errors = ops_of(context), {}
    for before, after in ((16, 8), (16, 4), (8, 4)):
        _, layout = layout_of(context, shape)
        source = RandomArena(layout, 6, device_of(context))
        sources, targets = source.offsets[before][:3], source.offsets[after][2:5]
        old = source.arena.clone()
        ops.requantise(
            source.arena,
            layout,
            torch.from_numpy(sources).to(context.device),
            torch.from_numpy(targets).to(context.device),
            before,
            after,
        )
        name = f"{before}->{after}"
        errors[name] = max(
            _steps_off(old, source.arena, layout, (before, int(a)), (after, int(b)))
            for a, b in zip(sources, targets, strict=True)
        )
        same = source.arena == old
        for target in targets:
            same[target : target + layout.block_bytes[after]] = True
        errors[name + " bytes beside"] = 0.0 if bool(same.all()) else float("inf")
    # Scales are rounded to float16: half a step, and at the ends of the range a little more.
    return verdict(errors, 0.56)


def _steps_off(
    old: Tensor, new: Tensor, layout: KVLayout, source: tuple[int, int], target: tuple[int, int]
) -> float:
    """Largest distance of a value from what it was, in steps of its own scale."""
    worst = 0.0
    for place in product(range(layout.layers), range(layout.kv_heads)):
        was = reference.read_block(old, layout, *source, place)
        now = reference.read_block(new, layout, *target, place)
        bits = target[0]
        for index, (a, b) in enumerate(zip(was, now, strict=True)):
            per_channel = bits == 4 and index == 0
            axis = 0 if per_channel else 1
            if bits == 8:
                step = a.abs().amax(axis, keepdim=True) / 127
            else:
                step = (a.amax(axis, keepdim=True) - a.amin(axis, keepdim=True)) / 15
            worst = max(worst, float(((a - b).abs() / step.clamp_min(1e-9)).max()))
    return worst


def copy_blocks(context: Context) -> Result:
    """Bytes arrive as they were; others stay."""
    ops, errors = ops_of(context), {}
    for shape, bits in product(SHAPES, (16, 8, 4)):
        _, layout = layout_of(context, shape)
        source = RandomArena(layout, 6, device_of(context))
        offsets = torch.from_numpy(source.offsets[bits]).to(context.device)
        wanted, size = source.arena.clone(), layout.block_bytes[bits]
        for a, b in ((0, 4), (1, 3)):
            begin, end = int(offsets[a]), int(offsets[b])
            wanted[end : end + size] = wanted[begin : begin + size]
        ops.copy_blocks(source.arena, offsets[[0, 1]], offsets[[4, 3]], size)
        equal = bool(torch.equal(wanted, source.arena))
        errors[f"{shape} {bits}"] = 0.0 if equal else float("inf")
    return verdict(errors, 0.0)


def far_arena(context: Context) -> Result:
    """The same blocks below and past 4 GiB give the same bits, in every kernel with offsets."""
    heads, layout = layout_of(context, "llama-8b")
    begin = (1 << 20) if context.tiny else (4 << 30) + (16 << 20)
    near = RandomArena(layout, 24, device_of(context))
    far = RandomArena(layout, 24, device_of(context), begin=begin)
    far.arena[begin:] = near.arena
    outcomes = [_everything(context, heads, source) for source in (near, far)]
    errors = {}
    for name, first in outcomes[0].items():
        errors[name] = 0.0 if torch.equal(first, outcomes[1][name]) else float("inf")
    return verdict(errors, 0.0, arena_bytes=far.arena.numel())


def _everything(context: Context, heads: int, source: RandomArena) -> dict[str, Tensor]:
    """Outputs of every operation that reads or writes blocks, and the blocks themselves."""
    ops, layout, device = ops_of(context), source.layout, device_of(context)
    torch.manual_seed(3)
    source.random = np.random.default_rng(7)
    blocks = {bits: torch.from_numpy(found).to(device) for bits, found in source.offsets.items()}
    contexts = (33, 300)
    rows = [DecodeRow(source.table(n, MIXES["mixed"]), n, 1) for n in contexts]
    step = build_inputs(rows, [], layout, device, item_blocks=4)
    chunk = ChunkRows(chunk_table(source, 70, 100, MIXES["mixed"]), 100, [1] * 70, True)
    prefill = build_inputs([], [chunk], layout, device, item_blocks=4).prefill
    q = randn(context, 70, heads, layout.head_dim)
    k = randn(context, 70, layout.kv_heads, layout.head_dim)
    cos, sin = tables(context, layout.head_dim)
    assert step.decode is not None and prefill is not None
    scale, arena = 0.09, source.arena
    found = {
        "decode": ops.decode_attention(q[:2].contiguous(), arena, layout, 1, step.decode, scale),
        "prefill": ops.prefill_attention(q, arena, layout, 1, prefill, scale),
    }
    ops.requantise(arena, layout, blocks[16][:2], blocks[8][:2], 16, 8)
    ops.requantise(arena, layout, blocks[16][:2], blocks[4][:2], 16, 4)
    ops.copy_blocks(arena, blocks[4][:1], blocks[4][5:6], layout.block_bytes[4])
    positions = torch.arange(70, dtype=torch.int32, device=device)
    where = blocks[16][3:].repeat_interleave(layout.block_tokens)[:70].contiguous()
    slots = positions % layout.block_tokens
    ops.rope_write(q, k, k.clone(), cos, sin, positions, arena, layout, 1, where, slots)
    first = min(int(found[0]) for found in source.offsets.values())
    return {**found, "blocks": arena[first:].clone()}
