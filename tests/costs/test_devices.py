"""Device presets."""

from __future__ import annotations

import pytest

from superinfer.costs.devices import DEVICES, Link, load_device
from superinfer.errors import ConfigError


def test_presets_are_sane() -> None:
    expected = {"a100-40g", "a100-80g", "h100", "h200", "l40s", "gh200", "gh200-144g", "mi300x"}
    expected |= {"t4-16g", "rtxpro6000"}
    assert set(DEVICES) == expected
    for spec in DEVICES.values():
        assert 15e9 < spec.memory_bytes < 210e9
        # FLOPs per byte at the roofline's ridge.
        assert 100 < spec.bf16_flops / spec.memory_bytes_per_s < 450
        assert spec.h2d.bytes_per_s <= spec.memory_bytes_per_s


def test_a100_and_gh200_figures() -> None:
    assert DEVICES["a100-80g"].memory_bytes == 85899345920
    assert DEVICES["a100-80g"].memory_bytes_per_s == 2.039e12
    assert DEVICES["gh200"].h2d.bytes_per_s == 450e9


def test_small_copies_reach_a_twentieth_of_nvlink_c2c() -> None:
    """Of 450 GB/s nominal: pieces of 32 KiB a twentieth, of 2 MiB more than half."""
    for link in (DEVICES["gh200-144g"].h2d, DEVICES["gh200-144g"].d2h):
        reached = {size: size / link.seconds(size, 1) / 450e9 for size in (2**15, 2**21)}
        assert reached[2**15] == pytest.approx(0.05, rel=0.1)
        assert reached[2**21] > 0.5


def test_the_t4_has_the_constants_that_flexgen_fitted() -> None:
    t4 = DEVICES["t4-16g"]
    assert t4.h2d.bytes_per_s == pytest.approx(12.89 * 2**30)
    assert t4.offloading.cache_store_bytes_per_s == pytest.approx(0.97 * 2**30)
    assert t4.offloading.disk_read_bytes_per_s == pytest.approx(0.473 * 2**30)


def test_elsewhere_stores_take_the_plain_link() -> None:
    found, t4 = DEVICES["h100"].offloading, DEVICES["t4-16g"].offloading
    assert found.cache_store_bytes_per_s == found.activation_store_bytes_per_s == 50e9
    assert found.disk_read_bytes_per_s == t4.disk_read_bytes_per_s


def test_names_are_case_insensitive() -> None:
    assert load_device("A100-80G-SXM") is DEVICES["a100-80g"]
    with pytest.raises(ConfigError, match=r"did you mean 'a100-40g' or 'a100-80g'\?"):
        load_device("a100")
    with pytest.raises(ConfigError, match="unknown device 'tpu'; known: a100-40g"):
        load_device("tpu")


def test_link_seconds() -> None:
    assert Link(1e9, 1e-6).seconds(2_000_000, 3) == pytest.approx(0.002003)
