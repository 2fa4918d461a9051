"""Block accounting for one replica: device memory and the host tier, as counters."""

from __future__ import annotations

from superinfer.memory.blocks.slabs import (
    EQUAL_SIZES,
    NO_SMALL,
    ONE_BLOCK_SLABS,
    BlockSizes,
    Slabs,
    Small,
    small_of,
)


class BlockPool:
    """Device blocks, counted. A block is *referenced* (a live request holds it), *cached* (kept
    only because its content may be asked for again) or free. Cached blocks never stand in the way
    of a request: they are reclaimed when the space is needed.

    A block counts as one at every precision. What smaller ones save makes the pool larger: `total`
    is what `size` blocks of 16 bits hold at the precisions of this moment.
    """

    __slots__ = (
        "_cached_4",
        "_cached_8",
        "_referenced_4",
        "_referenced_8",
        "_slabs",
        "cached",
        "lent",
        "peak_referenced",
        "peak_used",
        "referenced",
        "size",
        "total",
    )

    def __init__(self, size: int, slabs: Slabs = ONE_BLOCK_SLABS) -> None:
        self.size = size
        self.total = size
        self.lent = 0
        """Of `total`, what is there only while smaller cached blocks stay."""
        self.referenced = 0
        self.cached = 0
        self.peak_referenced = 0
        """Most of `size` that live requests took."""
        self.peak_used = 0
        """Most of `size` that live requests and cached blocks took."""
        self._slabs = slabs
        self._referenced_8 = 0
        self._referenced_4 = 0
        self._cached_8 = 0
        self._cached_4 = 0

    @property
    def available(self) -> int:
        """Blocks that a request could get now: free ones and cached ones."""
        return self.total - self.lent - self.referenced

    @property
    def taken(self) -> int:
        """Blocks of 16 bits in whose place live requests have theirs."""
        return self.size - self.available

    @property
    def used(self) -> int:
        """Blocks of 16 bits in whose place there is anything: of live requests, or cached."""
        return self.referenced + self.cached - (self.total - self.size)

    @property
    def small(self) -> bool:
        """True if there is any block of fewer than 16 bits."""
        return bool(self._referenced_8 + self._referenced_4 + self._cached_8 + self._cached_4)

    @property
    def small_blocks(self) -> Small:
        """Blocks of 8 and of 4 bits, cached ones with them."""
        return (self._referenced_8 + self._cached_8, self._referenced_4 + self._cached_4)

    @property
    def excess(self) -> int:
        """Cached blocks that must go because live requests need their space."""
        return self.referenced + self.cached - self.total

    def count_small(self, bits: int, referenced: int, cached: int) -> None:
        """So many more blocks of fewer than 16 bits are referenced, and cached.

        `referenced` and `cached` of the pool, which count blocks of every precision, are the
        caller's.
        """
        if bits == 8:
            self._referenced_8 += referenced
            self._cached_8 += cached
        else:
            self._referenced_4 += referenced
            self._cached_4 += cached
        slabs = self._slabs
        kept = slabs.saved(self._referenced_8, self._referenced_4)
        saved = slabs.saved(
            self._referenced_8 + self._cached_8, self._referenced_4 + self._cached_4
        )
        self.total = self.size + saved
        self.lent = saved - kept

    def hold_small(self, small: Small) -> None:
        """So many more smaller blocks, all referenced."""
        if small[0]:
            self.count_small(8, small[0], 0)
        if small[1]:
            self.count_small(4, small[1], 0)

    def release_small(self, small: Small) -> None:
        """So many fewer smaller blocks that are referenced."""
        self.hold_small((-small[0], -small[1]))

    def share(self, bits: int) -> float:
        """Room that a block of these bits takes, as a share of one of 16 bits, where there are
        enough of them to fill slabs.
        """
        return self._slabs.share(bits)

    def saving(self, blocks_8: int, blocks_4: int) -> int:
        """Blocks of 16 bits by which `available` would grow with so many more smaller ones that
        are referenced; fewer where these are negative.
        """
        slabs, eight, four = self._slabs, self._referenced_8, self._referenced_4
        return slabs.saved(eight + blocks_8, four + blocks_4) - slabs.saved(eight, four)

    def note_peak(self) -> None:
        """Update the high-water marks (called whenever the counters settle)."""
        if self.taken > self.peak_referenced:
            self.peak_referenced = self.taken
        if self.used > self.peak_used:
            self.peak_used = min(self.used, self.size)


class HostPool:
    """Host blocks, counted: `total` for swapped sequences, and apart from them `cache_total` for
    copies of cached prefixes. Of what swapped sequences do not need, `mirrored` blocks hold copies
    of running ones (`superinfer.transfers.mirror`), which never stand in the way of a swap-out.

    The totals are blocks of 16 bits. `used`, `mirrored` and `cached` count a block as one at every
    precision; room is counted in bytes, so that smaller ones take less.
    """

    __slots__ = (
        "_cached_saved",
        "_mirrored_saved",
        "_used_saved",
        "cache_total",
        "cached",
        "mirrored",
        "sizes",
        "total",
        "used",
    )

    def __init__(self, total: int, cache_total: int = 0, sizes: BlockSizes = EQUAL_SIZES) -> None:
        self.total = total
        self.used = 0
        self.mirrored = 0
        self.cache_total = cache_total
        self.cached = 0
        self.sizes = sizes
        self._used_saved = self._mirrored_saved = self._cached_saved = 0
        """Bytes that smaller blocks among them save."""

    # -- swapped sequences ----------------------------------------------------------------------

    def hold(self, blocks: int, small: Small) -> None:
        """A swapped sequence takes so many blocks, `small` ones among them."""
        self.used += blocks
        if small != NO_SMALL:
            self._used_saved += self.sizes.saved(small)

    def release(self, blocks: int, small: Small) -> None:
        """Undo `hold`."""
        self.used -= blocks
        if small != NO_SMALL:
            self._used_saved -= self.sizes.saved(small)

    @property
    def free(self) -> int:
        """Blocks of 16 bits that a swap-out could take."""
        return self.total - self.used + self._used_saved // self.sizes.bytes_16

    def fits(self, blocks: int, small: Small) -> bool:
        """True if a swap-out could take so many, `small` ones among them."""
        sizes = self.sizes
        free_bytes = (self.total - self.used) * sizes.bytes_16 + self._used_saved
        return sizes.total(blocks, small) <= free_bytes

    @property
    def occupancy(self) -> float:
        """Share of its room that swapped sequences take; 0 where there is none."""
        if not self.total:
            return 0.0
        return (self.used - self._used_saved / self.sizes.bytes_16) / self.total

    # -- copies of running sequences ------------------------------------------------------------

    def mirror(self, blocks: int, small: Small) -> None:
        """So many more of these copies; negative: fewer."""
        self.mirrored += blocks
        if small != NO_SMALL:
            self._mirrored_saved += self.sizes.saved(small)

    @property
    def mirror_room(self) -> int:
        """Blocks of 16 bits that more of them could take; less than none if they are in the way."""
        sizes = self.sizes
        saved = (self._used_saved + self._mirrored_saved) // sizes.bytes_16
        return self.total - self.used - self.mirrored + saved

    # -- copies of cached prefixes --------------------------------------------------------------

    def cache(self, blocks: int, bits: int) -> None:
        """So many more of these copies, of these bits; negative: fewer."""
        self.cached += blocks
        if bits < 16:
            self._cached_saved += self.sizes.saved(small_of(bits, blocks))

    @property
    def cache_free(self) -> int:
        """Blocks of 16 bits that copies of cached prefixes could take."""
        return self.cache_room(16)

    def cache_room(self, bits: int) -> int:
        """Blocks of these bits that copies of cached prefixes could take."""
        sizes = self.sizes
        room_bytes = (self.cache_total - self.cached) * sizes.bytes_16 + self._cached_saved
        return room_bytes // sizes.of(bits)

    # -- all of it ------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes that are taken on one GPU's host."""
        saved = self._used_saved + self._mirrored_saved + self._cached_saved
        return (self.used + self.mirrored + self.cached) * self.sizes.bytes_16 - saved

    @property
    def taken(self) -> int:
        """Blocks of 16 bits in whose place all that is there has its own."""
        return -(-self.nbytes // self.sizes.bytes_16)
