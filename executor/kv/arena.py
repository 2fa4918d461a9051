"""The memory that blocks lie in: slabs on the device, and pinned chunks on the host.

The core counts how many blocks fit (`memory.blocks.slabs.Slabs`). Where there are smaller
blocks the device's arena has three slabs more than it counts. It lets a part-filled slab's worth of
8-bit blocks, and one of 4-bit blocks, keep the room that they had at 16 bits (or 8); here they get
a slab of their own, so that every slab holds one precision. And a block cannot lose bits where it
lies, because the parallel parts of a kernel would overwrite what others have yet to read: one slab
is there to write into. With these three every placement of counts that the core allows exists, and
is reached by moving blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from executor.device import is_out_of_memory
from executor.kv.layout import KVLayout
from executor.kv.slabs import SlabAllocator
from executor.kv.tables import Offsets
from superinfer.errors import ConfigError
from superinfer.memory.blocks.slabs import SLAB_BYTES, Slabs, slabs_of

WORK_SLABS = 3
"""Slabs beyond those that the core counts, where there are smaller blocks."""
CHUNK_BYTES = 256 << 20
"""Of host memory that is pinned at once, at most (but one block at least): torch rounds each
allocation up to a power of two."""


@dataclass(frozen=True)
class ArenaSize:
    """How large an arena is."""

    block_bytes: dict[int, int]
    per_slab: dict[int, int]
    """Blocks in a slab by bits; 16 alone where no block loses any."""
    slabs: int

    @property
    def slab_bytes(self) -> int:
        """Of one slab: whole blocks of 16 bits."""
        return self.block_bytes[16] * self.per_slab[16]

    @property
    def nbytes(self) -> int:
        """Of the whole arena."""
        return self.slabs * self.slab_bytes


def arena_size(layout: KVLayout, blocks: int, slabs: Slabs, smaller: bool = True) -> ArenaSize:
    """The arena for `blocks` blocks of 16 bits; `smaller`: some may lose bits."""
    if not smaller:  # all places are alike
        return ArenaSize({16: layout.block_bytes[16]}, {16: max(1, blocks)}, 1)
    sizes = dict(layout.block_bytes)
    counts = {16: slabs.blocks_16, 8: slabs.blocks_8, 4: slabs.blocks_4}
    slab_bytes = sizes[16] * counts[16]
    for bits, nbytes in sizes.items():
        if counts[bits] * nbytes > slab_bytes:
            raise ConfigError(
                f"{counts[bits]} blocks of {bits} bits ({nbytes} bytes each) do not fit "
                f"into a slab of {slab_bytes} bytes"
            )
    return ArenaSize(sizes, counts, -(-blocks // counts[16]) + WORK_SLABS)


def blocks_within(
    nbytes: int, layout: KVLayout, smaller: bool = True, slab_bytes: int = SLAB_BYTES
) -> tuple[int, Slabs]:
    """How many blocks of 16 bits the core may count in an arena of `nbytes`, and its slabs."""
    sizes = layout.block_bytes
    slabs = slabs_of(sizes[16], sizes[8], sizes[4], slab_bytes) if smaller else Slabs()
    whole = nbytes // (slabs.blocks_16 * sizes[16]) - (WORK_SLABS if smaller else 0)
    return max(0, whole) * slabs.blocks_16, slabs


class Arena:
    """Device memory for blocks of all precisions: one tensor of bytes, `tensor`."""

    def __init__(self, layout: KVLayout, size: ArenaSize, device: torch.device) -> None:
        """Raises ConfigError if the device has not so much memory left."""
        self.layout, self.size = layout, size
        try:
            self.tensor = torch.empty(size.nbytes, dtype=torch.uint8, device=device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(
                f"no room on {device} for {size.nbytes / 2**30:.2f} GiB of KV cache: "
                "lower --kv-blocks"
            ) from None

    def allocator(self) -> SlabAllocator:
        """One that hands out the places of the whole arena."""
        size = self.size
        return SlabAllocator(size.slabs, size.slab_bytes, size.block_bytes, size.per_slab)


class HostArena:
    """Host memory for blocks, counted as ones of 16 bits. Smaller ones lie in slabs there, too.

    Memory comes in chunks of whole slabs, pinned where there is a GPU. A block lies in one chunk.
    """

    def __init__(
        self, block_bytes: int, blocks: int, *, pinned: bool, slab_blocks: int = 1
    ) -> None:
        """Slabs hold `slab_blocks` blocks of 16 bits, of `block_bytes` each."""
        self.block_bytes, self.pinned = block_bytes, pinned
        slabs = min(-(-blocks // slab_blocks), CHUNK_BYTES // (slab_blocks * block_bytes))
        self.chunk_blocks = max(1, slabs) * slab_blocks
        """Blocks in a chunk."""
        self._chunks: list[Tensor] = []
        self.blocks = 0
        self.grow_to(blocks)

    def grow_to(self, blocks: int) -> None:
        """Add chunks until there is room for so many blocks. Raises ConfigError if the machine
        lacks the memory.
        """
        nbytes = self.chunk_blocks * self.block_bytes
        while self.blocks < blocks:
            try:
                chunk = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.pinned)
            except RuntimeError:  # torch has no error of its own for the host
                raise ConfigError(
                    f"no host memory for {blocks} blocks of KV cache "
                    f"({blocks * self.block_bytes / 2**30:.2f} GiB): lower run.host_memory_gib"
                ) from None
            self._chunks.append(chunk)
            self.blocks += self.chunk_blocks

    def view(self, offset: int, nbytes: int) -> Tensor:
        """Bytes from an offset on; they have to lie in one chunk."""
        chunk, start = divmod(offset, self.chunk_blocks * self.block_bytes)
        return self._chunks[chunk][start : start + nbytes]

    def chunks_of(self, offsets: Offsets) -> Offsets:
        """The chunk in which each of these offsets is."""
        return offsets // (self.chunk_blocks * self.block_bytes)
