"""How finely attention of decodes is cut into work items.

Too few items leave multiprocessors idle, too many cost more in partial results than they gain. So
a row may have one item per precision, and beside those the step has as many more as keep the
device busy; the items are as long as that budget asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from executor.kernels.tiles import capability
from executor.kv.layout import KVLayout
from executor.steps.packing import CLASSES

PROGRAMS_PER_PROCESSOR = 8
"""Programs that keep a multiprocessor busy, loads and arithmetic of several overlapping."""
PROGRAMS_AT_ONCE = 12
"""Programs of decode attention that a multiprocessor of sm_90 has room for."""
WAVES: dict[int, bool] = {80: False, 90: False}
"""By architecture: whether many rows are cut so that their programs fill whole waves. Prepared; no
device has measured it."""
WAVES_FROM_ROWS = 16
"""With fewer, merging many items of a row costs more (`kernels.decode_attention.MANY_ROWS`)."""
MOST_ITEMS, ITEM_COST_BLOCKS = 8, 2
"""Items of a row at the most, where waves decide, and blocks that one more costs."""
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
    at_once: int = 0
    """Items of the size of a wave of programs, if many rows are cut by waves."""

    @staticmethod
    def of(layout: KVLayout, device: torch.device, waves: bool | None = None) -> ItemBudget:
        """The budget of a device; `waves` in place of what `WAVES` says."""
        if device.type != "cuda":
            return ItemBudget(0, HOST_BLOCKS)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        shortest = max(1, SHORTEST_ITEM_TOKENS // layout.block_tokens)
        extra = -(-processors * PROGRAMS_PER_PROCESSOR // layout.kv_heads)
        waves = WAVES[capability(device)] if waves is None else waves
        at_once = processors * PROGRAMS_AT_ONCE // layout.kv_heads if waves else 0
        return ItemBudget(extra, shortest, at_once)

    def capacity(self, rows: int) -> int:
        """Items that a step of so many rows has at most."""
        return rows * CLASSES + self._extra(rows)

    def item_blocks(self, rows: int, blocks: int) -> int:
        """Blocks per item at most, so that the items of the rows stay within `capacity`.

        A group of n blocks has less than `n / item_blocks + 1` items.
        """
        extra = self._extra(rows)
        if not extra:
            return max(self.shortest_blocks, blocks)
        least = max(self.shortest_blocks, -(-blocks // extra))
        return max(least, self._of_waves(rows, blocks)) if self._by_waves(rows) else least

    # -- inside ---------------------------------------------------------------------------------

    def _by_waves(self, rows: int) -> bool:
        return bool(self.at_once) and rows >= WAVES_FROM_ROWS

    def _extra(self, rows: int) -> int:
        return max(self.extra, 2 * self.at_once) if self._by_waves(rows) else self.extra

    def _of_waves(self, rows: int, blocks: int) -> int:
        """Blocks of an item with which rows of the mean length are through first: a wave of
        programs that is nearly empty takes as long as a full one.
        """
        each = max(1, -(-blocks // rows))
        lengths = [-(-each // items) for items in range(1, MOST_ITEMS + 1)]

        def turns(length: int) -> int:
            waves = -(-rows * -(-each // length) // self.at_once)
            return waves * (length + ITEM_COST_BLOCKS)

        return min(lengths, key=turns)
