"""What is written to blocks: rotated keys and values, and blocks of fewer bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernelkit.cases import Memory
from kernelkit.dense import difference
from torch import Tensor

from executor.kernels import requantise as triton_requantise
from executor.kernels import rope_write as triton_rope
from executor.kernels.reference import attention as reference
from executor.kernels.reference import blocks as reference_blocks
from executor.kv.layout import KVLayout

ROPE = pytest.mark.parametrize(
    "write", [triton_rope.rope_write, reference.rope_write], ids=["triton", "torch"]
)
REQUANTISE = pytest.mark.parametrize(
    "requantise",
    [triton_requantise.requantise, reference_blocks.requantise],
    ids=["triton", "torch"],
)
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3}
UNTOUCHED = 255


def layout(dtype: torch.dtype = torch.float32, head_dim: int = 64, tokens: int = 16) -> KVLayout:
    return KVLayout(2, 2, head_dim, tokens, dtype)


def rotated(x: Tensor, positions: Tensor, base: float = 100.0) -> Tensor:
    """Each pair (i, i + D/2) as a complex number, turned by its angle; float64."""
    half = x.shape[-1] // 2
    angles = positions[:, None].double() * base ** (-torch.arange(half) / half)
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)


def tables(head_dim: int, length: int, base: float = 100.0) -> tuple[Tensor, Tensor]:
    half = head_dim // 2
    angles = torch.arange(length)[:, None].double() * base ** (-torch.arange(half) / half)
    return angles.cos().float(), angles.sin().float()


class Fused:
    """Eleven rows of a fused projection, to be written to three blocks of layer 1."""

    def __init__(self, form: KVLayout) -> None:
        generator = torch.Generator().manual_seed(1)
        heads = 3 * form.kv_heads
        fused = torch.randn((11, heads + 2 * form.kv_heads, form.head_dim), generator=generator)
        self.fused = fused.to(form.dtype)
        parts = (heads, form.kv_heads, form.kv_heads)
        self.q, self.k, self.v = self.fused.split(parts, dim=1)
        self.arena = torch.full((4 * form.block_bytes[16],), UNTOUCHED, dtype=torch.uint8)
        blocks = torch.tensor([3, 3, 3, 0, 0, 1, 1, 1, 1, 1, 1])
        self.offsets = blocks * form.block_bytes[16]
        slots = [0, 1, form.block_tokens - 1, 2, 3, 4, 5, 6, 7, -1, -1]
        self.slots = torch.tensor(slots, dtype=torch.int32)
        self.positions = torch.arange(11, dtype=torch.int32) * 7 + 1

    def written(self, form: KVLayout, row: int, head: int) -> tuple[Tensor, Tensor]:
        """K and V of a row as they lie in the arena."""
        start = int(self.offsets[row]) + form.unit_offset(16, 1, head)
        unit = self.arena[start : start + form.unit_bytes[16]].view(form.dtype)
        k, v = unit.view(2, form.block_tokens, form.head_dim)
        return k[int(self.slots[row])], v[int(self.slots[row])]


@ROPE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_rotated_keys_and_values_land_in_their_slots(
    write: Callable[..., None], dtype: torch.dtype, head_dim: int
) -> None:
    form = layout(dtype, head_dim)
    given = Fused(form)
    q, k, v = rotated(given.q, given.positions), rotated(given.k, given.positions), given.v.clone()
    cos, sin = tables(head_dim, 100)
    write(
        given.q, given.k, given.v, cos, sin, given.positions, given.arena, form, 1,
        given.offsets, given.slots,
    )  # fmt: skip
    assert difference(given.q, q) < LIMITS[dtype]
    for row in range(9):
        for head in range(form.kv_heads):
            key, value = given.written(form, row, head)
            assert difference(key, k[row, head]) < LIMITS[dtype]
            assert torch.equal(value, v[row, head])


@ROPE
def test_nothing_else_is_written(write: Callable[..., None]) -> None:
    form = layout()
    given = Fused(form)
    write(
        given.q, given.k, given.v, *tables(64, 100), given.positions, given.arena, form, 1,
        given.offsets, given.slots,
    )  # fmt: skip
    written = 9 * form.kv_heads * 2 * form.head_dim * 4
    untouched = int((given.arena == UNTOUCHED).sum())
    # Some written bytes may by chance be what was there.
    assert given.arena.numel() - written <= untouched <= given.arena.numel() - written * 0.95
    first_layer = given.arena.view(4, -1)[:, : form.layer_bytes[16]]
    assert bool((first_layer == UNTOUCHED).all())


@ROPE
def test_without_a_rotation_queries_stay_and_keys_are_copied(write: Callable[..., None]) -> None:
    form = layout()
    given = Fused(form)
    before = given.fused.clone()
    write(
        given.q, given.k, given.v, None, None, given.positions, given.arena, form, 1,
        given.offsets, given.slots,
    )  # fmt: skip
    assert torch.equal(given.fused, before)
    key, value = given.written(form, 4, 1)
    assert torch.equal(key, given.k[4, 1])
    assert torch.equal(value, given.v[4, 1])


def block(form: KVLayout, bits: int) -> tuple[Tensor, int, list[tuple[Tensor, Tensor]]]:
    """An arena with one full block, its offset, and per layer K and V in float64."""
    memory = Memory(form, 1 + form.layers)
    offset = memory.end
    known = []
    for layer in range(form.layers):
        memory.end = offset
        sequence = memory.sequence([(bits, form.block_tokens)], layer)
        known.append((sequence.keys[0], sequence.values[0]))
    return memory.arena, offset, known


def read(
    arena: Tensor, form: KVLayout, bits: int, offset: int, layer: int
) -> tuple[Tensor, Tensor]:
    """K and V [tokens, kv_heads, D] of a block."""
    k, v = reference_blocks.read_units(
        arena, form, layer, bits, torch.tensor([offset]), torch.float64
    ).dense()
    return k[0].transpose(0, 1), v[0].transpose(0, 1)


def steps(x: Tensor, dim: int, to_bits: int) -> Tensor:
    """Distance between neighbouring codes."""
    if to_bits == 8:
        return x.abs().amax(-1, keepdim=True) / 127
    return (x.amax(dim, keepdim=True) - x.amin(dim, keepdim=True)) / 15


@REQUANTISE
@pytest.mark.parametrize(("from_bits", "to_bits"), [(16, 8), (16, 4), (8, 4)])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_values_stay_within_half_a_step(
    requantise: Callable[..., None], from_bits: int, to_bits: int, head_dim: int
) -> None:
    form = layout(torch.float16, head_dim)
    arena, source, known = block(form, from_bits)
    target = source + form.block_bytes[16] + 16
    requantise(arena, form, torch.tensor([source]), torch.tensor([target]), from_bits, to_bits)
    for layer, (k, v) in enumerate(known):
        new_k, new_v = read(arena, form, to_bits, target, layer)
        # K is scaled per channel over tokens, in 4 bits; V, and all of 8 bits, per token.
        for new, old, dim in ((new_k, k, 0), (new_v, v, -1)):
            room = 0.51 * steps(old, dim, to_bits) + 1e-3 * old.abs().amax()
            assert bool(((new - old).abs() <= room).all())


def test_both_requantise_alike() -> None:
    form = layout(torch.float32, 64, 32)
    arena, source, _ = block(form, 16)
    for bits in (8, 4):
        ours, theirs = arena.clone(), arena.clone()
        target = torch.tensor([source + form.block_bytes[16] + 16])
        arguments = (form, torch.tensor([source]), target, 16, bits)
        triton_requantise.requantise(ours, *arguments)
        reference_blocks.requantise(theirs, *arguments)
        assert torch.equal(ours, theirs)


@REQUANTISE
def test_constant_and_tiny_values_survive(requantise: Callable[..., None]) -> None:
    form = KVLayout(1, 1, 64, 16, torch.float32)
    source, target = 0, form.block_bytes[16]
    arena = torch.zeros(2 * form.block_bytes[16], dtype=torch.uint8)
    arena[:target].view(torch.float32).fill_(1.5)
    for bits in (8, 4):
        requantise(arena, form, torch.tensor([source]), torch.tensor([target]), 16, bits)
        k, v = read(arena, form, bits, target, 0)
        assert torch.allclose(k, torch.tensor(1.5).double(), rtol=2e-3)
        assert torch.allclose(v, torch.tensor(1.5).double(), rtol=2e-3)
    arena[:target].zero_()
    requantise(arena, form, torch.tensor([source]), torch.tensor([target]), 16, 8)
    k, v = read(arena, form, 8, target, 0)
    assert not k.any()
    assert not v.any()


@REQUANTISE
def test_no_blocks_are_no_work(requantise: Callable[..., None]) -> None:
    none = torch.empty(0, dtype=torch.int64)
    requantise(torch.zeros(64, dtype=torch.uint8), layout(), none, none, 16, 8)
