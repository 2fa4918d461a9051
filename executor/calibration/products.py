"""Products with the weights of a model, over numbers of rows, as its layers launch them.

Steps of few rows may go by products that norm, add and activate on the way (`Bench.fused_rows`).
Then these are timed, what they do is part of their time, and norms and activation take none there.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from executor.calibration.bench import EPS, Bench, curve
from executor.calibration.tables import Family
from executor.calibration.timing import Call, Deadline, Timing, copies_beyond_cache
from executor.models.layers import Linear
from superinfer.costs.shapes import ModelShape


def gemm_sizes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the projections, fused as the models fuse them."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    wide = shape.intermediate * (2 if shape.gated_mlp else 1)
    mlp = {"gate_up": (wide, shape.hidden), "down": (shape.hidden, shape.intermediate)}
    return {
        "qkv": (queries + 2 * keys, shape.hidden),
        "o": (shape.hidden, queries),
        **({} if shape.experts else mlp),
        "lm_head": (shape.vocab, shape.hidden),
    }


def measure_gemm(bench: Bench, part: str, size: tuple[int, int], deadline: Deadline) -> Family:
    """One projection."""
    outputs, inputs = size
    nbytes = outputs * inputs * (1 if bench.int8 else bench.dtype.itemsize)
    sets = [
        _projection(bench, part, size) for _ in range(copies_beyond_cache(nbytes, bench.device, 12))
    ]
    head = part == "lm_head"

    def at(rows: int) -> Timing:
        if not head and rows <= bench.fused_rows:
            return bench.time(_fused(bench, part, rows, [each.weight for each in sets]))
        x = bench.randn(rows, inputs)
        return bench.time([partial(projection, x) for projection in sets])

    axis = bench.grids.rows if head else bench.grids.tokens
    return curve(bench, axis, "tokens", at, deadline, fused=not head)


def _projection(bench: Bench, part: str, size: tuple[int, int]) -> Linear:
    """The layer as a model has it: what it launches for how many rows is its own choice."""
    weight, scales = bench.weights(*size)
    bias = bench.randn(size[0]) if part in bench.biased else None
    return Linear(weight, bench.ops, scales, bias)


def _fused(bench: Bench, part: str, rows: int, weights: list[Tensor]) -> list[Call]:
    """The projection as a layer of few rows has it: with the norm before it and, of gate and up,
    the activation behind it, or with the residual and the gains of the next norm.
    """
    ops, (outputs, inputs) = bench.ops, weights[0].shape
    x, residual, gain = bench.randn(rows, inputs), bench.randn(rows, outputs), bench.randn(outputs)
    if part in {"o", "down"}:
        return [partial(ops.linear_add, x, weight, residual, gain) for weight in weights]
    # Of what these get, the sums of squares have a shape that is the operations' own.
    square = bench.randn(inputs, inputs, scale=inputs**-0.5)
    _, scaled, squares = ops.linear_add(x, square, x, bench.randn(inputs))
    run = ops.linear_gated if part == "gate_up" else ops.linear_normed
    return [partial(run, scaled, squares, EPS, weight) for weight in weights]
