"""How many slabs the counted blocks of a pool lie in."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.blocks.slabs import Slabs

COUNTS = st.integers(0, 40)
SLABS = Slabs(5, 9, 17)


def fewest_slabs(wide: int, eight: int, four: int) -> int:
    """By trying every number of slabs of 8 and of 4 bits: what has no place there keeps room of 16
    bits, or 4 bits that of 8.
    """
    best = wide + eight + four
    for eights, fours in product(range(-(-eight // 9) + 6), range(-(-four // 17) + 1)):
        left_4 = max(0, four - 17 * fours)
        left_8 = max(0, eight + left_4 - 9 * eights)
        best = min(best, eights + fours + -(-(wide + left_8) // 5))
    return best


@settings(deadline=None)
@given(wide=COUNTS, eight=COUNTS, four=COUNTS, cached=st.booleans())
def test_the_peak_is_of_the_fewest_slabs_that_hold_all(
    wide: int, eight: int, four: int, cached: bool
) -> None:
    pool = BlockPool(1000, SLABS)
    pool.referenced = wide + (0 if cached else eight + four)
    pool.cached = eight + four if cached else 0
    for bits, count in ((8, eight), (4, four)):
        pool.count_small(bits, *((0, count) if cached else (count, 0)))
    pool.note_peak()
    assert -(-pool.peak_used // SLABS.blocks_16) == fewest_slabs(wide, eight, four)


@pytest.mark.parametrize(
    ("blocks", "slabs"), [((5, 0, 0), 1), ((6, 0, 0), 2), ((1, 4, 0), 1), ((1, 6, 0), 2)]
)
def test_a_small_precision_takes_a_slab_when_its_blocks_have_no_other_room(
    blocks: tuple[int, int, int], slabs: int
) -> None:
    assert fewest_slabs(*blocks) == slabs
