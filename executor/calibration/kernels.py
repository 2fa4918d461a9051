"""The kernels of a step over a grid of sizes, each as the models launch it.

Weights take turns among so many sets that none of them is still in the cache; keys and values lie
in an arena far larger than it, and layers take turns. What is timed is random, never zeros.
Products with weights are in `products`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.bench.attention import Heads, time_decode, time_prefill
from executor.calibration.bench import EPS, Bench, between, curve
from executor.calibration.cases import RandomArena
from executor.calibration.filling import prefill_work
from executor.calibration.tables import Axes, Family, hold_out, measure_curve, measure_grid
from executor.calibration.timing import Call, Deadline, Timing


def measure_norm(bench: Bench, deadline: Deadline) -> Family:
    """Both norms of a layer, each with the sum that it makes. Where products do that, a step has
    two norms in all, the first and the last, and each layer counts its share of them.
    """
    hidden = bench.shape.hidden
    weight = bench.randn(hidden)

    def once(x: Tensor, y: Tensor) -> Call:
        if bench.shape.learned_positions:
            return lambda: F.layer_norm(x + y, (hidden,), weight, weight, EPS)
        return lambda: bench.ops.rms_norm(x, weight, EPS, y)

    def at(rows: int) -> Timing:
        pairs = _activations(bench, rows, (hidden, hidden))
        timing = bench.time([once(x, y) for x, y in pairs])
        share = 1 / bench.shape.layers if rows <= bench.fused_rows else 1.0
        return Timing(2 * share * timing.seconds, timing.spread, timing.repeats)

    return curve(bench, bench.grids.tokens, "tokens", at, deadline, fused=True)


def _activations(bench: Bench, rows: int, widths: tuple[int, ...]) -> list[list[Tensor]]:
    """Some sets of activations. In a step they were written just before: they may be cached."""
    return [[bench.randn(rows, width) for width in widths] for _ in range(2)]


def measure_activation(bench: Bench, deadline: Deadline) -> Family:
    """The activation of the MLP; nothing where the product of gate and up does it."""
    width = bench.shape.intermediate

    def once(x: Tensor) -> Call:
        if bench.shape.gated_mlp:
            return lambda: bench.ops.silu_mul(x)
        return lambda: F.gelu(x, approximate="tanh")

    def at(rows: int) -> Timing:
        if rows <= bench.fused_rows:
            return Timing(0.0, 0.0, 0)
        wide = width * (2 if bench.shape.gated_mlp else 1)
        return bench.time([once(x) for (x,) in _activations(bench, rows, (wide,))])

    return curve(bench, bench.grids.tokens, "tokens", at, deadline, fused=True)


def measure_embed(bench: Bench, deadline: Deadline) -> Family:
    """Rows out of the embedding, once per step."""
    table = bench.randn(bench.shape.vocab, bench.shape.hidden)

    def at(rows: int) -> Timing:
        ids = [torch.randint(0, bench.shape.vocab, (rows,), device=bench.device) for _ in range(4)]
        return bench.time([partial(F.embedding, i, table) for i in ids])

    return curve(bench, bench.grids.tokens, "tokens", at, deadline)


def measure_sample(bench: Bench, deadline: Deadline) -> Family:
    """The likeliest tokens out of logits, as the runner takes and keeps them."""

    def at(rows: int) -> Timing:
        kept = torch.zeros(rows, dtype=torch.int64, device=bench.device)
        logits = [bench.randn(rows, bench.shape.vocab) for _ in range(2)]
        return bench.time([partial(bench.ops.largest, x, kept) for x in logits])

    return curve(bench, bench.grids.rows, "sequences", at, deadline)


def measure_rope(bench: Bench, source: RandomArena, deadline: Deadline) -> Family:
    """Rotation of queries and keys, and keys and values into blocks."""
    shape, layout = bench.shape, bench.layout
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    cos = sin = None
    if not shape.learned_positions:
        angles = torch.rand(shape.max_model_len, shape.head_dim // 2, device=bench.device)
        cos, sin = angles.cos(), angles.sin()
    blocks = torch.from_numpy(source.offsets[16]).to(bench.device)

    def once(fused: Tensor, where: Tensor, slots: Tensor, layer: int) -> Call:
        heads = fused.unflatten(1, (-1, layout.head_dim))
        q, k, v = heads.split((shape.heads, layout.kv_heads, layout.kv_heads), dim=1)
        return lambda: bench.ops.rope_write(
            q, k, v, cos, sin, slots, source.arena, layout, layer, where, slots
        )

    def at(rows: int) -> Timing:
        slots = torch.arange(rows, device=bench.device, dtype=torch.int32) % layout.block_tokens
        picked = torch.arange(rows, device=bench.device) // layout.block_tokens % len(blocks)
        where = blocks[picked].contiguous()
        sets = _activations(bench, rows, (width,))
        layers = range(min(layout.layers, 8))
        return bench.time([once(sets[i % 2][0], where, slots, i) for i in layers])

    return curve(bench, bench.grids.tokens, "tokens", at, deadline)


def measure_decode(bench: Bench, source: RandomArena, bits: int, deadline: Deadline) -> Family:
    """Decode attention of one layer over sequences of equal context."""
    heads, grids = Heads(bench.shape.heads, bench.layout), bench.grids

    def at(sequences: int, context: int) -> Timing:
        contexts = [context] * sequences
        return time_decode(bench.ops, heads, source, contexts, bits, bench.budget, bench.point_s)

    axes: Axes = {"sequences": grids.sequences, "context_tokens": grids.contexts}
    family = measure_grid(axes, at, deadline, grids.most_context)
    family.range["total_context_tokens"] = (0.0, float(grids.most_context))
    places = zip(between(bench, grids.sequences), between(bench, grids.contexts), strict=True)
    if not deadline.over:
        hold_out(family, [p for p in places if p[0] * p[1] <= grids.most_context], at)
    return family


def measure_prefill(bench: Bench, source: RandomArena, deadline: Deadline) -> Family:
    """Attention of one layer of one chunk, over its context and itself."""
    heads, grids = Heads(bench.shape.heads, bench.layout), bench.grids

    def at(tokens: int, before: int) -> Timing:
        return time_prefill(bench.ops, heads, source, (tokens, before), bench.point_s)

    axes: Axes = {"chunk_tokens": grids.chunks, "context_tokens": grids.before}
    most = grids.chunks[-1] * grids.before[-2]
    family = measure_grid(axes, at, deadline, most, prefill_work)
    places = zip(between(bench, grids.chunks), between(bench, grids.before), strict=True)
    if not deadline.over:
        hold_out(family, list(places), at)
    return family


def measure_requantise(
    bench: Bench, source: RandomArena, to_bits: int, deadline: Deadline
) -> Family:
    """Full blocks of 16 bits rewritten with fewer; over the bytes read and written."""
    layout, device = bench.layout, bench.device
    blocks = {bits: torch.from_numpy(found).to(device) for bits, found in source.offsets.items()}
    size = layout.block_bytes[16] + layout.block_bytes[to_bits]

    def at(nbytes: int) -> Timing:
        count = max(1, nbytes // size)

        def once(first: int) -> Call:
            sources = blocks[16][first : first + count]
            targets = blocks[to_bits][first : first + count]
            return lambda: bench.ops.requantise(source.arena, layout, sources, targets, 16, to_bits)

        return bench.time([once(0), once(count)])

    most = min(len(found) for found in blocks.values()) // 2
    axis = tuple(size * count for count in bench.grids.blocks if count <= most)
    return measure_curve(axis, "bytes", at, deadline)


def measure_copy(bench: Bench, source: RandomArena, deadline: Deadline) -> Family:
    """Blocks copied inside the arena; over the bytes read and written."""
    size = bench.layout.block_bytes[16]
    blocks = torch.from_numpy(source.offsets[16]).to(bench.device)

    def at(nbytes: int) -> Timing:
        count = max(1, nbytes // (2 * size))
        sources, targets = blocks[:count], blocks[count : 2 * count]
        return bench.time([lambda: bench.ops.copy_blocks(source.arena, sources, targets, size)])

    axis = tuple(2 * size * count for count in bench.grids.blocks if 2 * count <= len(blocks))
    return measure_curve(axis, "bytes", at, deadline)


def measure_moe(bench: Bench, deadline: Deadline) -> Iterator[tuple[str, Family]]:
    """Choosing experts, and their work."""
    shape = bench.shape
    router = bench.randn(shape.experts, shape.hidden, scale=0.02)
    gate_up, up_scales = _experts(bench, 2 * shape.intermediate, shape.hidden)
    down, down_scales = _experts(bench, shape.hidden, shape.intermediate)
    scales = None if up_scales is None else (up_scales, down_scales)

    def route(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(x, router)
        weights, some = torch.topk(torch.softmax(logits.float(), -1), shape.experts_per_token)
        return weights / weights.sum(-1, keepdim=True), some

    def at_route(rows: int) -> Timing:
        return bench.time(
            [partial(route, x) for (x,) in _activations(bench, rows, (shape.hidden,))]
        )

    def at_gemm(rows: int) -> Timing:
        sets = [(x, *route(x)) for (x,) in _activations(bench, rows, (shape.hidden,))]
        work = partial(bench.ops.moe, gate_up=gate_up, down=down, scales=scales)
        return bench.time([partial(work, x, w, e) for x, w, e in sets])

    yield "moe_route", curve(bench, bench.grids.tokens, "tokens", at_route, deadline)
    # Few rows take more than one does, because more experts are read: no guide for that.
    yield "moe_gemm", curve(bench, bench.grids.tokens, "tokens", at_gemm, deadline, None)


def _experts(bench: Bench, outputs: int, inputs: int) -> tuple[Tensor, Tensor | None]:
    """A matrix of every expert, and the scales of one in int8."""
    experts = bench.shape.experts
    if not bench.int8:
        return bench.randn(experts, outputs, inputs, scale=0.02), None
    codes, scales = bench.weights(experts * outputs, inputs)
    assert scales is not None
    return codes.view(experts, outputs, inputs), scales.view(experts, outputs)
