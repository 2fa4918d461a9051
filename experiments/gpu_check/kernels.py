"""Every operation against float64, on fresh random inputs, over memory full of NaN."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from executor.calibration.cases import RandomArena, Table
from executor.kv.layout import KVLayout
from executor.models.weights import quantise_rows
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from experiments.gpu_check import reference
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.drawing import drawn
from experiments.gpu_check.setting import (
    device_of,
    dtype_of,
    ops_of,
    poison,
    randn,
    tolerance,
    verdict,
)

Shares = dict[int, float]
MIXES: dict[str, Shares] = {
    "16": {},
    "8": {8: 1.0},
    "4": {4: 1.0},
    "mixed": {4: 0.3, 8: 0.4},
}
SHAPES = {
    # heads, KV heads, head dimension, tokens of a block
    "llama-8b": (32, 8, 128, 32),
    "llama-70b-rank": (8, 1, 128, 32),
    "mha-64": (12, 12, 64, 32),
    "odd-group-80": (14, 2, 80, 16),
    "blocks-64": (16, 8, 128, 64),
}
EPS = 1e-5
LINEAR_ROWS = (1, 5, 16, 17, 32, 33, 100)
INT8_ROWS = (1, 5, 16, 17, 64, 300, 600)


def rms_norm(context: Context) -> Result:
    """With and without a residual."""
    ops, errors = ops_of(context), {}
    hiddens = (64, 320) if context.tiny else (256, 320, 4096, 8192)
    for rows, hidden, added in product((1, 7, 129), hiddens, (False, True)):
        x, weight = randn(context, rows, hidden), randn(context, hidden)
        residual = randn(context, rows, hidden) if added else None
        total = x if residual is None else (x.float() + residual.float()).to(x.dtype)
        poison(context)
        normed, summed = ops.rms_norm(x.clone(), weight, EPS, residual)
        name = f"{rows}x{hidden}{'+res' if added else ''}"
        errors[name] = reference.relative_error(normed, reference.rms_norm(total, weight, EPS))
        errors[name + " sum"] = reference.relative_error(summed, total)
    return verdict(errors, tolerance(context, 5e-3))


def largest(context: Context) -> Result:
    """Tokens of the largest logits, with ties: where torch finds them in float32."""
    ops, errors = ops_of(context), {}
    for rows, n in ((1, 5000),) if context.tiny else ((1, 128256), (33, 50257), (128, 128256)):
        x = randn(context, rows, n)
        x[:, n // 3] = x[:, n // 2] = x.amax(-1)
        out = torch.full((rows,), -1, dtype=torch.int64, device=x.device)
        equal = torch.equal(ops.largest(x, out), x.float().argmax(-1))
        errors[f"{rows}x{n}"] = 0.0 if equal else float("inf")
    return verdict(errors, 0.0)


def activations(context: Context) -> Result:
    """`silu_mul` and `gelu_mul`."""
    ops, errors = ops_of(context), {}
    widths = (96,) if context.tiny else (96, 1000, 14336)
    for rows, width in product((1, 33), widths):
        x = randn(context, rows, 2 * width)
        gate, up = x.double().chunk(2, dim=-1)
        poison(context)
        silu, gelu = ops.silu_mul(x), ops.gelu_mul(x)
        wanted = torch.nn.functional.silu(gate) * up
        errors[f"silu {rows}x{width}"] = reference.relative_error(silu, wanted)
        wanted = torch.nn.functional.gelu(gate, approximate="tanh") * up
        errors[f"gelu {rows}x{width}"] = reference.relative_error(gelu, wanted)
    return verdict(errors, tolerance(context, 5e-3))


def linear(context: Context) -> Result:
    """Products of few rows with weights of the model's type, whole tiles and cut ones; and of as
    many as may have tiles of their own (`NARROW` in `executor/kernels/linear.py`).
    """
    ops, errors = ops_of(context), {}
    sizes = ((96, 128),) if context.tiny else ((6144, 4096), (4096, 14336), (28700, 4096))
    for rows, (n, k) in product(LINEAR_ROWS, sizes):
        x, weight = randn(context, rows, k), randn(context, n, k)
        wanted = x.double() @ weight.double().T
        for time in range(2):
            poison(context)
            found = ops.linear(x, weight)
            errors[f"{rows}x{k}x{n} {time}"] = reference.relative_error(found, wanted)
    return verdict(errors, tolerance(context))


def linear_int8(context: Context) -> Result:
    """Products with int8 weights, from one row to more than a tile, and to more than those from
    which weights may be widened.
    """
    ops, errors = ops_of(context), {}
    sizes = ((96, 64), (130, 256)) if context.tiny else ((6144, 4096), (4096, 14336), (1000, 512))
    for rows, (n, k) in product(INT8_ROWS, sizes):
        x = randn(context, rows, k)
        weight = torch.randint(-127, 128, (n, k), dtype=torch.int8, device=context.device)
        scales = torch.rand(n, device=context.device) * 0.01 + 0.001
        poison(context)
        found = ops.linear_int8(x, weight, scales)
        wanted = x.double() @ weight.double().T * scales.double()
        errors[f"{rows}x{k}x{n}"] = reference.relative_error(found, wanted)
    return verdict(errors, tolerance(context))


def moe(context: Context) -> Result:
    """Mixtral's experts with few and many rows, their weights of the model's type and int8."""
    experts, chosen = 8, 2
    hidden, width = (64, 96) if context.tiny else (1024, 1792)
    gate_up = randn(context, experts, 2 * width, hidden, scale=hidden**-0.5)
    down = randn(context, experts, hidden, width, scale=width**-0.5)
    codes, scales = zip(*(_in_codes(matrix) for matrix in (gate_up, down)), strict=True)
    exact = [c.double() * s.double()[..., None] for c, s in zip(codes, scales, strict=True)]
    errors = {}
    for rows in (1, 3, 40) if context.tiny else (1, 3, 64, 200):
        x = randn(context, rows, hidden)
        logits = torch.rand(rows, experts, device=context.device)
        shares, some = torch.topk(torch.softmax(logits, -1), chosen)
        for name, weights, stands_for in (
            ("", (gate_up, down, None), (gate_up, down)),
            (" int8", (*codes, scales), exact),
        ):
            poison(context)
            found = ops_of(context).moe(x, shares.float(), some, *weights)
            wanted = reference.moe(x, shares, some, *stands_for)
            errors[f"{rows} rows{name}"] = reference.relative_error(found, wanted)
    return verdict(errors, tolerance(context))


def _in_codes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The same in int8, with the scale of each row."""
    codes = torch.empty_like(matrix, dtype=torch.int8)
    scales = torch.empty(matrix.shape[:-1], dtype=torch.float32, device=matrix.device)
    quantise_rows(matrix, codes, scales)
    return codes, scales


def layout_of(context: Context, shape: str, layers: int = 2) -> tuple[int, KVLayout]:
    """Query heads and layout of one of `SHAPES`."""
    heads, kv_heads, head_dim, block_tokens = SHAPES[shape]
    if context.tiny:
        heads, kv_heads = 2 * heads // kv_heads, 2
    return heads, KVLayout(layers, kv_heads, head_dim, block_tokens, dtype_of(context))


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


def tables(context: Context, head_dim: int, positions: int = 4096) -> tuple[Tensor, Tensor]:
    """Cosines and sines of Llama's rotary embedding, [positions, D / 2]."""
    exponents = torch.arange(0, head_dim, 2, device=context.device) / head_dim
    angles = torch.arange(positions, device=context.device)[:, None] * 500000.0**-exponents
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


def decode_attention(context: Context, shape: str) -> Result:
    """All precisions and mixes, lengths at block edges, long ones over many items, padding."""
    errors: dict[str, float] = {}
    for mix, shares in MIXES.items():
        for item_blocks in (1, 8) if context.tiny else (4, 16):
            name = f"{mix} items of {item_blocks}"
            errors[name] = _decode_error(context, shape, shares, item_blocks)
    return verdict(errors, tolerance(context))


def _decode_error(context: Context, shape: str, shares: Shares, item_blocks: int) -> float:
    heads, layout = layout_of(context, shape)
    tokens = layout.block_tokens
    source = RandomArena(layout, 40, device_of(context))
    long = 4 * tokens + 3 if context.tiny else 45 * tokens + 7
    rows = [
        DecodeRow(source.table(length, shares), length, 1)
        for length in (1, tokens - 1, tokens, tokens + 1, 5 * tokens, long)
    ]
    step = build_inputs(
        rows,
        [],
        layout,
        source.device,
        item_blocks=item_blocks,
        pad_rows=8,
        pad_items=len(rows) * 4 + (0 if context.tiny else 64),
    )
    assert step.decode is not None
    q, scale = randn(context, 8, heads, layout.head_dim), layout.head_dim**-0.5
    poison(context)
    found = ops_of(context).decode_attention(q, source.arena, layout, 1, step.decode, scale)
    if not bool((found[len(rows) :] == 0).all()):
        return float("inf")
    wanted = reference.decode_attention(q, source.arena, layout, 1, step.decode, scale)
    return worst_row(found[: len(rows)], wanted[: len(rows)])


def worst_row(found: Tensor, wanted: Tensor) -> float:
    """The largest relative error of a row: a wrong short row must not hide behind long ones."""
    pairs = zip(found, wanted, strict=True)
    return max((reference.relative_error(a, b) for a, b in pairs), default=0.0)


def prefill_attention(context: Context, shape: str) -> Result:
    """Chunks with and without context in all precisions, shorter and longer than a tile."""
    errors: dict[str, float] = {}
    for mix, shares in MIXES.items():
        errors[mix] = prefill_case_error(context, shape, shares)
    return verdict(errors, tolerance(context))


def prefill_case_error(context: Context, shape: str, shares: Shares) -> float:
    """The worst relative error of a chunk, of one mix of precisions."""
    heads, layout = layout_of(context, shape)
    tokens = layout.block_tokens
    source = RandomArena(layout, 40, device_of(context))
    sizes: tuple[tuple[int, int], ...] = ((1, 0), (tokens + 3, 0), (5, 2 * tokens + 1))
    if not context.tiny:
        sizes = ((1, 0), (tokens, 0), (129, 0), (1, 4 * tokens), (300, 3 * tokens + 5), (17, 900))
    chunks = [
        ChunkRows(_chunk_table(source, count, before, shares), before, [1] * count, True)
        for count, before in sizes
    ]
    step = build_inputs([], chunks, layout, source.device, item_blocks=8)
    assert step.prefill is not None
    q = randn(context, sum(count for count, _ in sizes), heads, layout.head_dim)
    poison(context)
    scale = layout.head_dim**-0.5
    found = ops_of(context).prefill_attention(q, source.arena, layout, 1, step.prefill, scale)
    wanted = reference.prefill_attention(q, source.arena, layout, 1, step.prefill, scale)
    ends = step.prefill.first_row.tolist()
    spans = [slice(a, b) for a, b in pairwise(ends)]
    return max(reference.relative_error(found[s], wanted[s]) for s in spans)


def _chunk_table(source: RandomArena, count: int, before: int, shares: Shares) -> Table:
    """Full blocks before the chunk have `shares`; its own tokens are in blocks of 16 bits."""
    tokens = source.layout.block_tokens
    full = before // tokens * tokens
    head = source.table(full + 1, shares) if full else source.table(1)
    tail = source.table(count + before - full)
    keep = full // tokens
    return Table(
        np.concatenate([head.offsets[:keep], tail.offsets]),
        np.concatenate([head.bits[:keep], tail.bits]),
    )


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
    chunk = ChunkRows(_chunk_table(source, 70, 100, MIXES["mixed"]), 100, [1] * 70, True)
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


def _by_shape(name: str, check: Callable[..., Result]) -> dict[str, Check]:
    """A check for each shape, so that they can run, and compile, side by side."""
    return {f"{name}-{shape}": partial(check, shape=shape) for shape in SHAPES}


CHECKS: dict[str, Check] = {
    **_by_shape("decode", decode_attention),
    **_by_shape("prefill", prefill_attention),
    **_by_shape("requantise", requantise),
    "linear": linear,
    "linear_int8": linear_int8,
    "moe": moe,
    "far_arena": far_arena,
    "rms_norm": rms_norm,
    "largest": largest,
    "activations": activations,
    "rope_write": rope_write,
    "copy_blocks": copy_blocks,
    "drawn": drawn,
}
