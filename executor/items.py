"""How finely attention of decodes is cut into work items.

Too few items leave multiprocessors idle, too many cost more in partial results than they gain. So
a row may have one item per precision, and beside those the step has as many more as keep the
device busy; the items are as long as that budget asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from executor.kv.layout import KVLayout
from executor.packing import CLASSES

PROGRAMS_PER_PROCESSOR = 8
"""Programs that keep a multiprocessor busy, loads and arithmetic of several overlapping."""
SHORTEST_ITEM_TOKENS = 64
"""Shorter items cost more to merge than they bring."""
HOST_BLOCKS = 1 << 20
"""On a CPU a row has one item per precision."""


@dataclass(frozen=True, slots=True)
class ItemBudget:
    """Work items of a step."""

    extra: int
    """Items beside one per row and precision."""
    shortest_blocks: int
    """Blocks of an item that is not the last of its row and precision, at least."""

    @staticmethod
    def of(layout: KVLayout, device: torch.device) -> ItemBudget:
        """The budget of a device."""
        if device.type != "cuda":
            return ItemBudget(0, HOST_BLOCKS)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        programs = processors * PROGRAMS_PER_PROCESSOR
        shortest = max(1, SHORTEST_ITEM_TOKENS // layout.block_tokens)
        return ItemBudget(-(-programs // layout.kv_heads), shortest)

    def capacity(self, rows: int) -> int:
        """Items that a step of so many rows has at most."""
        return rows * CLASSES + self.extra

    def item_blocks(self, rows: int, blocks: int) -> int:
        """Blocks per item at most, so that the items of the rows stay within `capacity`.

        A group of n blocks has less than `n / item_blocks + 1` items.
        """
        if not self.extra:
            return max(self.shortest_blocks, blocks)
        return max(self.shortest_blocks, -(-blocks // self.extra))
