"""Attention in Triton's interpreter and in plain torch against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelkit.cases import DecodeCase, PrefillCase, blocks_of, decode_case, prefill_case
from kernelkit.dense import difference
from torch import Tensor

from executor.kernels import decode_attention as triton_decode
from executor.kernels import early
from executor.kernels import prefill_attention as triton_prefill
from executor.kernels.reference import attention as reference
from executor.kv.layout import KVLayout

Attention = Callable[..., Tensor]
DECODE = pytest.mark.parametrize(
    "attention",
    [triton_decode.decode_attention, reference.decode_attention],
    ids=["triton", "torch"],
)
PREFILL = pytest.mark.parametrize(
    "attention",
    [triton_prefill.prefill_attention, reference.prefill_attention],
    ids=["triton", "torch"],
)
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3}
MIXED = (16, 8, 4)


def layout(dtype: torch.dtype = torch.float32, **changes: int) -> KVLayout:
    sizes = {"layers": 2, "kv_heads": 1, "head_dim": 64, "block_tokens": 16} | changes
    return KVLayout(**sizes, dtype=dtype)


def close(attention: Attention, case: DecodeCase | PrefillCase) -> bool:
    found = attention(*case.arguments)
    assert found.dtype == case.q.dtype
    assert found.shape == case.q.shape
    return difference(found, case.expected) < LIMITS[case.q.dtype]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that an operation allocates and does not write holds no number."""
    allocate = Tensor.new_empty

    def new_empty(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        memory = allocate(self, *args, **kwargs)
        return memory.fill_(torch.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(Tensor, "new_empty", new_empty)


@DECODE
@TYPES
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_decode_of_all_precisions_in_one_row(
    attention: Attention, dtype: torch.dtype, head_dim: int
) -> None:
    form = layout(dtype, head_dim=head_dim)
    assert close(attention, decode_case([blocks_of(6 * 16 + 5, 16, MIXED)], form, 4, layer=1))


@DECODE
@pytest.mark.parametrize("block_tokens", [16, 32, 64])
def test_decode_at_edges_of_blocks(attention: Attention, block_tokens: int) -> None:
    form = layout(block_tokens=block_tokens)
    lengths = (1, block_tokens - 1, block_tokens, block_tokens + 1)
    rows = [blocks_of(length, block_tokens) for length in lengths]
    assert close(attention, decode_case(rows, form, 2))


@DECODE
@pytest.mark.parametrize("bits", MIXED)
def test_decode_over_many_items_of_one_precision(attention: Attention, bits: int) -> None:
    case = decode_case([[(bits, 16)] * 5, [(bits, 16)]], layout(), 2, item_blocks=2)
    assert case.items.row_items.tolist() == [0, 3, 4]
    assert close(attention, case)


@DECODE
@TYPES
@pytest.mark.parametrize("bits", MIXED)
def test_what_stands_for_absent_tokens_is_never_read(
    attention: Attention, dtype: torch.dtype, bits: int
) -> None:
    """Codes, scales and minima of a block that is not full; they are no numbers."""
    form = layout(dtype, kv_heads=2)
    assert close(attention, decode_case([[(16, 16), (bits, 16), (bits, 5)]], form, 4, layer=1))


@DECODE
def test_rows_without_keys_give_zeros(attention: Attention) -> None:
    case = decode_case([[], blocks_of(20, 16), []], layout(), 2, pad_rows=2, pad_items=3)
    assert close(attention, case)
    assert not attention(*case.arguments)[[0, 2, 3, 4]].any()


@DECODE
def test_a_step_of_padding_alone_gives_zeros(attention: Attention) -> None:
    case = decode_case([], layout(), 2, pad_rows=2, pad_items=2)
    assert not attention(*case.arguments).any()


@DECODE
def test_an_empty_item_of_a_row_changes_nothing(attention: Attention) -> None:
    rows = [blocks_of(35, 16, MIXED), []]
    case = decode_case(rows, layout(), 2, item_blocks=1, empty_item=True)
    assert close(attention, case)


@pytest.mark.parametrize("rows", [1, triton_decode.MANY_ROWS])
def test_more_items_than_the_merge_takes_at_once(rows: int) -> None:
    """One row by the merge for few, and as many as take the other one."""
    count = triton_decode.merge_of(rows).tile + 1
    lists = [[(16, 16)] * count, *([[(16, 16)]] * (rows - 1))]
    case = decode_case(lists, layout(layers=1), 1, item_blocks=1)
    assert close(triton_decode.decode_attention, case)


def test_the_merge_goes_by_the_rows_of_the_step_alone() -> None:
    """A graph holds one of both, whatever the lengths of the rows that it is replayed for."""
    few, many = triton_decode.merge_of(1), triton_decode.merge_of(128)
    assert (few.warps, many.warps) == (4, 1)
    assert triton_decode.merge_of(triton_decode.MANY_ROWS - 1) == few
    assert triton_decode.merge_of(triton_decode.MANY_ROWS) == many


@DECODE
@pytest.mark.parametrize("group", [1, 3, 5, 7, 20])
def test_decode_of_odd_groups(attention: Attention, group: int) -> None:
    form = layout(kv_heads=2)
    case = decode_case([blocks_of(35, 16, (4, 8))], form, 2 * group, layer=1)
    assert close(attention, case)


@DECODE
@TYPES
def test_decode_with_a_relative_bias(attention: Attention, dtype: torch.dtype) -> None:
    form = layout(dtype, kv_heads=2)
    rows = [blocks_of(3 * 16 + 1, 16, MIXED), blocks_of(7, 16)]
    assert close(attention, decode_case(rows, form, 2, reach=20, scale=0.1))


def test_scores_of_any_size_stay_finite() -> None:
    case = decode_case([blocks_of(40, 16, MIXED)], layout(), 2, scale=1e4)
    assert close(triton_decode.decode_attention, case)


@PREFILL
@TYPES
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_prefill_over_all_precisions(
    attention: Attention, dtype: torch.dtype, head_dim: int
) -> None:
    form = layout(dtype, head_dim=head_dim)
    case = prefill_case([(blocks_of(6 * 16 + 5, 16, (8, 4, 16)), 5)], form, 2, layer=1)
    assert close(attention, case)


@PREFILL
@pytest.mark.parametrize("block_tokens", [16, 32, 64])
def test_prefill_of_chunks_at_edges_of_blocks(attention: Attention, block_tokens: int) -> None:
    form = layout(block_tokens=block_tokens)
    chunks = [(blocks_of(block_tokens + own, block_tokens), own) for own in (1, block_tokens)]
    whole = [(blocks_of(length, block_tokens), length) for length in (1, block_tokens + 1)]
    assert close(attention, prefill_case(chunks + whole, form, 1))


@PREFILL
def test_prefill_of_several_tiles(attention: Attention) -> None:
    chunks = [
        (blocks_of(300, 64), 150),
        ([(8, 64), (4, 64), (16, 64), (16, 16)], 80),
        (blocks_of(64 + 3, 64, (4,)), 3),
    ]
    assert close(attention, prefill_case(chunks, layout(block_tokens=64), 1))


@PREFILL
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "blocks",
    [
        [(16, 16), (8, 16), (8, 5)],
        [(16, 16), (8, 16), (4, 16), (4, 5)],
        [(16, 16), (4, 16), (8, 1)],
        [(8, 9)],
    ],
)
def test_prefill_of_a_chunk_that_ends_in_a_cached_block(
    attention: Attention, blocks: list[tuple[int, int]], causal: bool
) -> None:
    """One row that runs though all of it is there: its last block has few bits and is in use in
    part, before ranges of more bits. Another chunk follows.
    """
    chunks = [(blocks, 1), (blocks_of(20, 16), 20)]
    assert close(attention, prefill_case(chunks, layout(), 2, causal=causal))


@PREFILL
def test_prefill_of_short_chunks_takes_short_tiles(attention: Attention) -> None:
    chunks = [(blocks_of(70, 32), 64), (blocks_of(40, 32, (8,)), 8)]
    assert close(attention, prefill_case(chunks, layout(block_tokens=32, head_dim=128), 3))


@PREFILL
@pytest.mark.parametrize("blocks", [blocks_of(50, 16, MIXED), [(8, 16)], [(4, 16)] * 2, []])
def test_attention_to_an_encoder_sees_all_keys(
    attention: Attention, blocks: list[tuple[int, int]]
) -> None:
    case = prefill_case([(blocks, 70)], layout(), 2, causal=False)
    assert close(attention, case)


@PREFILL
@pytest.mark.parametrize("causal", [True, False])
def test_prefill_with_a_relative_bias(attention: Attention, causal: bool) -> None:
    form = layout(kv_heads=2)
    chunks = [(blocks_of(3 * 16 + 9, 16, MIXED), 9), (blocks_of(20, 16), 20)]
    case = prefill_case(chunks, form, 2, reach=10, scale=0.1, causal=causal)
    assert close(attention, case)


@PREFILL
@pytest.mark.parametrize("group", [3, 5])
def test_prefill_of_odd_groups(attention: Attention, group: int) -> None:
    case = prefill_case([(blocks_of(20, 16), 4)], layout(kv_heads=2), 2 * group)
    assert close(attention, case)


@PREFILL
def test_prefill_of_nothing(attention: Attention) -> None:
    case = prefill_case([], layout(), 2)
    assert attention(*case.arguments).shape == (0, 2, 64)


@pytest.mark.parametrize("asked", [False, True])
def test_a_step_launched_early_gives_the_same(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """In the interpreter, which runs one kernel after the other: arguments and results."""
    case = decode_case([blocks_of(35, 16, MIXED), []], layout(), 2, pad_rows=1, pad_items=2)
    plain = triton_decode.decode_attention(*case.arguments)
    monkeypatch.setitem(early.EARLY, 90, True)
    monkeypatch.setitem(triton_decode.ASKED, 90, asked)
    assert close(triton_decode.decode_attention, case)
    assert torch.equal(triton_decode.decode_attention(*case.arguments), plain)


LENGTHS = st.lists(st.integers(0, 70), min_size=1, max_size=2)
PRECISIONS = st.lists(st.sampled_from(MIXED), min_size=1, max_size=4)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(lengths=LENGTHS, bits=PRECISIONS, item_blocks=st.integers(1, 3), group=st.integers(1, 6))
def test_decode_of_any_shape(
    lengths: list[int], bits: list[int], item_blocks: int, group: int
) -> None:
    rows = [blocks_of(length, 32, bits) for length in lengths]
    case = decode_case(rows, layout(block_tokens=32), group, item_blocks=item_blocks)
    assert close(triton_decode.decode_attention, case)
    assert close(reference.decode_attention, case)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of tokens that are copied as far ahead as codes."""
    tables = triton_decode.TILES
    monkeypatch.setitem(tables, 90, tables[90] | triton_decode.COPIED)


@pytest.mark.usefixtures("copied")
@TYPES
@pytest.mark.parametrize("block_tokens", [32, 64])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_numbers_of_tokens_that_are_copied(
    dtype: torch.dtype, head_dim: int, block_tokens: int
) -> None:
    """Last blocks of 4 bits that are not full, behind whose tokens no number lies."""
    form = layout(dtype, head_dim=head_dim, block_tokens=block_tokens, kv_heads=2)
    ends = ((0, 1), (1, 5), (2, block_tokens - 1))
    rows = [[(4, block_tokens)] * full + [(4, rest)] for full, rest in ends]
    rows.append(blocks_of(200, block_tokens, list(MIXED)))
    assert close(triton_decode.decode_attention, decode_case(rows, form, 4, layer=1))
    assert close(triton_decode.decode_attention, decode_case(rows, form, 2, item_blocks=2))


@pytest.fixture
def lagging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles whose values lag behind, in place of the table's."""
    monkeypatch.setitem(triton_prefill.TILES, 90, triton_prefill.LAGGING)


@pytest.mark.usefixtures("lagging")
@TYPES
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("cached", [(), (16,) * 10, (8, 4, 16, 16, 16, 16, 16)])
def test_values_that_lag_behind(dtype: torch.dtype, head_dim: int, cached: tuple[int, ...]) -> None:
    """No whole tile that all rows see, several of them, and other precisions after them."""
    form = layout(dtype, head_dim=head_dim, block_tokens=32)
    blocks = [(bits, 32) for bits in cached] + blocks_of(70, 32)
    assert close(triton_prefill.prefill_attention, prefill_case([(blocks, 70)], form, 1, layer=1))


@pytest.mark.usefixtures("lagging")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bits", MIXED)
def test_values_that_lag_behind_in_chunks_of_their_own(bits: int, causal: bool) -> None:
    """Short tiles, one of keys of each precision alone, one without any key of 16 bits, and one
    whose last tile of keys is whole.
    """
    chunks = [([(bits, 16)] * 9, 1), (blocks_of(130, 16), 40), (blocks_of(64, 16), 64)]
    if not causal:
        chunks.append(([], 3))
    case = prefill_case(chunks, layout(), 2, causal=causal)
    assert close(triton_prefill.prefill_attention, case)


@pytest.mark.usefixtures("lagging")
def test_a_relative_bias_takes_the_plain_order() -> None:
    case = prefill_case([(blocks_of(150, 16), 80)], layout(), 1, reach=10, scale=0.1)
    assert close(triton_prefill.prefill_attention, case)


@pytest.mark.usefixtures("lagging")
def test_values_that_lag_behind_with_scores_of_any_size() -> None:
    case = prefill_case([(blocks_of(200, 16), 5)], layout(), 1, scale=1e4)
    assert close(triton_prefill.prefill_attention, case)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(cached=st.lists(st.sampled_from(MIXED), max_size=4), own=st.integers(1, 100))
def test_prefill_of_any_shape(cached: list[int], own: int) -> None:
    blocks = [(bits, 32) for bits in cached] + blocks_of(own, 32)
    case = prefill_case([(blocks, own)], layout(block_tokens=32), 1)
    assert close(triton_prefill.prefill_attention, case)
    assert close(reference.prefill_attention, case)


def test_what_layers_have_in_common_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch, where it takes longer than the attention of a layer: in the first one, anew if the
    lists of a step have changed since.
    """
    calls = []
    plain = reference._entries
    monkeypatch.setattr(reference, "_entries", lambda *a: calls.append(a[1]) or plain(*a))
    blocks = blocks_of(70, 16, MIXED)
    for layer, times in ((1, 1), (0, 3)):
        decode = decode_case([blocks, blocks], layout(), 2, layer=layer)
        prefill = prefill_case([(blocks, 9)], layout(), 2, layer=layer)
        for _ in range(3):
            assert close(reference.decode_attention, decode)
            assert close(reference.prefill_attention, prefill)
        assert sorted(calls) == sorted([4, 4, 8, 8, 16, 16] * times)
        calls.clear()
