"""The arrays of a step in one buffer of bytes, of which the tensors on the device are views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executor.steps.step import BlockLists, DecodeItems, PrefillChunks, StepInputs

Array = NDArray[Any]
Places = dict[str, tuple[int, type, tuple[int, ...]]]

CLASSES = 3
"""Precisions, in the order 16, 8, 4 bits."""
ALIGNMENT = 16
"""Bytes; every tensor begins at a multiple, as wide loads want it."""
PINNED_AT_ONCE = 3
"""Pinned buffers of one size that are in use together: of the step that runs, of the one that is
queued, and of the one that is being prepared."""
SMALL_BYTES, SMALL_AT_ONCE = 16 << 10, 24
"""Of this size and less a step has several more: places of blocks that move, settings of tokens
that are drawn (`sent`), and the tokens."""
BLOCK_LISTS = ("decode_offsets", "decode_positions", "chunk_offsets", "chunk_positions")
"""The arrays of a step of which a larger buffer may be filled in part."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lengths of a step's arrays; those of a captured step are capacities."""

    rows: int
    decodes: int = 0
    items: int = 0
    decode_blocks: int = 0
    chunks: int = 0
    chunk_blocks: int = 0
    wanted: int = 0
    longest: int = 0
    whole_step: bool = False
    """See `PrefillChunks`."""

    def fields(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        """Type and shape of each array, in the order in which they lie in the buffer.

        The lists of blocks come last, so that a copy may stop where they end.
        """
        i4, i8 = np.int32, np.int64
        return {
            "token_ids": (i8, (self.rows,)),
            "write_offsets": (i8, (self.rows,)),
            "logit_rows": (i8, (self.wanted,)),
            "positions": (i4, (self.rows,)),
            "write_slots": (i4, (self.rows,)),
            "item_bits": (i4, (self.items,)),
            "item_rows": (i4, (self.items,)),
            "item_first": (i4, (self.items,)),
            "item_tokens": (i4, (self.items,)),
            "row_items": (i4, (self.decodes + 1,)),
            "first_row": (i4, (self.chunks + 1,)),
            "context": (i4, (self.chunks,)),
            "chunk_first": (i4, (self.chunks, CLASSES)),
            "chunk_tokens": (i4, (self.chunks, CLASSES)),
            "decode_offsets": (i8, (self.decode_blocks,)),
            "decode_positions": (i4, (self.decode_blocks,)),
            "chunk_offsets": (i8, (self.chunk_blocks,)),
            "chunk_positions": (i4, (self.chunk_blocks,)),
        }

    def places(self) -> tuple[Places, int]:
        """Byte offset, type and shape of each array, and the bytes of all."""
        return _places(self)


@lru_cache(maxsize=1024)
def _places(sizes: Sizes) -> tuple[Places, int]:
    places, end = {}, 0
    for name, (kind, shape) in sizes.fields().items():
        places[name] = (end, kind, shape)
        nbytes = prod(shape) * np.dtype(kind).itemsize
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return places, max(end, ALIGNMENT)


@dataclass(slots=True)
class HostInputs:
    """A step's arrays on the host, by the names of `Sizes.fields`."""

    sizes: Sizes
    arrays: dict[str, Array] = field(default_factory=dict)


def padded(host: HostInputs, sizes: Sizes) -> HostInputs:
    """A step in arrays of given lengths, its lists of blocks as they are.

    The rows behind the last are token 0 that goes nowhere, chunks and items behind the last are
    empty, and wanted rows behind the last repeat the first row. Rows of chunks are counted from the
    step's first one (`PrefillChunks.whole_step`).
    """
    arrays = dict(host.arrays)
    if "first_row" in arrays:
        arrays["first_row"] = arrays["first_row"] + host.sizes.decodes
    for name, (kind, shape) in sizes.fields().items():
        if name not in BLOCK_LISTS:
            known = arrays.get(name, np.zeros((0, *shape[1:]), kind))
            arrays[name] = _extended(name, known, shape)
    return HostInputs(sizes, arrays)


def _extended(name: str, known: Array, shape: tuple[int, ...]) -> Array:
    filling = -1 if name == "write_slots" else 0
    if name in {"row_items", "first_row"} and len(known):
        filling = known[-1]
    longer = np.full(shape, filling, known.dtype)
    longer[: len(known)] = known
    return longer


def pack(host: HostInputs, sizes: Sizes, pinned: bool = False) -> Tensor:
    """Lay the arrays into one buffer of bytes on the host, at the places that `sizes` gives them.

    Pinned memory comes from torch's cache, which takes a buffer back when the copy out of it that
    was queued is over.
    """
    places, nbytes = sizes.places()
    buffer = pinned_buffer(nbytes) if pinned else torch.empty(nbytes, dtype=torch.uint8)
    raw = buffer.numpy()
    for name, array in host.arrays.items():
        start, kind, _ = places[name]
        target = raw[start : start + array.size * np.dtype(kind).itemsize]
        target.view(kind)[:] = array.reshape(-1)
    return buffer


def pinned_buffer(nbytes: int) -> Tensor:
    """Host memory that a GPU copies from and to beside everything else."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


def pinned_sizes(most_bytes: int) -> list[int]:
    """Sizes of pinned buffers up to `most_bytes`: torch rounds each up to a power of two."""
    return [1 << power for power in range(3, max(3, (most_bytes - 1).bit_length()) + 1)]


def pin_ahead(most_bytes: int, make: Callable[[int], object] = pinned_buffer) -> None:
    """Let torch's cache have pinned buffers of all sizes that steps of up to `most_bytes` take.

    CUDA takes milliseconds to pin megabytes, and kernels of other streams wait meanwhile (CUDA C++
    programming guide, "implicit synchronization"). Capturing a graph empties the cache.
    """
    for nbytes in pinned_sizes(most_bytes):
        count = SMALL_AT_ONCE if nbytes <= SMALL_BYTES else PINNED_AT_ONCE
        held = [make(nbytes) for _ in range(count)]
        held.clear()


def sent(array: Array, device: torch.device) -> Tensor:
    """A small array on the device, in order with what is queued there. Out of pageable memory a
    copy may keep the host until the running step is over, and nothing would be queued behind it.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def step_of(buffer: Tensor, sizes: Sizes) -> StepInputs:
    """A step's tensors as views of a buffer that `pack` laid out."""
    views = _views(buffer, sizes)
    decode = prefill = None
    if sizes.decodes:
        decode = DecodeItems(
            bits=views["item_bits"],
            rows=views["item_rows"],
            first=views["item_first"],
            tokens=views["item_tokens"],
            row_items=views["row_items"],
            positions=views["positions"][: sizes.decodes],
            blocks=BlockLists(views["decode_offsets"], views["decode_positions"]),
        )
    if sizes.chunks:
        prefill = PrefillChunks(
            first_row=views["first_row"],
            context=views["context"],
            first=views["chunk_first"],
            tokens=views["chunk_tokens"],
            blocks=BlockLists(views["chunk_offsets"], views["chunk_positions"]),
            longest=sizes.longest,
            whole_step=sizes.whole_step,
        )
    return StepInputs(
        token_ids=views["token_ids"],
        positions=views["positions"],
        write_offsets=views["write_offsets"],
        write_slots=views["write_slots"],
        decodes=sizes.decodes,
        decode=decode,
        prefill=prefill,
        logit_rows=views["logit_rows"],
    )


def _views(buffer: Tensor, sizes: Sizes) -> dict[str, Tensor]:
    places, _ = sizes.places()
    views = {}
    for name, (start, kind, shape) in places.items():
        nbytes = prod(shape) * np.dtype(kind).itemsize
        typed = torch.int64 if kind is np.int64 else torch.int32
        views[name] = buffer[start : start + nbytes].view(typed).view(shape)
    return views
