"""Products of many rows with int8 weights: the weights are widened first, and a library multiplies.

Our own product with codes converts them again for every tile of rows, and reached about 500 TFLOP/s
on an H200 where the library's, in bfloat16, reached 763. To turn the codes of a layer, times their
scales, into numbers of the type of the rows costs one byte read and two written for each, whatever
the number of rows. So from some number of rows on it pays.

It is done in pieces of outputs that share one scratch, which would else be as large as the largest
matrix in 16 bits: 0.94 GB for gate and up of Llama-3.1-70B. Each piece of the product is written
into its columns of the result. The weights are rounded once more, to the type of the rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.registry import Entry
from executor.kernels.tiles import capability

WIDEN_FROM: dict[int, int | None] = {80: None, 90: None}
"""Rows from which weights are widened, per architecture; None: never. 512 is what is predicted for
an H200 (experiments/results/h200/predictions.md); no device has measured it."""
PIECE_BYTES = 128 << 20
"""Of the scratch. 2,048 outputs of 28,672 inputs are 112 MiB, and with 2,048 rows 128 tiles of 128
x 256, the library's for such sizes, for 132 multiprocessors; smaller pieces leave more of them
idle, but stay in the L2. Beside the 70B it is the room of 13 blocks of 5,806."""
LEAST_OUTS = 128
"""Outputs of a piece at the least."""
ROWS, WIDTH = 8, 1024
"""Tile of a program."""
WARPS = 4


@triton.jit
def widen_kernel(codes, scales, out, n, k, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A tile of `codes` int8 [n, k], each row times its entry of `scales` float32 [n]."""
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = (row < n)[:, None] & (column < k)[None, :]
    at = row.to(tl.int64)[:, None] * k + column[None, :]
    found = tl.load(codes + at, mask=there, other=0).to(tl.float32)
    scale = tl.load(scales + row, mask=row < n, other=0.0)
    tl.store(out + at, (found * scale[:, None]).to(out.dtype.element_ty), mask=there)


def is_widened(x: Tensor) -> bool:
    """Whether weights of int8 are widened for these rows."""
    least = WIDEN_FROM[capability(x.device)]
    return least is not None and len(x) >= least and x.itemsize == 2


def widened_product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """See `Ops.linear_int8`; for rows of 16 bits."""
    (m, k), n = x.shape, len(weight)
    piece = min(n, outs_of_piece(k, x.itemsize))
    scratch = torch.empty((piece, k), dtype=x.dtype, device=x.device)
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    for begin in range(0, n, piece):
        some = slice(begin, min(begin + piece, n))
        wide = scratch[: some.stop - begin]
        widen(weight[some], scales[some], wide)
        torch.mm(x, wide.T, out=out[:, some])
    return out


def widen(codes: Tensor, scales: Tensor, out: Tensor) -> None:
    """Write `codes` [n, k] times `scales` [n] to `out` [n, k]."""
    n, k = codes.shape
    grid = (triton.cdiv(k, WIDTH), triton.cdiv(n, ROWS))
    widen_kernel[grid](codes, scales, out, n, k, ROWS=ROWS, WIDTH=WIDTH, num_warps=WARPS)


def outs_of_piece(k: int, itemsize: int) -> int:
    """Outputs that the scratch holds, a power of two: whole tiles, and of them whole waves."""
    most = max(PIECE_BYTES // (k * itemsize), LEAST_OUTS)
    return 1 << (most.bit_length() - 1)


def entries() -> list[Entry]:
    """For both types of 16 bits."""
    types = {"codes": "*i8", "scales": "*fp32", "n": "i32", "k": "i32"}
    return [
        Entry(
            name=f"widen {dtype}",
            kernel=widen_kernel,
            capability=chip,
            types={**types, "out": f"*{dtype}"},
            constants={"ROWS": ROWS, "WIDTH": WIDTH},
            aligned=("codes", "scales", "out", "n", "k"),
            options={"num_warps": WARPS},
            max_registers=80,
        )
        for chip in (80, 90)
        for dtype in ("bf16", "fp16")
    ]
