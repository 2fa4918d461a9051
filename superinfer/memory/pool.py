"""Block accounting for one replica: device memory and the host tier, as counters."""

from __future__ import annotations

from superinfer.memory.slabs import ONE_BLOCK_SLABS, Slabs, Small


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
        """The same with cached blocks."""
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
        """The same with cached blocks."""
        return self.referenced + self.cached - (self.total - self.size)

    @property
    def small(self) -> bool:
        """True if there is any block of fewer than 16 bits."""
        return bool(self._referenced_8 + self._referenced_4 + self._cached_8 + self._cached_4)

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
    of running ones (`superinfer.mirror`), which never stand in the way of a swap-out.
    """

    __slots__ = ("cache_total", "cached", "mirrored", "total", "used")

    def __init__(self, total: int, cache_total: int = 0) -> None:
        self.total = total
        self.used = 0
        self.mirrored = 0
        self.cache_total = cache_total
        self.cached = 0

    @property
    def free(self) -> int:
        """Blocks that a swap-out could take."""
        return self.total - self.used

    @property
    def cache_free(self) -> int:
        """Blocks that copies of cached prefixes could take."""
        return self.cache_total - self.cached
