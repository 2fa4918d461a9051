"""The checks of part `speed`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.gpu_check.checks import Check, Result
from experiments.gpu_check.speed.attention import (
    DECODE_VARIANTS,
    PREFILL_VARIANTS,
    decode_shapes,
    decode_tiles,
    prefill,
)
from experiments.gpu_check.speed.dense import dense_products, int8_products, moe, streaming
from experiments.gpu_check.speed.peers import decode_peers, prefill_peers


def _variants(
    name: str, check: Callable[..., Result], found: tuple[dict[str, int], ...]
) -> dict[str, Check]:
    """A check for each variant, so that they can be compiled side by side."""
    return {f"{name}-{i}": partial(check, change=change) for i, change in enumerate(found)}


CHECKS: dict[str, Check] = {
    "decode_shapes": decode_shapes,
    **_variants("decode_tiles", decode_tiles, DECODE_VARIANTS),
    **_variants("prefill", prefill, PREFILL_VARIANTS),
    "prefill_peers": prefill_peers,
    "int8": int8_products,
    "streaming": streaming,
    "dense_products": dense_products,
    "moe": moe,
    "decode_peers": decode_peers,
}
