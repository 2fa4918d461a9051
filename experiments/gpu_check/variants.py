"""Variants of kernels: entries of their tile tables for a while, and what to time them on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from executor.bench.attention import Heads
from executor.bench.steps import arena_room
from executor.calibration.cases import RandomArena
from executor.steps.items import ItemBudget
from experiments.gpu_check.checks import Context
from experiments.gpu_check.setting import device_of


def arena_of(context: Context, heads: Heads, bits: int, blocks: int) -> RandomArena:
    """An arena with that many blocks of `bits`, if they fit, and some of 16 bits for tails."""
    device, size = device_of(context), heads.layout.block_bytes[bits]
    blocks = 64 if context.rehearsal else max(64, min(blocks, arena_room(device) // (2 * size)))
    return RandomArena(heads.layout, {16: 160, bits: blocks + 160}, device)


def budget_of(context: Context, heads: Heads, programs: int, shortest: int) -> ItemBudget:
    """Of so many programs per multiprocessor, and items of so many tokens at least."""
    layout, processors = heads.layout, 8
    if not context.tiny:
        processors = torch.cuda.get_device_properties(0).multi_processor_count
    blocks = max(1, shortest // layout.block_tokens)
    return ItemBudget(-(-processors * programs // layout.kv_heads), blocks)


@contextmanager
def tiles(module: str, change: dict[str, int]) -> Iterator[None]:
    """Change the tile table of a kernel for this device, for a while."""
    from executor.kernels.tiles import capability

    table = import_module(f"executor.kernels.{module}").TILES
    key = capability(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with patch.dict(table, {key: _changed(table[key], change)} if change else {}):
        yield


def _changed(entry: Any, change: dict[str, int]) -> Any:
    if isinstance(entry, dict) and all(isinstance(inner, dict) for inner in entry.values()):
        return {rows: _changed(inner, change) for rows, inner in entry.items()}
    unknown = set(change) - set(entry)
    if unknown:
        raise KeyError(f"the tile table has no {', '.join(sorted(unknown))}: {entry}")
    return {**entry, **change}


def label(change: dict[str, int]) -> str:
    """A variant in words."""
    return " ".join(f"{key}={value}" for key, value in change.items()) or "default"
