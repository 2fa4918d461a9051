"""The place of the largest number of each row: the next tokens, where the likeliest one is taken.

torch gives a row of a vocabulary to one multiprocessor as long as there are few rows, which takes
it some 25 us whatever else is idle. Here programs share a row, and a second launch compares what
each of them found. Of equal numbers the first one counts, as in torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.registry import Entry
from executor.kernels.tiles import power_of_two

SPAN = 4096
"""Numbers of a row that one program looks at."""
WARPS = 4


@triton.jit
def largest_of_spans(x, stride, n, tops, places, SPAN: tl.constexpr):
    """The largest of SPAN numbers of a row, float32, and where in the row it is."""
    row = tl.program_id(0)
    span = tl.program_id(1)
    at = span * SPAN + tl.arange(0, SPAN)
    values = tl.load(x + row.to(tl.int64) * stride + at, mask=at < n, other=float("-inf"))
    top, place = tl.max(
        values.to(tl.float32), 0, return_indices=True, return_indices_tie_break_left=True
    )
    target = row * tl.num_programs(1) + span
    tl.store(tops + target, top)
    # What is no number is larger than nothing: whatever comes of it has to be a place all the same.
    tl.store(places + target, tl.minimum(span * SPAN + place, n - 1))


@triton.jit(do_not_specialize=["spans"])
def largest_of_rows(tops, places, out, spans, SPANS: tl.constexpr):
    """The place of the largest of what was found in a row's spans, which are in order."""
    row = tl.program_id(0)
    at = tl.arange(0, SPANS)
    found = tl.load(tops + row * spans + at, mask=at < spans, other=float("-inf"))
    _, span = tl.max(found, 0, return_indices=True, return_indices_tie_break_left=True)
    span = tl.minimum(span, spans - 1)
    tl.store(out + row, tl.load(places + row * spans + span).to(tl.int64))


def largest(x: Tensor, out: Tensor) -> Tensor:
    """See `Ops.largest`."""
    rows, n = x.shape
    if not rows:
        return out
    spans = triton.cdiv(n, SPAN)
    tops = torch.empty((rows, spans), dtype=torch.float32, device=x.device)
    places = torch.empty((rows, spans), dtype=torch.int32, device=x.device)
    largest_of_spans[(rows, spans)](
        x, x.stride(0), n, tops, places, SPAN=SPAN, num_warps=WARPS
    )  # fmt: skip
    largest_of_rows[(rows,)](tops, places, out, spans, SPANS=power_of_two(spans), num_warps=1)
    return out


def entries() -> list[Entry]:
    """Both launches, for a vocabulary of 128,256."""
    found = []
    pointers = {"tops": "*fp32", "places": "*i32"}
    for chip in (80, 90):
        for dtype in ("bf16", "fp32"):
            found.append(
                Entry(
                    name=f"largest_of_spans {dtype}",
                    kernel=largest_of_spans,
                    capability=chip,
                    types=pointers | {"x": f"*{dtype}", "stride": "i32", "n": "i32"},
                    constants={"SPAN": SPAN},
                    aligned=("x", "stride", "n", "tops", "places"),
                    options={"num_warps": WARPS},
                    max_registers=128,
                )
            )
        found.append(
            Entry(
                name="largest_of_rows",
                kernel=largest_of_rows,
                capability=chip,
                types=pointers | {"out": "*i64", "spans": "i32"},
                constants={"SPANS": 32},
                aligned=("tops", "places", "out"),
                options={"num_warps": 1},
                max_registers=64,
            )
        )
    return found
