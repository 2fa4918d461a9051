"""Step times out of a profile: measured kernels, summed.

Named smooth models of a profile:

* `linear`: `base_s + per_unit_s * x`.
* `causal_linear` (attention of prefill chunks): with chunk tokens t and earlier context c,
  `floor_s + sum(per_sequence_s + per_token_s * t + per_pair_s * (t*c + t*(t+1)/2))
  + per_key_s * max(t + c)`. Pairs are the query-key products below the diagonal; the last term is
  the longest chain of key blocks that one thread block walks.

In a step with both, attention takes `prefill + mixed decodes + idle * (rows * longest - tokens)`:
rows are the decodes and chunks, tokens those of the chunks, and longest those of the longest one.
Steps of decodes alone take `uneven * longest context - busy * mean context` more, where that is
above zero: contexts that are not split among thread blocks leave the one with the longest to go on
when the others have ended. These take longer than one mean context, as there are more of them than
fit the device at once, so `busy` is more than `uneven`; without it the two are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from superinfer.costs.base import PrefillWork, SliceLine
from superinfer.costs.coverage import (
    CHUNK_CONTEXT,
    CHUNK_TOKENS,
    CONTEXT,
    KEYS,
    MEAN_CONTEXT,
    OUTPUT_ROWS,
    SEQUENCES,
    STEP_TOKENS,
    Limits,
)
from superinfer.costs.kernels import KernelCost
from superinfer.costs.profile import HostCost, Kernel, Profile, decode_kernel
from superinfer.costs.shapes import ModelShape, canonical_name
from superinfer.costs.step import LARGE_BATCH, LONG_CONTEXT_TOKENS, NOTHING, Origin, steps_within
from superinfer.costs.tables import Curve, Grid, linear, total
from superinfer.errors import ConfigError


class PrefillModel(Protocol):
    """Prefill attention of one profile."""

    def seconds(self, chunks: Sequence[PrefillWork]) -> float:
        """Of all chunks of a step."""
        ...

    def growth(self, chunk: PrefillWork) -> tuple[float, float]:
        """More seconds for the next chunk of that size, and for how many steps that holds."""
        ...


CPU: Final = "cpu"
"""The device of a profile that the executor made of a CPU."""
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Of a value of the cache, by the `dtype` of a profile."""

_PER_LAYER = ("gemm_qkv", "gemm_o", "norm")
_PER_LAYER_OPTIONAL = (
    "gemm_gate_up",
    "gemm_down",
    "activation",
    "rope_write",
    "moe_route",
    "moe_gemm",
)
_PER_ROW = ("gemm_lm_head", "sample")
_UNEVEN = ("uneven", "busy")


@mypyc_attr(allow_interpreted_subclasses=True)
class CalibratedCost(KernelCost):
    """The cost model of one profile. Pure, with caches by token count and by batch size.

    Decode attention is read at the batch's mean context; `uneven_line` is what it takes more.
    """

    def __init__(self, profile: Profile, shape: ModelShape, host: HostCost | None = None) -> None:
        _check(profile, shape)
        shape = replace(
            shape,
            dtype_bytes=DTYPE_BYTES.get(profile.dtype, shape.dtype_bytes),
            weight_dtype=profile.weight_dtype,
            kv_dtype=profile.kv_dtype,
        )
        super().__init__(shape, profile.tp, profile.links, host or profile.host, profile.graphs)
        self.profile = profile
        self.hides_host = profile.device != CPU
        self._tokens_curve = total(self._fixed_parts())
        self._rows_curve = total(self._row_parts())
        self._decode_name = decode_kernel(profile.kv_dtype)
        self._decode = _grid(profile.kernels[self._decode_name])
        mixed = profile.kernels.get("attention_mixed_16")
        self._mixed = None if mixed is None else _grid(mixed)
        self._uneven, self._busy = (self._kernel(f"attention_{part}") for part in _UNEVEN)
        self.knows_longest = self._uneven is not None
        self._prefill = _prefill(profile.kernels["attention_prefill"], shape.layers)
        if idle := self._kernel("attention_idle"):
            self._idle_s = (idle.at(1.0) - idle.at(0.0)) * shape.layers
        self.limits = Limits.of(self._ends())

    @property
    def origin(self) -> Origin:
        """The profile, its sources and its worst held-out error."""
        profile = self.profile
        fits = [entry for name, entry in profile.fit.items() if name in profile.kernels]
        errors = [entry.get("heldout_mape") or 0.0 for entry in fits]
        return Origin(
            f"{profile.device}_{profile.model}_tp{profile.tp}",
            "; ".join(profile.sources),
            measured=True,
            family_error=max(errors, default=None),
            assumed=profile.assumed,
        )

    @property
    def profile_sha256(self) -> str | None:
        """Of the file that was read."""
        return self.profile.sha256 or None

    @property
    def quality(self) -> dict[str, dict[str, float | None]]:
        """As the profile says."""
        return self.profile.quality

    def attention_share(self, bits: int, byte_share: float) -> float:
        """As measured, in a large batch with long contexts; without a measurement by bytes."""
        kernel = self.profile.kernels.get(f"attention_decode_{bits}")
        if kernel is None:
            return super().attention_share(bits, byte_share)
        small = _grid(kernel).row(LARGE_BATCH).at(LONG_CONTEXT_TOKENS)
        return min(1.0, small / self._decode.row(LARGE_BATCH).at(LONG_CONTEXT_TOKENS))

    def requantise_s(self, nbytes: int, to_bits: int) -> float:
        """As measured; without a measurement at the rate of attention."""
        curve = self._kernel(f"requantise_{to_bits}")
        return super().requantise_s(nbytes, to_bits) if curve is None else curve.at(nbytes)

    def uneven_line(self, decodes: int, context_tokens: int, longest_tokens: int) -> SliceLine:
        """By what the longest context is above those that the device reads meanwhile."""
        if self._uneven is None or not decodes:
            return NOTHING
        held = decodes if self._graphs is None else self._graphs.held_decodes(decodes)
        slope_s = self._uneven.at(held) * self.shape.layers
        busy_s = slope_s if self._busy is None else self._busy.at(held) * self.shape.layers
        above_s = slope_s * longest_tokens - busy_s * (context_tokens / decodes)
        growth_s = slope_s - busy_s
        if above_s > 0.0:
            steps = inf if growth_s >= 0.0 else steps_within(above_s, -growth_s)
            return SliceLine(above_s, growth_s, steps)
        return NOTHING if growth_s <= 0.0 else SliceLine(0.0, 0.0, steps_within(-above_s, growth_s))

    def _fixed_s(self, tokens: int) -> float:
        return self._tokens_curve.at(tokens)

    def _rows_s(self, rows: int) -> float:
        return self._rows_curve.at(rows)

    def _decode_curve(self, decodes: int) -> Curve:
        return self._decode.row(decodes).scaled(decodes, self.shape.layers)

    def _beside_curve(self, decodes: int) -> Curve | None:
        if self._mixed is None:
            return None
        curve = self._mixed.row(decodes).scaled(decodes, self.shape.layers)
        # One launch serves decodes and chunks, and the chunks' time has it.
        launch_s = self._mixed.seconds[0][0] * self.shape.layers
        return Curve(curve.axis, tuple(y - launch_s for y in curve.seconds))

    def _prefill_s(self, chunks: Sequence[PrefillWork]) -> float:
        return self._prefill.seconds(chunks)

    def _prefill_growth(self, chunk: PrefillWork) -> tuple[float, float]:
        return self._prefill.growth(chunk)

    def _kernel(self, name: str) -> Curve | None:
        kernel = self.profile.kernels.get(name)
        return None if kernel is None else _curve(kernel)

    def _fixed_parts(self) -> list[Curve]:
        layers = self.shape.layers
        names = (*_PER_LAYER, *_PER_LAYER_OPTIONAL)
        parts = [curve.scaled(1.0, layers) for name in names if (curve := self._kernel(name))]
        if embed := self._kernel("embed"):
            parts.append(embed)
        reduce = self._kernel("all_reduce")
        if self.tp > 1 and reduce:
            # Two per layer (after attention and MLP) and one for the split embedding.
            parts.append(reduce.scaled(1.0 / self._token_bytes, 2 * layers + 1))
        return parts

    def _row_parts(self) -> list[Curve]:
        parts = [curve for name in _PER_ROW if (curve := self._kernel(name))]
        reduce = self._kernel("all_reduce")
        if self.tp > 1 and reduce:
            parts.append(reduce.scaled(1.0 / self._logit_bytes, 1.0))
        return parts

    @property
    def _token_bytes(self) -> float:
        """What an all-reduce sums up per token."""
        return self.shape.hidden * self.shape.dtype_bytes

    @property
    def _logit_bytes(self) -> float:
        """A ring gather of one row of split logits moves half the bytes of an all-reduce."""
        return self.shape.vocab * self.shape.dtype_bytes / 2

    def _ends(self) -> Iterator[tuple[str, str, float]]:
        """Quantity, kernel and the largest value measured, of everything that a step reads."""
        for name in (*_PER_LAYER, *_PER_LAYER_OPTIONAL, "embed"):
            yield STEP_TOKENS, name, self._end(name, "tokens")
        yield OUTPUT_ROWS, "gemm_lm_head", self._end("gemm_lm_head", "tokens")
        yield OUTPUT_ROWS, "sample", self._end("sample", "sequences")
        if self.tp > 1:
            reduced = self._end("all_reduce", "bytes")
            yield STEP_TOKENS, "all_reduce", reduced // self._token_bytes
            yield OUTPUT_ROWS, "all_reduce", reduced // self._logit_bytes
        decode, prefill = self._decode_name, "attention_prefill"
        yield SEQUENCES, decode, self._end(decode, "sequences")
        yield CONTEXT, decode, self._end(decode, "total_context_tokens")
        yield MEAN_CONTEXT, decode, self._end(decode, "context_tokens")
        mixed = "attention_mixed_16"
        yield SEQUENCES, mixed, self._end(mixed, "sequences")
        yield MEAN_CONTEXT, mixed, self._end(mixed, "context_tokens")
        yield KEYS, prefill, self._end(prefill, "keys")
        yield CHUNK_TOKENS, prefill, self._end(prefill, "chunk_tokens")
        yield CHUNK_CONTEXT, prefill, self._end(prefill, "context_tokens")

    def _end(self, kernel: str, axis: str) -> float:
        """Where measuring ended: as stated under `range`, else the end of the table."""
        found = self.profile.kernels.get(kernel)
        stated = self.profile.range.get(kernel, {}).get(axis)
        if found is None or not (stated or axis in found.axes):
            return inf
        return float(stated[1]) if stated else found.axes[axis][-1]


def _check(profile: Profile, shape: ModelShape) -> None:
    if canonical_name(profile.model) != canonical_name(shape.name):
        raise ConfigError(f"the profile is for {profile.model}, not for {shape.name}")
    mlp = ("moe_gemm",) if shape.experts else ("gemm_gate_up", "gemm_down")
    needed = (
        *_PER_LAYER,
        *mlp,
        "gemm_lm_head",
        "attention_prefill",
        decode_kernel(profile.kv_dtype),
    )
    reduce = ("all_reduce",) if profile.tp > 1 else ()
    missing = [name for name in (*needed, *reduce) if name not in profile.kernels]
    if missing:
        raise ConfigError(f"the profile {profile.path} lacks {', '.join(missing)}")
    if shape.routing_skew:
        raise ConfigError(
            "routing_skew is for roofline costs: a profile has the routing that was measured"
        )
    if shape.encoder_layers:
        raise ConfigError(f"{shape.name}: encoder-decoder models run with roofline costs only")


def _curve(kernel: Kernel) -> Curve:
    if kernel.model is not None:
        return linear(kernel.coefficients["base_s"], kernel.coefficients["per_unit_s"])
    (axis,) = kernel.axes.values()
    return Curve(axis, kernel.seconds or ())


def _grid(kernel: Kernel) -> Grid:
    rows, columns = kernel.axes.values()
    return Grid(rows, columns, kernel.seconds or ())


def _prefill(kernel: Kernel, layers: int) -> PrefillModel:
    if kernel.model is None:
        return _PrefillTable(_grid(kernel), layers)
    return _CausalLinear(*(value * layers for value in kernel.coefficients.values()))


class _CausalLinear:
    """The smooth model `causal_linear`."""

    def __init__(
        self,
        floor_s: float,
        per_sequence_s: float,
        per_token_s: float,
        per_pair_s: float,
        per_key_s: float,
    ) -> None:
        self._floor_s, self._per_sequence_s = floor_s, per_sequence_s
        self._per_pair_s, self._per_key_s = per_pair_s, per_key_s
        # t*c + t*(t+1)/2 = t*(c + t/2) + t/2: the last half goes with the tokens.
        self._per_token_s = per_token_s + per_pair_s / 2

    def seconds(self, chunks: Sequence[PrefillWork]) -> float:
        per_sequence_s, per_token_s = self._per_sequence_s, self._per_token_s
        per_pair_s, longest, sum_s = self._per_pair_s, 0, self._floor_s
        for chunk in chunks:
            tokens, context = chunk.tokens, chunk.context_tokens
            if tokens + context > longest:
                longest = tokens + context
            sum_s += per_sequence_s + tokens * (per_token_s + per_pair_s * (context + 0.5 * tokens))
        return sum_s + self._per_key_s * longest

    def growth(self, chunk: PrefillWork) -> tuple[float, float]:
        tokens = chunk.tokens
        return tokens * (self._per_pair_s * tokens + self._per_key_s), inf


class _PrefillTable:
    """A measured table over chunk tokens and earlier context."""

    def __init__(self, grid: Grid, layers: int) -> None:
        self._grid, self._layers = grid, layers
        self._floor_s = grid.seconds[0][0] * layers
        self._curves: dict[int, Curve] = {}

    def seconds(self, chunks: Sequence[PrefillWork]) -> float:
        # One launch serves all chunks, so the cost of launching counts once.
        sum_s = -self._floor_s * (len(chunks) - 1)
        for chunk in chunks:
            sum_s += self._curve(chunk.tokens).at(chunk.context_tokens)
        return sum_s

    def growth(self, chunk: PrefillWork) -> tuple[float, float]:
        slope_s, end = self._curve(chunk.tokens).piece(chunk.context_tokens)
        return slope_s * chunk.tokens, steps_within(end - chunk.context_tokens, chunk.tokens)

    def _curve(self, tokens: int) -> Curve:
        curve = self._curves.get(tokens)
        if curve is None:
            curve = self._curves[tokens] = self._grid.row(tokens).scaled(1.0, self._layers)
        return curve
