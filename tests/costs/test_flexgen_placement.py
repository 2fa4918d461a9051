"""FlexGen's shares: what is allowed, and which are found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from superinfer.costs import FlexGenCost, HostCost, Placement, build_cost, load_device
from superinfer.costs.flexgen_placement import shares_of
from superinfer.costs.flexgen_search import SAFETY, best_placement, block_s
from superinfer.errors import ConfigError

T4 = load_device("t4-16g")
OPT = build_cost("opt-30b", "t4-16g", costs="roofline", host=HostCost(0.0, 0.0))
SOUGHT = Placement(
    32, 2, *shares_of((100, 0, 100, 0, 100, 0)), cpu_attention=True, search_tokens=(256, 16)
)


def test_six_percentages() -> None:
    weights, cache, activations = shares_of((20, 80, 10, 60, 0, 100))
    assert (weights.gpu, weights.cpu, weights.disk) == pytest.approx((0.2, 0.8, 0.0))
    assert (cache.off, cache.disk) == pytest.approx((0.9, 0.3))
    assert (activations.off, activations.disk) == (1.0, 0.0)
    assert replace(SOUGHT, cache=cache).percent == (100, 0, 10, 60, 100, 0)


def test_what_is_packed_or_elsewhere_is_not_resident() -> None:
    """Unpacking takes time on the GPU, too."""
    assert SOUGHT.resident
    assert not SOUGHT.with_percent((100, 0, 90, 10, 100, 0)).resident
    assert not replace(SOUGHT, compress_weight=True).resident
    assert not replace(SOUGHT, compress_cache=True).resident


@pytest.mark.parametrize(
    ("percent", "words"),
    [
        ((100, 0, 100), "expected 6 numbers .* got 3"),
        ((60, 50, 100, 0, 100, 0), "of weights from 0 to 100 together, got 60 and 50"),
        ((100, 0, -1, 5, 100, 0), "of cache from 0 to 100 together, got -1 and 5"),
        ((100, 0, 100, 0, float("nan"), 0), "of activations from 0 to 100 together"),
        ((100, 0, 100, 0, 50, 0), "activations on GPU and CPU alone .* got 50 and 0"),
    ],
)
def test_percentages_that_cannot_be(percent: Sequence[float], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"scheduler\.percent: .*{words}"):
        shares_of(percent)


def test_a_block_by_hand() -> None:
    """64 prompts of 256 tokens, 32 at a time, and answers of 16. Where weights, or caches that the
    GPU attends to, are elsewhere, it holds those of one of 48 layers and of the next.
    """
    weights, batch = OPT.shape.weight_bytes(1), 32 * 272 * OPT.shape.kv_bytes_per_token(1)
    hidden = 64 * 256 * OPT.shape.hidden * 2

    def peaks(*percent: float, cpu_attention: bool = False) -> tuple[float, float, float]:
        placement = replace(SOUGHT.with_percent(percent), cpu_attention=cpu_attention)
        return FlexGenCost(OPT, T4, placement).peak_bytes(256, 16)

    whole, none, _ = peaks(100, 0, 100, 0, 100, 0)
    assert none == 0.0
    gpu, cpu, disk = peaks(20, 50, 50, 40, 0, 100)
    assert cpu == pytest.approx(0.5 * weights + 0.4 * 2 * batch + hidden)
    assert disk == pytest.approx(0.3 * weights + 0.1 * 2 * batch)
    gone, buffers = 0.8 * weights + 0.5 * 2 * batch + hidden, 2 / 48 * 0.8 * weights
    assert peaks(20, 50, 50, 40, 0, 100, cpu_attention=True)[0] == pytest.approx(
        whole - gone + buffers
    )
    assert gpu == pytest.approx(whole - gone + buffers + 2 / 48 * 0.5 * batch)


def usage(placement: Placement) -> list[float]:
    """Share of each memory that a block takes."""
    sizes = (T4.memory_bytes, placement.cpu_memory_bytes, placement.disk_bytes)
    peaks = FlexGenCost(OPT, T4, placement).peak_bytes(256, 16)
    return [peak / size for peak, size in zip(peaks, sizes, strict=True)]


def seconds(placement: Placement) -> float:
    return block_s(FlexGenCost(OPT, T4, placement), 256, 16)


@pytest.mark.parametrize(
    "wanted",
    [SOUGHT, replace(SOUGHT, cpu_attention=False), replace(SOUGHT, cpu_memory_bytes=60 * 2**30)],
)
def test_the_fastest_that_fits_is_found(wanted: Placement) -> None:
    """Against every placement in steps of 20 %."""
    found = best_placement(OPT, T4, wanted)
    assert found.search_tokens is None and max(usage(found)) <= SAFETY
    grid = [(gpu, cpu) for gpu in range(0, 101, 20) for cpu in range(0, 101 - gpu, 20)]
    tried = 0
    for weights, cache in itertools.product(grid, grid):
        for moved in ((0, 100), (100, 0)):
            other = wanted.with_percent((*weights, *cache, *moved))
            if max(usage(other)) <= SAFETY:
                tried += 1
                assert seconds(found) <= seconds(other)
    assert tried > 50


def test_less_memory_moves_it_down() -> None:
    found = best_placement(OPT, T4, SOUGHT)
    assert found.weights.disk == found.cache.disk == 0.0 < found.weights.off
    poor = best_placement(OPT, T4, replace(SOUGHT, cpu_memory_bytes=60 * 2**30))
    assert poor.weights.disk + poor.cache.disk > 0.0
    assert seconds(poor) > seconds(found)


def test_a_small_model_stays_on_a_large_gpu() -> None:
    compute, device = build_cost("llama-3.1-8b", "a100-80g"), load_device("a100-80g")
    found = best_placement(compute, device, replace(SOUGHT, gpu_batch_size=4))
    assert found.percent == (100, 0, 100, 0, 100, 0)


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match="nothing fits t4-16g with opt-30b, 64 requests of 256"):
        best_placement(OPT, T4, replace(SOUGHT, cpu_memory_bytes=1e9, disk_bytes=1e9))


def test_given_shares_are_left_alone() -> None:
    given = replace(SOUGHT, search_tokens=None)
    assert best_placement(OPT, T4, given) is given
