"""`flexgen`: step times of FlexGen, which streams what it keeps off the GPU layer by layer.

Source: FMInference/FlexLLMGen, `generation_loop_overlap_multi_batch` of flexllmgen/flex_opt.py and
experimental/cost_model.py; arXiv 2303.06865, section 4.2 (algorithm 1: the block schedule) and 4.3
(the cost model). A step computes one token of every request: layer by layer, and in each layer GPU
batch by GPU batch. One (layer, batch) is a slot, in which run side by side

* loads to the GPU: a part of the next layer's weights, the next batch's cache and activations,
  each as far as it is off the GPU;
* stores to the host: the cache and the activations of the batch before;
* reads from and writes to the disk of what is kept there;
* the computation of the batch,

and at whose end all are waited for: it takes as long as the longest. A prefill loads no cache, and
the first layer's weights before it begins. So a step takes the sum over its slots, and a block
`T_prefill + (answer - 1) * T_decode`, as in the paper.

Compute is another cost model's, asked for one GPU batch at a time. With attention on the CPU the
cache off the GPU is not loaded, and attention to it takes 4 FLOPs a value at the fitted speed of
`devices.Offloading`, one after the other with the GPU's part (as `compg` there). What is compressed
is unpacked in every slot, at the speed of the GPU's memory.

Differs or left out: `cost_model.py` adds loads to the longest of the others when it fits decodes,
and disk to host link in prefills, while the paper and this model overlap all of them; the code
loads all of a layer's weights in its first slot, the algorithm and this model a part in each;
shares are of bytes, not of whole tensors (the code puts 20 % of OPT's weights on the GPU as 8 %);
embeddings count as spread over the layers; the queries that cross for attention on the CPU, and its
loss of speed in small batches; sparse attention, pinned memory, pipelines of several GPUs. A batch
is a rectangle: rows of different length count as the longest. Times are optimistic where those of
compute are: with the nominal T4, all but one of FlexGen's published throughputs that
`tests/costs/test_flexgen.py` compares are exceeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from superinfer.costs.base import Chunk, PrefillWork, SliceLine
from superinfer.costs.capacity import LargestStep, activation_reserve_bytes
from superinfer.costs.devices import GIB, DeviceSpec, Offloading
from superinfer.costs.flexgen_placement import VALUE_BITS, Placement
from superinfer.costs.step import Origin, StepCost, steps_within
from superinfer.errors import ConfigError


class _Traffic(NamedTuple):
    """Bytes that a slot moves, all layers together."""

    weights: float
    """Of the model, in this slot."""
    loaded: float
    """Cache, wherever it is kept."""
    stored: float
    activations: float
    """Each way."""


@mypyc_attr(allow_interpreted_subclasses=True)
class FlexGenCost(StepCost):
    """Another cost model's compute, with the traffic of a placement around it. Pure."""

    def __init__(self, compute: StepCost, device: DeviceSpec, placement: Placement) -> None:
        if compute.tp != 1:
            raise ConfigError(f"flexgen runs on one GPU: run.tp expected 1, got {compute.tp}")
        if placement.compress_cache and compute.shape.kv_dtype:
            held = f"a cache of 16 bits, not the {compute.shape.kv_dtype} of the profile"
            raise ConfigError(f"scheduler.compress_cache: expected {held}")
        super().__init__(compute.shape, 1, compute.links, compute.host)
        self.compute, self.device, self.placement = compute, device, placement
        self.limits = compute.limits
        shape = compute.shape
        self._off = _with_disk(device.offloading, placement.disk_read_bytes_per_s)
        self._cache_bytes = shape.kv_bytes_per_token(1) * placement.packed_cache
        self._kv_bytes = round(self._cache_bytes)
        self._weight_bytes = shape.weight_bytes(1) * placement.packed_weights
        self._activation_bytes = shape.layers * shape.hidden * shape.dtype_bytes
        attention_flops = 4.0 * shape.heads * shape.head_dim * shape.layers
        self._cpu_key_s = attention_flops / self._off.cpu_attention_flops
        on_cpu = placement.cache.off if placement.cpu_attention else 0.0
        self._on_cpu = on_cpu
        # Unpacking reads what is packed and writes 16 bits.
        unpacked = self._weight_bytes + shape.weight_bytes(1)
        slot = unpacked / device.memory_bytes_per_s if placement.compress_weight else 0.0
        self._unpack_weights_s = slot
        unpacked = self._cache_bytes + shape.kv_bytes_per_token(1)
        gpu_keys = 1.0 - on_cpu if placement.compress_cache else 0.0
        self._unpack_key_s = gpu_keys * unpacked / device.memory_bytes_per_s

    @property
    def origin(self) -> Origin:
        """The compute model's, and the placement. Streaming was fitted by others, if at all."""
        origin, placement = self.compute.origin, self.placement
        percent = "-".join(f"{share:g}" for share in placement.percent)
        return origin._replace(
            profile=f"flexgen:{percent}/{origin.profile}",
            source=f"{origin.source}; streaming by the rules of FlexGen",
            measured=origin.measured and placement.resident,
        )

    @property
    def profile_sha256(self) -> str | None:
        """The compute model's."""
        return self.compute.profile_sha256

    @property
    def kv_bits(self) -> int:
        """4 of a packed cache, without what its groups have in common. A profile's quality was
        measured on blocks of another kind, and says nothing of these.
        """
        return VALUE_BITS if self.placement.compress_cache else self.compute.kv_bits

    def step_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        """Device seconds of one step: prefills and decodes are passes of their own."""
        seconds = self._prefill_s(chunks) if chunks else 0.0
        if decodes:
            seconds += self._decode_line(decodes, context_tokens).first_s
        return seconds

    def slice_line(
        self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
    ) -> SliceLine:
        """The line of a slice that starts with this step; one step of it with a prefill."""
        if chunks:
            return SliceLine(self.step_s(chunks, decodes, context_tokens), 0.0, 1)
        return self._decode_line(decodes, context_tokens)

    def set_link(self, bytes_per_s: float) -> None:
        """Give the link to the host another speed; stores reach it, too."""
        super().set_link(bytes_per_s)
        self._off = replace(
            self._off,
            cache_store_bytes_per_s=bytes_per_s,
            activation_store_bytes_per_s=bytes_per_s,
        )

    # -- memory ---------------------------------------------------------------------------------

    def capacity_blocks(self, block_tokens: int, gpu_memory_utilization: float = 0.9) -> int:
        """KV blocks that fit, over all tiers in the shares of the placement. ConfigError if the
        rest of a tier leaves no room. The GPU holds two layers' worth of buffers for weights.
        """
        placement, shape = self.placement, self.shape
        weights, cache = placement.weights, placement.cache
        layer = self._weight_bytes / shape.layers
        buffers = 2 * layer * weights.off + activation_reserve_bytes(shape)
        gpu_bytes = self.device.memory_bytes * gpu_memory_utilization
        tiers = (
            ("GPU", gpu_bytes, self._weight_bytes * weights.gpu + buffers, cache.gpu),
            ("CPU", placement.cpu_memory_bytes, self._weight_bytes * weights.cpu, cache.cpu),
            ("disk", placement.disk_bytes, self._weight_bytes * weights.disk, cache.disk),
        )
        tokens = inf
        for name, size, taken, share in tiers:
            room = size - taken
            if room < share * self._cache_bytes * block_tokens:
                raise ConfigError(
                    f"{shape.name} with percent {list(placement.percent)} needs "
                    f"{taken / GIB:.1f} GiB on the {name} beside the KV cache, which offers "
                    f"{size / GIB:.1f} GiB: place more elsewhere"
                )
            if share > 0:
                tokens = min(tokens, room / (share * self._cache_bytes))
        return int(tokens // block_tokens)

    def peak_bytes(self, prompt_tokens: int, answer_tokens: int) -> tuple[float, float, float]:
        """Peak bytes on GPU, CPU and disk of a full block of such requests."""
        placement, shape = self.placement, self.shape
        weights, cache, moved = placement.weights, placement.cache, placement.activations
        rows, model = placement.gpu_batch_size, self._weight_bytes
        batch = rows * (prompt_tokens + answer_tokens) * self._cache_bytes
        block = placement.num_gpu_batches * batch
        hidden = placement.places * prompt_tokens * shape.hidden * shape.dtype_bytes
        # Of what is off the GPU, one layer's is in use there while the next one's arrives.
        buffers = 2 * model / shape.layers * weights.off
        if not placement.cpu_attention:
            buffers += 2 * batch / shape.layers * cache.off
        working = activation_reserve_bytes(shape, 1, LargestStep(rows * prompt_tokens, rows))
        gpu = model * weights.gpu + block * cache.gpu + hidden * moved.gpu + buffers + working
        cpu = model * weights.cpu + block * cache.cpu + hidden * moved.cpu
        return gpu, cpu, model * weights.disk + block * cache.disk

    # -- inside ---------------------------------------------------------------------------------

    def _slots(self, rows: int) -> list[tuple[int, int]]:
        """Rows of a slot, and how many slots of a layer have so many."""
        size = self.placement.gpu_batch_size
        full, rest = divmod(rows, size)
        slots = [(size, full)] if full else []
        return [*slots, (rest, 1)] if rest else slots

    def _prefill_s(self, chunks: Sequence[PrefillWork]) -> float:
        """Every prompt padded to the longest."""
        tokens = context = 0
        for chunk in chunks:
            tokens = max(tokens, chunk.tokens)
            context = max(context, chunk.context_tokens)
        slots = self._slots(len(chunks))
        part = self._weight_bytes / sum(count for _, count in slots)
        weights = self.placement.weights
        seconds = self._first_weights_s(weights.off, weights.disk)
        for rows, count in slots:
            compute_s = self.compute.step_s([Chunk(tokens, context)] * rows, 0, 0)
            compute_s += self._unpack_weights_s
            traffic = _Traffic(
                part,
                rows * context * self._cache_bytes,
                rows * tokens * self._cache_bytes,
                rows * tokens * self._activation_bytes,
            )
            seconds += count * max(compute_s, *self._traffic_s(traffic))
        return seconds

    def _first_weights_s(self, off: float, disk: float) -> float:
        """Seconds to load the first layer's weights, for which nothing else waits."""
        layer = self._weight_bytes / self.shape.layers
        load_s = layer * off / self.links["h2d"].bytes_per_s
        return load_s + layer * disk / self._off.disk_read_bytes_per_s

    def _traffic_s(self, traffic: _Traffic) -> tuple[float, float, float, float]:
        """Seconds on the link in, the link out, and of reading and writing the disk."""
        placement, off = self.placement, self._off
        weights, cache, moved = placement.weights, placement.cache, placement.activations
        to_gpu = traffic.weights * weights.off + traffic.activations * moved.off
        if not placement.cpu_attention:
            to_gpu += traffic.loaded * cache.off
        store_s = traffic.stored * cache.off / off.cache_store_bytes_per_s
        store_s += traffic.activations * moved.off / off.activation_store_bytes_per_s
        read = traffic.weights * weights.disk + traffic.loaded * cache.disk
        return (
            to_gpu / self.links["h2d"].bytes_per_s,
            store_s,
            read / off.disk_read_bytes_per_s,
            traffic.stored * cache.disk / off.disk_write_bytes_per_s,
        )

    def _decode_line(self, decodes: int, context_tokens: int) -> SliceLine:
        """Every row padded to the longest context, which is taken to be the mean rounded up."""
        context = -(-context_tokens // decodes)
        slots = self._slots(decodes)
        part = self._weight_bytes / sum(count for _, count in slots)
        first_s = growth_s = 0.0
        steps = inf
        for rows, count in slots:
            line = self._slot_line(rows, context, part)
            first_s += count * line.first_s
            growth_s += count * line.growth_s
            steps = min(steps, line.steps)
        return SliceLine(first_s, growth_s, steps)

    def _slot_line(self, rows: int, context: int, weights: float) -> SliceLine:
        """The longest of a slot's parts, and for how many steps it stays the longest."""
        token = rows * self._cache_bytes
        hidden = rows * self._activation_bytes
        traffic = self._traffic_s(_Traffic(weights, token * (context - 1), token, hidden))
        growth = self._traffic_s(_Traffic(0.0, token, 0.0, 0.0))
        compute = self._compute_line(rows, context)
        steps = compute.steps
        parts = [(compute.first_s, compute.growth_s), *zip(traffic, growth, strict=True)]
        first_s, growth_s = max(parts)
        for part_s, part_growth_s in parts:
            gain_s = part_growth_s - growth_s
            if gain_s > _NO_GAIN * growth_s:
                steps = min(steps, steps_within(first_s - part_s, gain_s))
        return SliceLine(first_s, growth_s, steps)

    def _compute_line(self, rows: int, context: int) -> SliceLine:
        """Computing one GPU batch, attention on the CPU included."""
        line, on_cpu = self.compute.slice_line((), rows, rows * context), self._on_cpu
        first_s, growth_s = line.first_s, line.growth_s
        if on_cpu:
            alone_s = self.compute.step_s((), rows, 0)
            first_s = alone_s + (1.0 - on_cpu) * (first_s - alone_s)
            first_s += on_cpu * rows * context * self._cpu_key_s
            growth_s = (1.0 - on_cpu) * growth_s + on_cpu * rows * self._cpu_key_s
        first_s += self._unpack_weights_s + rows * context * self._unpack_key_s
        return SliceLine(first_s, growth_s + rows * self._unpack_key_s, line.steps)


def _with_disk(off: Offloading, read_bytes_per_s: float | None) -> Offloading:
    """With another speed of the disk."""
    if read_bytes_per_s is None:
        return off
    faster = read_bytes_per_s / off.disk_read_bytes_per_s
    return replace(
        off,
        disk_read_bytes_per_s=read_bytes_per_s,
        disk_write_bytes_per_s=off.disk_write_bytes_per_s * faster,
    )


_NO_GAIN: Final = 1e-12
"""Two growths that differ by less are the same, rounded differently."""
