"""The sizes at which kernels are measured, on a GPU and on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Grids:
    """Where kernels are measured."""

    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    sequences: tuple[int, ...]
    contexts: tuple[int, ...]
    chunks: tuple[int, ...]
    before: tuple[int, ...]
    blocks: tuple[int, ...]
    most_context: int
    """Total context of a decode at the most."""

    def within(self, max_model_len: int) -> Grids:
        """These sizes as far as a model goes whose context is shorter."""

        def cut(axis: tuple[int, ...], most: int) -> tuple[int, ...]:
            kept = tuple(x for x in axis if x < most)
            return (*kept, most) if len(kept) < len(axis) else kept

        limit = max_model_len
        return Grids(
            self.tokens,
            self.rows,
            self.sequences,
            cut(self.contexts, limit),
            cut(self.chunks, max(2, limit // 2)),
            cut(self.before, limit - max(2, limit // 2)),
            self.blocks,
            self.most_context,
        )

    def holding(self, sequences: int, tokens: int) -> Grids:
        """These sizes for steps of so many sequences and `tokens` in the KV cache at the most."""
        fewer = tuple(x for x in self.sequences if x < sequences)
        most = min(self.most_context, tokens)
        return replace(self, sequences=(*fewer, sequences), most_context=most)


def spaced(last: int, fine_from: int) -> tuple[int, ...]:
    """Whole numbers from 1 to `last`, two to an octave and from `fine_from` on four."""
    octaves = range(last.bit_length())
    coarse = {n << k for n in (2, 3) for k in octaves} | {1}
    fine = {n << k for n in (4, 5, 6, 7) for k in octaves}
    return tuple(sorted(n for n in coarse | {m for m in fine if m > fine_from} if n <= last))


GPU = Grids(
    tokens=spaced(8192, 128),
    rows=(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256),
    sequences=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    contexts=(32, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
    chunks=(1, 16, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192),
    before=(0, 512, 1024, 2048, 4096, 8192, 16384, 32768),
    blocks=(1, 2, 4, 8, 32, 128),
    most_context=1 << 20,
)
CPU = Grids(
    tokens=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    rows=(1, 2, 4, 8, 16, 32, 64),
    sequences=(1, 2, 4, 8, 16, 32, 64),
    contexts=(32, 64, 128, 256, 512, 1024),
    chunks=(1, 16, 32, 64, 128, 256, 512),
    before=(0, 64, 128, 256, 512),
    blocks=(1, 2, 4, 8, 16),
    most_context=1 << 15,
)
