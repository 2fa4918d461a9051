"""FlexGen's slots: each takes as long as the longest of what runs side by side in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from harness import BlockingDriver, make_engine, request

from superinfer.costs import (
    DEVICES,
    Chunk,
    DeviceSpec,
    FlexGenCost,
    HostCost,
    ModelShape,
    Placement,
    SliceLine,
    StepCost,
    build_cost,
    kv_capacity_blocks,
    load_shape,
)
from superinfer.costs.base import PrefillWork
from superinfer.costs.devices import Link, Offloading
from superinfer.costs.flexgen_placement import PACKED_BITS, shares_of
from superinfer.costs.flexgen_search import block_s
from superinfer.costs.step import Origin
from superinfer.errors import ConfigError
from superinfer.schedulers.flexgen import FlexGenScheduler

LAYERS = 2
TINY = ModelShape("tiny", LAYERS, 8, 2, 2, 4, 16, 32, 64)
NO_HOST = HostCost(0.0, 0.0, "none")
ON_GPU, ON_CPU = (100, 0, 100, 0, 100, 0), (0, 100, 0, 100, 100, 0)
T4 = DEVICES["t4-16g"]


def place(batch: int, batches: int, percent: Sequence[float], **more: Any) -> Placement:
    return Placement(batch, batches, *shares_of(percent), **more)


class Steady(StepCost):
    """Compute that takes the same time in every layer, for any batch."""

    def __init__(self, layer_s: float) -> None:
        super().__init__(TINY, 1, {}, NO_HOST)
        self.layer_s = layer_s

    @property
    def origin(self) -> Origin:
        return Origin("steady", "made up", measured=False, family_error=None)

    def step_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        return LAYERS * self.layer_s

    def slice_line(
        self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
    ) -> SliceLine:
        return SliceLine(self.step_s(chunks, decodes, context_tokens), 0.0, float("inf"))


def tiny_device(load_ms: float, store_ms: float) -> DeviceSpec:
    """Half of a layer's weights take `load_ms` to load, one token's cache `store_ms` to store."""
    weights, cache = TINY.weight_bytes() / LAYERS / 2, TINY.kv_bytes_per_token() / LAYERS
    store = cache / store_ms * 1e3
    return replace(
        T4,
        h2d=Link(weights / load_ms * 1e3),
        fitted=Offloading(store, store, 1e12, 1e12, float("inf")),
    )


def block_ms(load_ms: float, compute_ms: float, store_ms: float) -> float:
    """Of two batches of one request each: a prompt of one token, and three tokens of answer.

    The CPU attends in no time, so that no cache is loaded, which would grow.
    """
    device = tiny_device(load_ms, store_ms)
    compute = Steady(compute_ms / 1e3)
    compute.links = {"h2d": device.h2d, "d2h": device.d2h}
    cost = FlexGenCost(compute, device, place(1, 2, ON_CPU, cpu_attention=True))
    scheduler = FlexGenScheduler(gpu_batch_size=1, num_gpu_batches=2)
    engine = make_engine(scheduler, 8, cost=cost, block_tokens=1)
    requests = [request(index, 1, 0, max_tokens=3) for index in range(2)]
    driver = BlockingDriver(engine, requests, [3, 3])
    driver.run()
    return driver.now * 1e3


def test_the_unit_case() -> None:
    """2 layers, 2 batches, 3 tokens: 12 slots of 3 ms, after the first layer's weights (2 x 3)."""
    assert block_ms(load_ms=3, compute_ms=2, store_ms=1) == pytest.approx(6 + 12 * 3, rel=1e-12)


@pytest.mark.parametrize(("times", "slot_ms"), [((1, 5, 2), 5), ((1, 2, 4), 4), ((2, 2, 2), 2)])
def test_the_longest_part_counts(times: tuple[float, float, float], slot_ms: float) -> None:
    load_ms = times[0]
    assert block_ms(*times) == pytest.approx(2 * load_ms + 12 * slot_ms, rel=1e-12)


# -- traffic, by hand, of OPT-30B on a T4 --------------------------------------------------------

OPT = load_shape("opt-30b")
WEIGHTS, KEY = OPT.weight_bytes(), OPT.kv_bytes_per_token()
GIB = 2**30


def opt(placement: Placement) -> StepCost:
    return build_cost("opt-30b", "t4-16g", costs="flexgen", host=NO_HOST, placement=placement)


def test_weights_are_loaded_once_for_all_batches() -> None:
    load_s = WEIGHTS / (12.89 * GIB)
    for batches in (1, 2, 4):
        cost = opt(place(4, batches, (0, 100, 100, 0, 100, 0)))
        assert cost.step_s((), 4 * batches, 40 * batches) == pytest.approx(load_s)


def test_a_prefill_begins_with_the_first_layers_weights() -> None:
    cost = opt(place(4, 1, (0, 100, 100, 0, 100, 0)))
    load_s = WEIGHTS / (12.89 * GIB)
    assert cost.step_s([Chunk(8, 0)] * 4, 0, 0) == pytest.approx(load_s * (1 + 1 / 48))


def test_cache_is_loaded_for_decodes_and_stored_from_prefills() -> None:
    cost = opt(place(8, 2, (100, 0, 25, 75, 100, 0)))
    loaded = 16 * 999 * KEY * 0.75
    assert cost.step_s((), 16, 16 * 1000) == pytest.approx(loaded / (12.89 * GIB))
    stored = 16 * 500 * KEY * 0.75
    assert cost.step_s([Chunk(500, 0)] * 16, 0, 0) == pytest.approx(stored / (0.97 * GIB))


def test_activations_cross_both_ways() -> None:
    cost = opt(place(8, 2, (100, 0, 100, 0, 0, 100)))
    compute_s = 2 * opt(place(8, 1, ON_GPU)).step_s([Chunk(500, 0)] * 8, 0, 0)
    hidden_bytes = 16 * 500 * 48 * 7168 * 2
    assert hidden_bytes / (4.82 * GIB) < compute_s
    assert cost.step_s([Chunk(500, 0)] * 16, 0, 0) == pytest.approx(compute_s)
    cost.set_link(5e8)
    assert cost.step_s([Chunk(500, 0)] * 16, 0, 0) == pytest.approx(hidden_bytes / 5e8)


def test_the_disk_is_read_beside_the_link() -> None:
    cost = opt(place(4, 1, (0, 50, 100, 0, 100, 0)))
    assert cost.step_s((), 4, 40) == pytest.approx(0.5 * WEIGHTS / (0.473 * GIB))
    faster = opt(place(4, 1, (0, 50, 100, 0, 100, 0), disk_read_bytes_per_s=2e9))
    assert faster.step_s((), 4, 40) == pytest.approx(0.5 * WEIGHTS / 2e9)
    written = opt(place(8, 1, (100, 0, 0, 0, 100, 0))).step_s([Chunk(500, 0)] * 8, 0, 0)
    assert written == pytest.approx(8 * 500 * KEY / (0.746 * GIB))


def test_attention_on_the_cpu_loads_no_cache() -> None:
    cost = opt(place(64, 1, (100, 0, 0, 100, 100, 0), cpu_attention=True))
    alone_s = opt(place(64, 1, ON_GPU)).step_s((), 64, 0 + 64)
    keys_s = 4 * 64 * 1000 * 7168 * 48 / 12.3e9
    assert cost.step_s((), 64, 64 * 1000) == pytest.approx(alone_s + keys_s, rel=1e-3)
    shared = opt(place(64, 1, (100, 0, 60, 40, 100, 0), cpu_attention=True))
    assert alone_s < shared.step_s((), 64, 64 * 1000) < 0.5 * cost.step_s((), 64, 64 * 1000)


def test_four_bits_with_a_scale_and_a_minimum_per_group() -> None:
    assert PACKED_BITS == 4.5
    plain, packed = place(4, 1, (0, 100, 0, 100, 100, 0)), {"compress_weight": True}
    both = replace(plain, compress_cache=True, **packed)
    assert opt(both).kv_bytes_per_token == KEY * 4.5 / 16
    load_s = opt(plain).step_s((), 4, 4)
    unpack_s = WEIGHTS * (1 + 4.5 / 16) / 0.32e12
    compute_s = opt(place(4, 1, ON_GPU)).step_s((), 4, 4)
    assert opt(both).step_s((), 4, 4) == pytest.approx(
        max(load_s * 4.5 / 16, compute_s + unpack_s), rel=1e-3
    )


@pytest.mark.parametrize("device", ["a100-80g", "h100"])
def test_with_everything_on_the_gpu_only_compute_counts(device: str) -> None:
    plain = build_cost("llama-3.1-8b", device)
    same = build_cost("llama-3.1-8b", device, placement=place(64, 1, ON_GPU))
    for decodes, context in ((1, 1), (17, 4000), (64, 64 * 2000)):
        padded = decodes * -(-context // decodes)
        found, line = same.slice_line((), decodes, context), plain.slice_line((), decodes, padded)
        assert (found.first_s, found.growth_s) == (line.first_s, line.growth_s)
        assert found.steps == line.steps
    assert same.step_s([Chunk(300, 0)] * 8, 0, 0) == plain.step_s([Chunk(300, 0)] * 8, 0, 0)
    assert same.origin.measured and same.origin.profile.startswith("flexgen:100-0-100-0-100-0/")
    streamed = build_cost("llama-3.1-8b", device, placement=place(64, 1, ON_CPU))
    assert not streamed.origin.measured


def test_a_batch_is_a_rectangle() -> None:
    cost = opt(place(2, 2, ON_CPU))
    ragged = [Chunk(5, 0), Chunk(80, 0), Chunk(1, 0), Chunk(7, 0)]
    assert cost.step_s(ragged, 0, 0) == cost.step_s([Chunk(80, 0)] * 4, 0, 0)
    both = cost.step_s(ragged, 3, 30)
    assert both == cost.step_s(ragged, 0, 0) + cost.step_s((), 3, 30)


# -- memory ---------------------------------------------------------------------------------------


def flexgen_cost(model: str, device: str, placement: Placement) -> FlexGenCost:
    cost = build_cost(model, device, costs="flexgen", host=NO_HOST, placement=placement)
    assert isinstance(cost, FlexGenCost)
    return cost


def test_capacity_on_the_gpu_is_that_of_everybody() -> None:
    cost = flexgen_cost("llama-3.1-8b", "a100-80g", place(4, 1, ON_GPU))
    plain = kv_capacity_blocks(load_shape("llama-3.1-8b"), DEVICES["a100-80g"], 1, 16)
    assert cost.capacity_blocks(16, 0.9) == plain


def test_capacity_is_that_of_the_tier_that_fills_first() -> None:
    wide = place(4, 1, (0, 100, 0, 100, 0, 100), cpu_memory_bytes=200 * GIB)
    tokens = flexgen_cost("opt-30b", "t4-16g", wide).capacity_blocks(1)
    assert tokens == int((200 * GIB - WEIGHTS) // KEY)
    halves = replace(wide, cache=shares_of((0, 0, 0, 50, 0, 100))[1])
    assert flexgen_cost("opt-30b", "t4-16g", halves).capacity_blocks(1) == pytest.approx(
        2 * tokens, abs=1
    )
    packed = replace(wide, compress_cache=True)
    assert flexgen_cost("opt-30b", "t4-16g", packed).capacity_blocks(1) == pytest.approx(
        tokens * 16 / 4.5, rel=1e-4
    )


@pytest.mark.parametrize(
    ("percent", "words"),
    [
        ((30, 70, 0, 100, 0, 100), r"opt-30b with percent .* on the GPU .* offers 13\.3 GiB"),
        ((0, 100, 0, 100, 0, 100), r"needs 55\.\d GiB on the CPU .* offers 50\.0 GiB"),
        ((0, 20, 0, 0, 0, 100), r"needs 44\.\d GiB on the disk .* offers 40\.0 GiB"),
    ],
)
def test_what_does_not_fit(percent: tuple[float, ...], words: str) -> None:
    tight = place(4, 1, percent, cpu_memory_bytes=50 * GIB, disk_bytes=40 * GIB)
    with pytest.raises(ConfigError, match=words):
        flexgen_cost("opt-30b", "t4-16g", tight).capacity_blocks(1)


def test_one_gpu_only() -> None:
    with pytest.raises(ConfigError, match=r"run\.tp expected 1, got 2"):
        build_cost("llama-3.1-8b", "a100-80g", 2, placement=place(4, 1, ON_GPU))
    with pytest.raises(ConfigError, match="expected a scheduler with a placement: flexgen"):
        build_cost("llama-3.1-8b", "a100-80g", costs="flexgen")


# -- published throughputs ------------------------------------------------------------------------

PUBLISHED = {
    "opt-30b": (place(48, 3, (10, 90, 0, 100, 0, 100), cpu_attention=True), 7.32, 11.86),
    "opt-175b disk": (
        place(32, 8, (0, 50, 0, 0, 0, 100), cpu_attention=True, disk_read_bytes_per_s=2e9),
        0.69,
        0.617,
    ),
    "opt-175b 4 bits": (
        place(48, 3, (0, 100, 0, 100, 0, 100), compress_weight=True, compress_cache=True),
        1.12,
        5.44,
    ),
}
"""Placement, published tokens/s at 512 + 32 tokens (benchmark/batch_size_table.md), and what the
model says. The placements are those of benchmark/flexgen/bench_suite.py, but for the weights of
OPT-30B: 20 and 80 stand there, of which the code puts 8 % on the GPU. The disk reads 2 GB/s by
section 6 of the paper."""


@pytest.mark.parametrize("which", PUBLISHED)
def test_throughputs_are_of_the_published_order(which: str) -> None:
    """Generous bounds: nominal compute is optimistic, most of all for prefills and unpacking."""
    placement, published, calculated = PUBLISHED[which]
    cost = flexgen_cost(which.split(maxsplit=1)[0], "t4-16g", placement)
    assert cost.capacity_blocks(1) >= placement.places * (512 + 32 - 1)
    tokens_per_s = placement.places * 32 / block_s(cost, 512, 32)
    assert 0.7 * published < tokens_per_s < 6 * published
    assert tokens_per_s == pytest.approx(calculated, rel=0.005)


def test_the_disk_that_flexgen_fitted_is_slower_than_that_of_the_paper() -> None:
    placement = replace(PUBLISHED["opt-175b disk"][0], disk_read_bytes_per_s=None)
    cost = flexgen_cost("opt-175b", "t4-16g", placement)
    assert 256 * 32 / block_s(cost, 512, 32) == pytest.approx(0.163, rel=0.005)


def test_what_offloading_is_for() -> None:
    """Streaming for a large block beats keeping the cache on the GPU for a small one, by far."""
    large = flexgen_cost("opt-30b", "t4-16g", PUBLISHED["opt-30b"][0])
    small = flexgen_cost("opt-30b", "t4-16g", place(8, 1, (0, 100, 100, 0, 100, 0)))
    speeds = [cost.placement.places * 32 / block_s(cost, 512, 32) for cost in (large, small)]
    assert speeds[0] > 4 * speeds[1]
