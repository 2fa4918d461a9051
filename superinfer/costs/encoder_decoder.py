"""Step times of an encoder-decoder, from nominal figures like those of `roofline`.

A prompt goes through the encoder once, in which every token sees every other one, and each decoder
layer makes cross-attention keys and values of what comes out. From then on the decoder alone runs,
one row per answer and step: attention over its own cache, attention over the cross keys and values,
and the MLP. So in a step

* chunks of prompts cost the encoder's layers and the cross projections over their tokens, and
  `t**2 + 2tc` pairs of attention for t tokens after c others: the chunks of a prompt add up to
  the square that it takes at once. A real encoder takes a prompt whole; where a scheduler cuts one,
  only the moments at which its work is done are approximate;
* every decode, and the first token of every chunk, costs one row of the decoder's layers.

Keys and values of a prompt token for the cross-attention have the bytes of those of an answer token
(`ModelShape.kv_bytes_per_token`), they are there from admission to end, and a decode reads both.
So a request's cache of prompt and answer tokens is that of the decoder, but that both parts share
one last block.
"""

from __future__ import annotations

from collections.abc import Sequence

from mypy_extensions import mypyc_attr

from superinfer.costs.base import PrefillWork
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.profile import HostCost
from superinfer.costs.roofline import RooflineCost
from superinfer.costs.shapes import ModelShape
from superinfer.costs.step import DEFAULT_HOST


@mypyc_attr(allow_interpreted_subclasses=True)
class EncoderDecoderCost(RooflineCost):
    """The roofline of an encoder-decoder model. Pure; optimistic by construction."""

    def __init__(
        self,
        shape: ModelShape,
        device: DeviceSpec,
        tp: int = 1,
        host: HostCost = DEFAULT_HOST,
    ) -> None:
        super().__init__(shape, device, tp, host)
        share = shape.encoder_layers / shape.layers
        self._encoder_pair_s = self._pair_s * share
        self._encoder_key_s = self._key_s * share

    def _fixed_s(self, tokens: int) -> float:
        """Nothing is computed for prompt and answer tokens alike."""
        return 0.0

    def _rows_s(self, rows: int) -> float:
        """The decoder's layers and the head."""
        hidden = self.shape.hidden
        layer = (
            self._attention_gemm_s(rows)
            + self._gemm_s(rows, self._query, hidden)  # queries for the cross-attention
            + self._gemm_s(rows, hidden, self._query)
            + self._mlp_s(rows)
            + 3 * self._all_reduce_s(rows)
        )
        return self.shape.layers * layer + super()._rows_s(rows)

    def _prefill_s(self, chunks: Sequence[PrefillWork]) -> float:
        tokens = 0
        for chunk in chunks:
            tokens += chunk.tokens
        cross = self._gemm_s(tokens, 2 * self._key, self.shape.hidden)
        layer = (
            self._attention_gemm_s(tokens) + self._mlp_s(tokens) + 2 * self._all_reduce_s(tokens)
        )
        gemm_s = self.shape.encoder_layers * layer + self.shape.layers * cross
        return gemm_s + max(self._prefill_bounds(chunks))

    def _prefill_bounds(self, chunks: Sequence[PrefillWork]) -> tuple[float, float]:
        """The encoder's attention, and that of the first token over the cross keys."""
        pairs = keys = 0.0
        for chunk in chunks:
            tokens, context = chunk.tokens, chunk.context_tokens
            pairs += tokens * (tokens + 2.0 * context)
            keys += tokens + context
        compute_s = self._encoder_pair_s * pairs + self._pair_s * keys
        return compute_s, (self._encoder_key_s + self._key_s) * keys

    def _bounds_growth(self, tokens: int) -> tuple[float, float]:
        compute_s = 2.0 * tokens**2 * self._encoder_pair_s + tokens * self._pair_s
        return compute_s, tokens * (self._encoder_key_s + self._key_s)
