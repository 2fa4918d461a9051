"""The floor formulas against figures worked out apart from them."""

from __future__ import annotations

import pytest

from executor.bench.floors import (
    Ceilings,
    active_weights,
    decode_floor_s,
    prefill_floor_s,
    streamed_weights,
)
from superinfer.costs.shapes import load_shape

H200 = Ceilings(4.3e12, 790e12)
A100 = Ceilings(2.04e12, 312e12)
KIB = 1024


def test_weights_of_llama() -> None:
    """7.505 and 69.50 billion: all layers and the head, the embedding left out."""
    assert streamed_weights(load_shape("llama-3.1-8b")) == pytest.approx(7.505e9, rel=1e-3)
    assert streamed_weights(load_shape("llama-3.1-70b")) == pytest.approx(69.50e9, rel=1e-3)


@pytest.mark.parametrize(
    ("batch", "context", "kv_kib", "h200_ms", "a100_ms"),
    [
        (1, 1024, 128, 3.52, 7.42),
        (32, 1024, 128, 4.49, 9.46),
        (32, 1024, 65, 4.00, 8.43),
        (32, 1024, 40, 3.80, 8.02),
        (128, 1024, 128, 7.49, 15.8),
        (128, 1024, 40, 4.74, 9.99),
        (1, 8192, 128, 3.74, 7.88),
        (32, 8192, 128, 11.5, 24.2),
        (128, 8192, 40, 13.5, 28.4),
    ],
)
def test_decode_of_8b(
    batch: int, context: int, kv_kib: int, h200_ms: float, a100_ms: float
) -> None:
    """In bf16 with caches of 16, 8 (65 KiB a token) and 4 bits (40 KiB)."""
    shape = load_shape("llama-3.1-8b")
    for ceilings, wanted in ((H200, h200_ms), (A100, a100_ms)):
        found = decode_floor_s(shape, batch, context, kv_kib * KIB, ceilings)
        assert 1000 * found == pytest.approx(wanted, rel=6e-3)


def test_decode_of_70b_in_int8() -> None:
    """One byte per weight."""
    shape = load_shape("llama-3.1-70b")
    found = decode_floor_s(shape, 1, 1024, 320 * KIB, H200, weight_bytes=1)
    assert 1000 * found == pytest.approx(16.2, rel=6e-3)
    found = decode_floor_s(shape, 32, 8192, 100 * KIB, H200, weight_bytes=1)
    assert 1000 * found == pytest.approx(22.4, rel=6e-3)


@pytest.mark.parametrize(
    ("model", "tokens", "h200_ms", "a100_ms"),
    [
        ("llama-3.1-8b", 2048, 37.6, 95.2),
        ("llama-3.1-8b", 8192, 167, 423),
        ("llama-3.1-70b", 2048, 362, 916),
        ("llama-3.1-70b", 8192, 1531, 3877),
    ],
)
def test_prefill(model: str, tokens: int, h200_ms: float, a100_ms: float) -> None:
    """Bound by arithmetic."""
    shape = load_shape(model)
    for ceilings, wanted in ((H200, h200_ms), (A100, a100_ms)):
        assert 1000 * prefill_floor_s(shape, tokens, ceilings) == pytest.approx(wanted, rel=6e-3)


@pytest.mark.parametrize(("batch", "milliseconds"), [(1, 5.96), (8, 19.8), (32, 22.7), (128, 25.7)])
def test_mixture_reads_the_experts_it_touches(batch: int, milliseconds: float) -> None:
    """Mixtral 8x7B in bf16 at 1k: `8 * (1 - 0.75^B)` experts per layer."""
    shape = load_shape("mixtral-8x7b")
    found = decode_floor_s(shape, batch, 1024, 128 * KIB, H200)
    assert 1000 * found == pytest.approx(milliseconds, rel=1e-2)


def test_a_token_of_a_mixture_meets_few_experts() -> None:
    """Mixtral's 12.9 billion active weights, less its embedding."""
    assert active_weights(load_shape("mixtral-8x7b")) == pytest.approx(12.75e9, rel=5e-3)


def test_large_batches_are_bound_by_arithmetic() -> None:
    """Past 184 rows the products of 8B take longer than its weights on an H200."""
    shape = load_shape("llama-3.1-8b")
    times = [decode_floor_s(shape, batch, 1, 0, H200) for batch in (100, 400, 800)]
    assert times[0] == pytest.approx(streamed_weights(shape) * 2 / H200.bytes_per_s)
    assert times[2] == pytest.approx(2 * times[1])
