"""Block accounting for one replica: device memory and the host tier, as counters."""

from __future__ import annotations


class BlockPool:
    """Device blocks, counted. A block is *referenced* (a live request holds it), *cached* (kept
    only because its content may be asked for again) or free. Cached blocks never stand in the way
    of a request: they are reclaimed when the space is needed.
    """

    __slots__ = ("cached", "peak_referenced", "peak_used", "referenced", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.referenced = 0
        self.cached = 0
        self.peak_referenced = 0
        self.peak_used = 0

    @property
    def available(self) -> int:
        """Blocks that a request could get now: free ones and cached ones."""
        return self.total - self.referenced

    @property
    def excess(self) -> int:
        """Cached blocks that must go because live requests need their space."""
        return self.referenced + self.cached - self.total

    def note_peak(self) -> None:
        """Update the high-water marks (called whenever the counters settle)."""
        if self.referenced > self.peak_referenced:
            self.peak_referenced = self.referenced
        used = self.referenced + self.cached
        if used > self.peak_used:
            self.peak_used = min(used, self.total)


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
