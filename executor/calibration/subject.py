"""What is calibrated: a model on a device, and how far its measurements go."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from executor.calibration.bench import Bench
from executor.calibration.grids import CPU, GPU, Grids
from executor.device import find_device
from executor.kernels.ops import ops_for
from executor.kv.layout import KVLayout
from executor.models.config import read_config
from executor.session import KERNEL_BLOCKS, ModelOptions, source_of
from executor.steps.items import ItemBudget
from superinfer.costs.shapes import ModelShape
from superinfer.errors import ConfigError

LEAST_MODEL_LEN = 64
"""Shorter contexts leave the grids without a second point."""
CPU_ROUNDS, ROUND_MINUTES = 5, 0.2
"""Of everything at the most, and what one takes at the least."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to calibrate."""

    model: str
    device: str
    loading: ModelOptions
    minutes: float = 10.0
    block_tokens: int = 32
    max_model_len: int = 0
    max_sequences: int = 0
    """Sequences of a step at the most; 0: 256 on a GPU, 64 on a CPU."""
    kv_blocks: int = 0
    grids: Grids | None = None
    clock: str = "wall"


@dataclass(slots=True)
class Subject:
    """The model as calibration sees it."""

    wish: Wish
    device: torch.device
    shape: ModelShape
    layout: KVLayout
    biased: frozenset[str] = frozenset()
    """Projections with biases (`ModelConfig.biased`)."""

    @classmethod
    def of(cls, wish: Wish) -> Subject:
        """Without loading weights; raises ConfigError for what cannot be calibrated."""
        device = find_device(wish.device, "--device").torch
        config = read_config(source_of(wish.model))[0]
        shape = config.shape
        if shape.encoder_layers:
            raise ConfigError(f"{shape.name}: the cost model has no encoder-decoder models")
        if wish.block_tokens not in KERNEL_BLOCKS:
            raise ConfigError(
                f"block_tokens: expected one of {KERNEL_BLOCKS}, found {wish.block_tokens}"
            )
        longest = wish.max_model_len or shape.max_model_len
        if not LEAST_MODEL_LEN <= longest <= shape.max_model_len:
            limits = f"{LEAST_MODEL_LEN} to {shape.max_model_len}"
            raise ConfigError(f"max_model_len: expected {limits}, found {longest}")
        dtype = wish.loading.torch_dtype(device)
        shape = replace(shape, dtype_bytes=dtype.itemsize)
        layout = KVLayout(shape.layers, shape.kv_heads, shape.head_dim, wish.block_tokens, dtype)
        return cls(wish, device, shape, layout, config.biased)

    @property
    def gpu(self) -> bool:
        """True on a GPU."""
        return bool(self.device.type == "cuda")

    @property
    def max_model_len(self) -> int:
        """Longest context."""
        return self.wish.max_model_len or self.shape.max_model_len

    @property
    def sequences(self) -> int:
        """Most sequences of a step."""
        return self.wish.max_sequences or (256 if self.gpu else 64)

    def grids(self) -> Grids:
        """Where to measure. On a CPU no further than the session can go, which saves much time."""
        wish = self.wish
        asked = (wish.grids or (GPU if self.gpu else CPU)).within(self.max_model_len)
        if self.gpu:
            return asked
        room = wish.kv_blocks * wish.block_tokens or asked.most_context
        return asked.holding(self.sequences, room)

    @property
    def rounds(self) -> int:
        """How often all is measured, with other things in between. The speed of a CPU changes while
        it is measured, and the median of the rounds knows more of it than one of them.
        """
        return 1 if self.gpu else max(1, min(CPU_ROUNDS, int(self.wish.minutes / ROUND_MINUTES)))

    def bench(self) -> Bench:
        """The kernels' setting."""
        return Bench(
            self.shape,
            self.layout,
            ops_for(self.device),
            self.device,
            self.grids(),
            ItemBudget.of(self.layout, self.device),
            int8=self.wish.loading.int8,
            biased=self.biased,
            point_s=0.03 if self.wish.minutes < 4 else 0.06,
        )
