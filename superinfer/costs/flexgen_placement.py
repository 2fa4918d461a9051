"""Where FlexGen keeps weights, KV cache and activations, and how it batches: its policy.

Source: FMInference/FlexLLMGen, `Policy` and the options of flexllmgen/flex_opt.py (`--percent`,
`--gpu-batch-size`, `--num-gpu-batches`, `--cpu-cache-compute`, `--compress-weight`,
`--compress-cache`) and flexllmgen/compression.py; arXiv 2303.06865, sections 4 and 5. Compression
is asymmetric, 4 bits in groups of 64 values that share a scale and a minimum of 16 bits each:
4 + 2 * 16 / 64 = 4.5 bits a value, which is also the size on each device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

from superinfer.errors import ConfigError

GROUP_VALUES: Final = 64
VALUE_BITS: Final = 4
"""Of a packed value."""
PACKED_BITS: Final = VALUE_BITS + 2 * 16 / GROUP_VALUES
"""The same with the share of what its group has in common, two numbers of 16 bits."""
_KINDS: Final = ("weights", "cache", "activations")


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of one kind of tensor, from 0 to 1; the disk has the rest."""

    gpu: float
    cpu: float

    @property
    def off(self) -> float:
        """Not on the GPU."""
        return 1.0 - self.gpu

    @property
    def disk(self) -> float:
        """On the disk."""
        return max(0.0, 1.0 - self.gpu - self.cpu)


@dataclass(frozen=True, slots=True)
class Placement:
    """FlexGen's policy for one run."""

    gpu_batch_size: int
    num_gpu_batches: int
    weights: Shares
    cache: Shares
    activations: Shares
    cpu_attention: bool = False
    """Decodes attend to the cache that is off the GPU where it is, on the CPU."""
    compress_weight: bool = False
    compress_cache: bool = False
    cpu_memory_bytes: float = 200 * 2**30
    disk_bytes: float = 1500 * 2**30
    disk_read_bytes_per_s: float | None = None
    """None: the device's. Writes change in proportion."""
    search_tokens: tuple[int, int] | None = None
    """Prompt and answer for which the shares are yet to be searched; None: they are given."""

    @property
    def places(self) -> int:
        """Requests of a block."""
        return self.gpu_batch_size * self.num_gpu_batches

    @property
    def percent(self) -> tuple[float, ...]:
        """The six numbers of `--percent`."""
        kinds = (self.weights, self.cache, self.activations)
        return tuple(round(100 * share, 6) for kind in kinds for share in (kind.gpu, kind.cpu))

    @property
    def packed_weights(self) -> float:
        """Bytes of a weight over those that it has in 16 bits."""
        return PACKED_BITS / 16 if self.compress_weight else 1.0

    @property
    def packed_cache(self) -> float:
        """Bytes of cached values over those that they have in 16 bits."""
        return PACKED_BITS / 16 if self.compress_cache else 1.0

    @property
    def resident(self) -> bool:
        """Everything is on the GPU, in 16 bits: nothing but computing takes time."""
        shares = (self.weights, self.cache, self.activations)
        packed = self.compress_weight or self.compress_cache
        return not packed and all(kind.gpu == 1.0 for kind in shares)

    def with_percent(self, percent: Sequence[float]) -> Placement:
        """This placement with other shares; ConfigError where they cannot be."""
        weights, cache, activations = shares_of(percent)
        return replace(
            self, weights=weights, cache=cache, activations=activations, search_tokens=None
        )


def shares_of(percent: Sequence[float]) -> list[Shares]:
    """From six percentages: on GPU and on CPU, of weights, cache and activations."""
    if len(percent) != 6:
        expected = "expected 6 numbers (GPU and CPU, of weights, cache and activations)"
        raise ConfigError(f"scheduler.percent: {expected}, got {len(percent)}")
    found = []
    for kind, gpu, cpu in zip(_KINDS, percent[::2], percent[1::2], strict=True):
        if not (isfinite(gpu + cpu) and min(gpu, cpu) >= 0 and gpu + cpu <= 100):
            raise ConfigError(
                f"scheduler.percent: expected GPU and CPU shares of {kind} from 0 to 100 together, "
                f"got {gpu:g} and {cpu:g}"
            )
        found.append(Shares(gpu / 100, cpu / 100))
    if percent[4] + percent[5] != 100:
        raise ConfigError(
            "scheduler.percent: expected activations on GPU and CPU alone (100 together), "
            f"got {percent[4]:g} and {percent[5]:g}"
        )
    return found
