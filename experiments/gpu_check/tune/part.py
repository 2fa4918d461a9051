"""The checks of part `tune`; a sorted table ends it."""

from __future__ import annotations

from functools import partial
from typing import Any

from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.rows import Row, outcome
from experiments.gpu_check.tune import attention, int8, steps, wide


def ranking(context: Context) -> Result:
    """All that was measured, fastest first within each shape."""
    rows = []
    for name in ("steps", "wide", "decode", "shapes", "int8", "prefill"):
        found = [row for row in context.cache.get(name, []) if "us" in row]
        keys = ("kv", "B", "ctx", "m", "n", "k", "chunk", "context")
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in found:
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
        for group in groups.values():
            rows += [{"what": name, **row} for row in sorted(group, key=lambda row: row["us"])[:4]]
    return outcome(rows)


CHECKS: dict[str, Check] = {
    **{
        f"decode-{i}": partial(attention.decode, change=change)
        for i, change in enumerate(attention.DECODE)
    },
    **{
        f"prefill-{i}": partial(attention.prefill_tiles, rows=rows, change=change)
        for i, (rows, change) in enumerate(attention.PREFILL)
    },
    "prefill_context": attention.prefill_context,
    **{f"widen-{rows}": partial(int8.widened, rows=rows) for rows in int8.WIDEN_ROWS},
    "fused": steps.fused,
    "asked": steps.asked,
    **{f"shared-{rows}": partial(wide.shared, rows=rows) for rows in wide.TILES},
    **{
        f"int8-{rows}-{i}": partial(int8.tile, rows=rows, shape=shape)
        for rows, shapes in int8.INT8.items()
        for i, shape in enumerate(shapes)
    },
    "decode_shapes": attention.decode_shapes,
    "ranking": ranking,
}
"""What could bring most first."""
