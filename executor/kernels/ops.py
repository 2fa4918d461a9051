"""The operations of which models are made, once in Triton and once in torch.

Both sets have the same names and signatures; a model calls what `ops_for` gave it and knows no
more. Triton is imported only where it is asked for.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from executor.kv.layout import KVLayout
from executor.steps.step import DecodeItems, PrefillChunks


class Ops(Protocol):
    """What a model needs of a device. Tensors are contiguous unless it says otherwise."""

    def rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Root-mean-square norm of `x + residual` over the last dimension, computed in float32.

        `x` [rows, hidden]. Returns the normed rows and the sum, both of the type of `x`.
        """
        ...

    def largest(self, x: Tensor, out: Tensor) -> Tensor:
        """Where the largest number of each row of `x` [rows, n] is, of equal ones the first.

        Numbers of a row are contiguous. Writes and returns `out`, int64 [rows].
        """
        ...

    def rope_write(  # noqa: PLR0913, PLR0917
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        positions: Tensor,
        arena: Tensor,
        layout: KVLayout,
        layer: int,
        write_offsets: Tensor,
        write_slots: Tensor,
    ) -> None:
        """Rotate `q` in place and write the rotated `k`, and `v`, into their 16-bit blocks.

        `q` [rows, heads, D], `k` and `v` [rows, kv_heads, D], views of one fused projection (row
        stride free, the last two dimensions contiguous). `cos`, `sin` float32 [max_positions,
        D / 2] (halves rotated, as in Hugging Face's Llama); None: no rotation. `write_slots` -1
        writes nothing.
        """
        ...

    def decode_attention(
        self,
        q: Tensor,
        arena: Tensor,
        layout: KVLayout,
        layer: int,
        items: DecodeItems,
        scale: float,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attention of one query per row over its items; [rows, heads, D] like `q`.

        A row without keys gives zeros. `bias` float32 [heads, 2 * reach + 1] is added to scores,
        by the clamped distance key - query: entry `reach` is distance 0.
        """
        ...

    def prefill_attention(  # noqa: PLR0913, PLR0917
        self,
        q: Tensor,
        arena: Tensor,
        layout: KVLayout,
        layer: int,
        chunks: PrefillChunks,
        scale: float,
        bias: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """Attention of the rows of chunks over their blocks.

        `q` holds those rows alone, or all of the step's (`PrefillChunks.whole_step`).
        """
        ...

    def silu_mul(self, x: Tensor) -> Tensor:
        """`silu(gate) * up` of `x` [rows, 2 * n], gate first; [rows, n]."""
        ...

    def gelu_mul(self, x: Tensor) -> Tensor:
        """`gelu(gate) * up` in the tanh form of GELU, with the shapes of `silu_mul`."""
        ...

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x` [rows, k] times `weight` [n, k] of its type transposed; [rows, n]."""
        ...

    def linear_int8(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """`x` [rows, k] times int8 `weight` [n, k] transposed, times `scales` [n]; [rows, n]."""
        ...

    def fuses(self, x: Tensor) -> bool:
        """Whether a layer of so many rows of this type had better go by the next three.

        They are products with 16-bit weights that do a layer's norms, residuals and activation on
        the way. A norm is divided in two: `squares` float32 [parts, rows] add up to the sum of
        squares of each row, and rows come as what is normed times the weights of the norm.
        """
        ...

    def linear_add(
        self, x: Tensor, weight: Tensor, residual: Tensor, gain: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`linear` plus `residual` [rows, n], that times `gain` [n], and its `squares`."""
        ...

    def linear_normed(self, x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
        """`linear` of rows that still are to be divided by their root mean square."""
        ...

    def linear_gated(self, x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
        """`silu_mul` of `linear_normed`; [rows, n / 2]."""
        ...

    def moe(
        self,
        x: Tensor,
        weights: Tensor,
        experts: Tensor,
        gate_up: Tensor,
        down: Tensor,
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Mixture of gated-SiLU experts; [rows, hidden].

        `weights` float32 and `experts` int64 [rows, k]: who works on a row and with which share.
        `gate_up` [experts, 2 * n, hidden], `down` [experts, hidden, n]; where both are int8,
        `scales` are float32 [experts, 2 * n] and [experts, hidden], one for each row.
        """
        ...

    def requantise(
        self,
        arena: Tensor,
        layout: KVLayout,
        sources: Tensor,
        targets: Tensor,
        from_bits: int,
        to_bits: int,
    ) -> None:
        """Rewrite full blocks with fewer bits (16 to 8, 16 to 4, 8 to 4); byte offsets, int64."""
        ...

    def copy_blocks(self, arena: Tensor, sources: Tensor, targets: Tensor, nbytes: int) -> None:
        """Copy blocks of `nbytes` inside the arena; no target may be a source."""
        ...


def ops_for(device: torch.device) -> Ops:
    """Triton's operations on a GPU, torch's elsewhere."""
    if device.type == "cuda":
        from executor.kernels.triton_ops import TritonOps

        return TritonOps()
    from executor.kernels.reference import TorchOps

    return TorchOps()
