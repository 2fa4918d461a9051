"""Step times from nominal specifications, for devices and models that nobody measured.

Each kernel takes `max(flops / F, bytes / B)` with the datasheet's F and B: the roofline of
Williams, Waterman and Patterson (Communications of the ACM 52(4), 2009), a floor. Real kernels
reach 50 to 80 % of it, so these times are optimistic. An all-reduce takes `latency + 2 (p-1)/p *
bytes / link` (ring). Experts: `experts.py`, encoder-decoders: `encoder_decoder.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from mypy_extensions import mypyc_attr

from superinfer.costs.base import PrefillWork
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.experts import experts_s, picks
from superinfer.costs.kernels import KernelCost
from superinfer.costs.profile import HostCost
from superinfer.costs.shapes import ModelShape
from superinfer.costs.step import DEFAULT_HOST, Origin, steps_within
from superinfer.costs.tables import Curve, linear


@mypyc_attr(allow_interpreted_subclasses=True)
class RooflineCost(KernelCost):
    """The cost model of a device's nominal figures. Pure; optimistic by construction."""

    def __init__(
        self,
        shape: ModelShape,
        device: DeviceSpec,
        tp: int = 1,
        host: HostCost = DEFAULT_HOST,
    ) -> None:
        super().__init__(shape, tp, {"h2d": device.h2d, "d2h": device.d2h}, host)
        self.device = device
        self._query = shape.gpu_heads(tp) * shape.head_dim
        self._key = shape.gpu_kv_heads(tp) * shape.head_dim
        self._pair_s = 4.0 * self._query * shape.layers / device.bf16_flops
        self._key_s = self._kv_bytes / device.memory_bytes_per_s
        self._picks = picks(shape.experts, shape.experts_per_token, shape.routing_skew)

    @property
    def origin(self) -> Origin:
        """Nominal figures only: nothing measured, so nothing extrapolated either."""
        source = "nominal specifications (optimistic)"
        return Origin(f"roofline:{self.device.name}", source, measured=False, family_error=None)

    def _fixed_s(self, tokens: int) -> float:
        layer = (
            self._attention_gemm_s(tokens) + self._mlp_s(tokens) + 2 * self._all_reduce_s(tokens)
        )
        return self.shape.layers * layer

    def _rows_s(self, rows: int) -> float:
        return self._gemm_s(rows, self.shape.vocab / self.tp, self.shape.hidden)

    def _decode_curve(self, decodes: int) -> Curve:
        return linear(0.0, max(self._pair_s, self._key_s))

    def _prefill_s(self, chunks: Sequence[PrefillWork]) -> float:
        return max(self._prefill_bounds(chunks))

    def _prefill_growth(self, chunk: PrefillWork) -> tuple[float, float]:
        compute_s, memory_s = self._prefill_bounds([chunk])
        by_compute_s, by_memory_s = self._bounds_growth(chunk.tokens)
        if compute_s < memory_s:
            return by_memory_s, _crossing(memory_s - compute_s, by_compute_s - by_memory_s)
        return by_compute_s, _crossing(compute_s - memory_s, by_memory_s - by_compute_s)

    def _prefill_bounds(self, chunks: Sequence[PrefillWork]) -> tuple[float, float]:
        """Seconds of attention as compute and as memory traffic bound it."""
        pairs = keys = 0.0
        for chunk in chunks:
            tokens, context = chunk.tokens, chunk.context_tokens
            pairs += tokens * (context + 0.5 * (tokens + 1))
            keys += tokens + context
        return self._pair_s * pairs, self._key_s * keys

    def _bounds_growth(self, tokens: int) -> tuple[float, float]:
        """What both gain from one chunk to the next: it has t * t more pairs, t more keys."""
        return tokens**2 * self._pair_s, tokens * self._key_s

    def _attention_gemm_s(self, tokens: int) -> float:
        """Projections of a layer's queries, keys and values, and of what attention gives."""
        hidden = self.shape.hidden
        inward_s = self._gemm_s(tokens, self._query + 2 * self._key, hidden)
        return inward_s + self._gemm_s(tokens, hidden, self._query)

    def _gemm_s(self, m: float, n: float, k: float) -> float:
        nbytes = self.shape.dtype_bytes * (m * k + k * n + m * n)
        return max(
            2.0 * m * n * k / self.device.bf16_flops,
            nbytes / self.device.memory_bytes_per_s,
        )

    def _mlp_s(self, tokens: int) -> float:
        shape = self.shape
        inner = shape.intermediate / self.tp
        up = (2 if shape.gated_mlp else 1) * inner
        if not shape.experts:
            return self._gemm_s(tokens, up, shape.hidden) + self._gemm_s(
                tokens, shape.hidden, inner
            )
        weights = (up + inner) * shape.hidden
        return experts_s(
            self._picks,
            tokens,
            2.0 * weights / self.device.bf16_flops,
            shape.dtype_bytes * weights / self.device.memory_bytes_per_s,
        )

    def _all_reduce_s(self, tokens: int) -> float:
        if self.tp == 1:
            return 0.0
        nbytes = tokens * self.shape.hidden * self.shape.dtype_bytes
        ring = 2.0 * (self.tp - 1) / self.tp * nbytes / self.device.peer_bytes_per_s
        return self.device.all_reduce_latency_s + ring


def _crossing(lead_s: float, gain_s: float) -> float:
    """Steps for which a lead holds that shrinks by `gain_s` with each."""
    return steps_within(lead_s, gain_s) if gain_s > 0 else inf
