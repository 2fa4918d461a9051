"""Random streams: one per client and purpose, the same in any process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from traces.generate.distributions import Random


class Streams:
    """The streams of one client: another client, or another purpose, changes none of them."""

    def __init__(self, seed: int | None, client: str) -> None:
        self._seed_words = [] if seed is None else [seed % 2**32, seed >> 32]
        self._client = client

    def of(self, purpose: str) -> Random:
        """A fresh generator at the beginning of the purpose's stream."""
        return Random([*self._seed_words, *_words((self._client, purpose))])


def _words(names: Iterable[str]) -> list[int]:
    """Four 32-bit numbers that depend on the names alone."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 16, 4)]
