"""From tables of blocks to the tensors of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.kv.layout import KVLayout
from executor.steps.inputs import ChunkRows, DecodeRow, Decodes, build_inputs, host_inputs
from executor.steps.packing import pack, step_of

CPU = torch.device("cpu")
T = 4
LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=8, block_tokens=T, dtype=torch.float32)


@dataclass
class Held:
    offsets: np.ndarray
    bits: np.ndarray


def table(bits, base=0):
    """A table whose block i lies at `base + i`."""
    return Held(np.arange(base, base + len(bits), dtype=np.int64), np.array(bits, np.int8))


@st.composite
def held(draw, spare=2):
    """A length with a table that covers it; only full blocks lost bits."""
    length = draw(st.integers(1, 6 * T))
    full = (length - 1) // T
    bits = draw(st.lists(st.sampled_from([16, 8, 4]), min_size=full, max_size=full))
    extra = draw(st.integers(0, spare))
    return length, table([*bits, 16, *[16] * extra], 1000 * draw(st.integers(0, 50)))


def keys_of_items(step, first, stop):
    """What the items [first, stop) attend to: (offset, bits, position, keys) per block."""
    found = []
    items = step.decode
    for item in range(first, stop):
        left, entry = int(items.tokens[item]), int(items.first[item])
        while left > 0:
            keys = min(T, left)
            where = int(items.blocks.offsets[entry]), int(items.bits[item])
            found.append((*where, int(items.blocks.positions[entry]), keys))
            left, entry = left - keys, entry + 1
    return found


def expected_keys(length, blocks):
    return [
        (int(blocks.offsets[i]), int(blocks.bits[i]), i * T, min(T, length - i * T))
        for i in range(-(-length // T))
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(held(), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 3))
def test_items_of_a_row_cover_its_keys_once(rows, item_blocks, spare):
    decodes = [DecodeRow(blocks, length, 7 + i) for i, (length, blocks) in enumerate(rows)]
    pad_rows = len(rows) + spare
    step = build_inputs(
        decodes, [], LAYOUT, CPU, item_blocks=item_blocks, pad_rows=pad_rows, pad_items=40
    )
    bounds = step.decode.row_items.tolist()
    assert len(bounds) == pad_rows + 1 and bounds[0] == 0
    assert len(step.decode.bits) >= 40 and step.decode.tokens[bounds[-1] :].sum() == 0
    for row, (length, blocks) in enumerate(rows):
        first, stop = bounds[row], bounds[row + 1]
        assert sorted(keys_of_items(step, first, stop)) == sorted(expected_keys(length, blocks))
        assert set(step.decode.rows[first:stop].tolist()) == {row}
        assert step.decode.tokens[first:stop].max() <= item_blocks * T
    assert bounds[len(rows) :] == [bounds[len(rows)]] * (spare + 1)


def test_rows_say_what_is_written_where():
    step = build_inputs(
        [DecodeRow(table([4, 16]), 5, 11), DecodeRow(table([16], 50), 4, 12)],
        [],
        LAYOUT,
        CPU,
        item_blocks=2,
        pad_rows=3,
    )
    assert step.token_ids.tolist() == [11, 12, 0]
    assert step.positions.tolist() == [4, 3, 0]
    assert step.write_offsets.tolist() == [1, 50, 0]
    assert step.write_slots.tolist() == [0, 3, -1]
    assert step.logit_rows.tolist() == [0, 1, 2]
    assert step.decodes == 3 and step.prefill is None


@settings(max_examples=60, deadline=None)
@given(st.lists(held(), min_size=1, max_size=4), st.data())
def test_a_chunk_sees_what_is_before_it_and_itself(rows, data):
    chunks = []
    for length, blocks in rows:
        tail = length - (length - 1) // T * T  # only rows of the tail may be computed now
        own = data.draw(st.integers(1, tail))
        chunks.append(ChunkRows(blocks, length - own, list(range(own)), data.draw(st.booleans())))
    decodes = [DecodeRow(table([16]), 2, 5)]
    step = build_inputs(decodes, chunks, LAYOUT, CPU, item_blocks=2)
    prefill, row, wanted = step.prefill, 1, [0]
    for index, (chunk, (length, blocks)) in enumerate(zip(chunks, rows, strict=True)):
        found = []
        for place, bits in enumerate((16, 8, 4)):
            entry, left = int(prefill.first[index, place]), int(prefill.tokens[index, place])
            while left > 0:
                keys = min(T, left)
                position = int(prefill.blocks.positions[entry])
                found.append((int(prefill.blocks.offsets[entry]), bits, position, keys))
                left, entry = left - keys, entry + 1
        assert sorted(found) == sorted(expected_keys(length, blocks))
        assert prefill.first_row[index] == row - 1 and prefill.context[index] == chunk.context
        positions = step.positions[row : row + len(chunk.tokens)]
        assert positions.tolist() == list(range(chunk.context, length))
        assert step.token_ids[row : row + len(chunk.tokens)].tolist() == list(chunk.tokens)
        blocks_written = blocks.offsets[positions.numpy() // T].tolist()
        assert step.write_offsets[row : row + len(chunk.tokens)].tolist() == blocks_written
        row += len(chunk.tokens)
        wanted += [row - 1] if chunk.wants_logits else []
    assert prefill.first_row[-1] == row - 1
    assert step.logit_rows.tolist() == wanted
    assert prefill.longest == max(len(chunk.tokens) for chunk in chunks)


def test_a_chunk_may_fill_many_blocks():
    chunk = ChunkRows(table([8, 16, 16, 16]), 4, list(range(10)), True)
    step = build_inputs([], [chunk], LAYOUT, CPU, item_blocks=2)
    assert step.decode is None and step.decodes == 0
    assert step.write_offsets.tolist() == [1] * 4 + [2] * 4 + [3] * 2
    assert step.prefill.tokens.tolist() == [[10, 4, 0]]
    assert step.logit_rows.tolist() == [9]


def test_a_larger_buffer_holds_the_same_step():
    rows = [DecodeRow(table([4, 8, 16]), 11, 3), DecodeRow(table([16], 90), 1, 4)]
    host = host_inputs(Decodes.of(rows), [], LAYOUT, item_blocks=1, pad_rows=4, pad_items=9)
    roomy = type(host.sizes)(
        rows=4, decodes=4, items=9, decode_blocks=host.sizes.decode_blocks + 30, wanted=4
    )
    step = step_of(pack(host, roomy), roomy)
    tight = step_of(pack(host, host.sizes), host.sizes)
    for name in ("token_ids", "positions", "write_offsets", "write_slots", "logit_rows"):
        assert torch.equal(getattr(step, name), getattr(tight, name))
    assert sorted(keys_of_items(step, 0, 4)) == sorted(keys_of_items(tight, 0, 4))


def test_tensors_begin_where_wide_loads_may():
    places, nbytes = host_inputs(
        Decodes.of([DecodeRow(table([16]), 1, 3)]),
        [],
        LAYOUT,
        item_blocks=1,
        pad_rows=3,
        pad_items=5,
    ).sizes.places()
    assert nbytes % 16 == 0 and all(start % 16 == 0 for start, _, _ in places.values())


def test_a_token_that_is_there_with_fewer_bits_is_not_written():
    """The second token of a cached 8-bit block runs again; the next chunk writes as ever."""
    cached = ChunkRows(table([16, 8, 8, 16]), T + 1, [7], False)
    new = ChunkRows(table([16, 8, 16], 500), 2 * T, [1, 2], True)
    step = build_inputs([], [cached, new], LAYOUT, CPU, item_blocks=4)
    assert step.write_slots.tolist() == [-1, 0, 1]
    assert step.prefill.tokens.tolist() == [[T, 2, 0], [T + 2, T, 0]]
