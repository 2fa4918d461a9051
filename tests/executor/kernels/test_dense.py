"""Norms, activations and int8 products, in Triton's interpreter and in torch, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelkit.dense import close, codes, normal, poisoned, product_by_hand
from torch import Tensor

from executor.kernels import activation, early, linear, rms_norm
from executor.kernels.reference import dense as reference

DTYPES = [torch.float32, torch.float16]
few = settings(max_examples=6, deadline=None, derandomize=True)
sizes = st.integers(1, 150)

Norm = Callable[..., tuple[Tensor, Tensor]]
Product = Callable[[Tensor, Tensor, Tensor], Tensor]
norms = pytest.mark.parametrize("norm", [rms_norm.rms_norm, reference.rms_norm])
products = pytest.mark.parametrize("product", [linear.linear_int8, reference.linear_int8])


def norm_by_hand(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    rows = x.double()
    mean = (rows * rows).sum(-1, keepdim=True) / x.shape[-1]
    return rows / (mean + eps).sqrt() * weight.double()


@norms
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "hidden"), [(1, 64), (3, 2500), (17, 100)])
def test_norm(norm: Norm, dtype: torch.dtype, rows: int, hidden: int) -> None:
    x, weight = normal(rows, hidden, dtype=dtype), normal(hidden, dtype=dtype, seed=1)
    with poisoned():
        found, total = norm(x, weight, 1e-5)
    close(found, norm_by_hand(x, weight, 1e-5))
    assert torch.equal(total, x)


@norms
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_adds_the_residual_first(norm: Norm, dtype: torch.dtype) -> None:
    x, residual = (normal(5, 96, dtype=dtype, seed=seed) for seed in (0, 1))
    weight = normal(96, dtype=dtype, seed=2)
    kept = x.clone(), residual.clone()
    with poisoned():
        found, total = norm(x, weight, 1e-6, residual)
    assert torch.equal(total, (x.float() + residual.float()).to(dtype))
    close(found, norm_by_hand(total, weight, 1e-6))
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


@norms
def test_norm_of_zeros_and_of_no_rows(norm: Norm) -> None:
    weight = torch.ones(32)
    assert torch.equal(norm(torch.zeros(2, 32), weight, 1e-5)[0], torch.zeros(2, 32))
    assert norm(torch.zeros(0, 32), weight, 1e-5)[0].shape == (0, 32)


@norms
def test_norm_of_a_part_of_a_row(norm: Norm) -> None:
    """One head of a fused projection is a view whose rows lie apart."""
    part = normal(4, 3, 64, dtype=torch.float32)[:, 1]
    close(norm(part, torch.ones(64), 1e-5)[0], norm_by_hand(part, torch.ones(64), 1e-5))


@few
@given(rows=sizes, hidden=sizes)
def test_norm_of_any_size(rows: int, hidden: int) -> None:
    x, weight = normal(rows, hidden, dtype=torch.float32), torch.ones(hidden)
    with poisoned():
        close(rms_norm.rms_norm(x, weight, 1e-5)[0], norm_by_hand(x, weight, 1e-5))


def silu_by_hand(x: Tensor) -> Tensor:
    gate, up = x.double().chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def gelu_by_hand(x: Tensor) -> Tensor:
    gate, up = x.double().chunk(2, dim=-1)
    inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    return gate / 2 * (1 + torch.tanh(inner)) * up


activations = pytest.mark.parametrize(
    ("gated", "by_hand"),
    [
        (activation.silu_mul, silu_by_hand),
        (reference.silu_mul, silu_by_hand),
        (activation.gelu_mul, gelu_by_hand),
        (reference.gelu_mul, gelu_by_hand),
    ],
)


@activations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (1, 1030), (9, 100), (33, 64)])
def test_activation(
    gated: Callable[[Tensor], Tensor],
    by_hand: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    rows: int,
    n: int,
) -> None:
    x = 3 * normal(rows, 2 * n, dtype=dtype)
    with poisoned():
        close(gated(x), by_hand(x))


@activations
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_activation_of_large_values(
    gated: Callable[[Tensor], Tensor], by_hand: Callable[[Tensor], Tensor]
) -> None:
    """Far from zero the gate is open or closed, and nothing overflows."""
    x = torch.tensor([[-1e4, -50.0, 0.0, 50.0, 1e4, 1.0, 1.0, 1.0, 1.0, 1.0]])
    found = gated(x)
    assert found[0, 2] == 0
    torch.testing.assert_close(found[0, 3:], torch.tensor([50.0, 1e4]))
    assert found[0, :2].abs().max() < 1e-18
    assert gated(x[:0]).shape == (0, 5)


@few
@given(rows=sizes, n=sizes)
def test_activation_of_any_size(rows: int, n: int) -> None:
    x = normal(rows, 2 * n, dtype=torch.float32)
    with poisoned():
        close(activation.silu_mul(x), silu_by_hand(x))


@products
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 64, 512), (16, 40, 100), (30, 70, 300), (64, 10, 130), (130, 140, 70)]
)
def test_product(product: Product, dtype: torch.dtype, m: int, n: int, k: int) -> None:
    x, weight, scales = normal(m, k, dtype=dtype), codes(n, k), torch.rand(n) + 0.1
    scales /= 127 * k**0.5
    with poisoned():
        close(product(x, weight, scales), product_by_hand(x, weight, scales))


@products
def test_product_of_no_rows_and_of_one_element(product: Product) -> None:
    assert product(torch.zeros(0, 32), codes(8, 32), torch.ones(8)).shape == (0, 8)
    found = product(torch.tensor([[3.0]]), torch.tensor([[-127]], dtype=torch.int8), torch.ones(1))
    assert found.item() == -381


@products
def test_product_keeps_scales_apart(product: Product) -> None:
    """Every output has the scale of its own channel, however far apart they are."""
    scales = 10.0 ** torch.arange(-3, 5)
    found = product(torch.ones(1, 16), torch.ones(8, 16, dtype=torch.int8), scales)
    torch.testing.assert_close(found, 16 * scales[None])


@few
@given(m=st.integers(1, 70), n=st.integers(1, 80), k=st.integers(1, 600))
def test_product_of_any_size(m: int, n: int, k: int) -> None:
    x, weight, scales = normal(m, k, dtype=torch.float16), codes(n, k), torch.full((n,), 1e-3)
    with poisoned():
        found = linear.linear_int8(x, weight, scales)
    close(found, product_by_hand(x, weight, scales))


@pytest.mark.parametrize(
    ("rows", "tile_rows"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (5000, 128)]
)
def test_tile_follows_rows(rows: int, tile_rows: int) -> None:
    for tiles in linear.TILES.values():
        assert linear.choose(tiles, rows).rows == tile_rows
        assert linear.choose(tiles, rows, itemsize=4).rows == 16


@pytest.mark.parametrize(
    ("rows", "outs", "tile"),
    [
        (16, 64 * 4 * 10, (16, 64)),
        (16, 64 * 4 * 10 + 1, (16, 32)),
        (17, 64, (32, 64)),
        (256, 128 * 10, (256, 128)),
        (256, 128 * 9, (128, 128)),
        (300, 128 * 5, (256, 128)),
    ],
)
def test_tile_follows_outputs_where_they_fill_the_device(
    rows: int, outs: int, tile: tuple[int, int]
) -> None:
    """On ten multiprocessors: all tiles of few rows at once, and one large tile for each."""
    found = linear.tile_of_product(90, rows, outs, 2, 10)
    assert (found.rows, found.outs) == tile
    assert linear.tile_of_product(90, rows, outs, 4, 10) == linear.FLOAT32_TILE


@pytest.mark.parametrize(
    ("tiles", "turns", "slices"), [(128, 112, 4), (200, 112, 2), (300, 112, 1), (1, 112, 8)]
)
def test_tiles_are_shared_where_they_are_few(tiles: int, turns: int, slices: int) -> None:
    assert linear.slices_of(tiles, turns, 528) == slices
    assert linear.slices_of(tiles, 7, 528) == 1


@pytest.mark.parametrize("k", [8 * 128, 9 * 128, 17 * 128 + 40])
def test_programs_share_a_tile_and_leave_no_trace(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of unequal length, also one with nothing to do; twice, since counters are reused."""
    monkeypatch.setattr(linear, "LEAST_TURNS", 1)
    x, weight, scales = normal(3, k, dtype=torch.float16), codes(70, k), torch.full((70,), 1e-3)
    for _ in range(2):
        with poisoned():
            found = linear.linear_int8(x, weight, scales)
        close(found, product_by_hand(x, weight, scales))


wide = pytest.mark.parametrize("product", [linear.linear, reference.linear])


@wide
@pytest.mark.parametrize("rows", [1, 5, 16, 17, 32, 33])
@pytest.mark.parametrize(("n", "k"), [(70, 2048), (64, 1000), (300, 128), (3, 8)])
def test_product_with_weights_of_the_type_of_its_rows(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], rows: int, n: int, k: int
) -> None:
    """Whole tiles and cut ones, shared by programs and not, and more rows than any tile has."""
    x = normal(rows, k, dtype=torch.float16)
    weight = normal(n, k, dtype=torch.float16, seed=1) / k**0.5
    for _ in range(2):
        with poisoned():
            found = product(x, weight)
        assert found.dtype == torch.float16
        close(found, x.double() @ weight.double().T)


def test_a_wide_product_is_the_kernels_for_few_rows_of_16_bits_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def noted(x: torch.Tensor, weight: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        asked.append(len(x))
        return x @ weight.T

    monkeypatch.setattr(linear, "_product", noted)
    weight = normal(8, 64, dtype=torch.float16)
    for rows in (0, 1, 16, 32, 33):
        assert linear.linear(normal(rows, 64, dtype=torch.float16), weight).shape == (rows, 8)
    linear.linear(normal(1, 64, dtype=torch.float32), weight.float())
    assert asked == [1, 16, 32]
    monkeypatch.setattr(linear, "capability", lambda device: 80)
    linear.linear(normal(1, 64, dtype=torch.float16), weight)
    assert asked == [1, 16, 32]


def test_tiles_for_more_rows_are_for_few_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them run at once, or the library multiplies; as it is, it always does."""
    assert linear.wide_tile(90, 33, 4096, 132) is None
    monkeypatch.setitem(linear.NARROW, 90, linear.SHARED_TILES)
    few, many = linear.SHARED_TILES
    assert [linear.wide_tile(90, rows, 4096, 132) for rows in (33, 64, 65, 128, 129)] == [
        *(few, few, many, many, None)
    ]
    assert linear.wide_tile(90, 128, 132 * 128, 132) == many
    assert linear.wide_tile(90, 128, 132 * 128 + 1, 132) is None
    assert linear.wide_tile(90, 32, 28672, 132) == linear.WIDE[90][1]
    monkeypatch.setitem(linear.NARROW, 90, (many,))
    assert [linear.wide_tile(90, rows, 4096, 132) for rows in (64, 65)] == [None, many]


@pytest.mark.parametrize("rows", [40, 128])
def test_products_of_more_rows_and_few_outputs(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(linear.NARROW, 90, linear.SHARED_TILES)
    monkeypatch.setattr(linear.F, "linear", lambda *_: pytest.fail("the library's"))
    x, weight = normal(rows, 2048, dtype=torch.float16), normal(200, 2048, dtype=torch.float16)
    for _ in range(2):
        with poisoned():
            found = linear.linear(x, weight)
        close(found, x.double() @ weight.double().T)


def test_kernels_of_few_rows_are_launched_early_where_the_chip_can() -> None:
    assert early.is_early(90, early.MOST_ROWS)
    assert not early.is_early(90, early.MOST_ROWS + 1)
    assert not early.is_early(80, 1)
    assert early.options(early=True) == {"launch_pdl": True}
    assert early.options(early=False) == {}


def test_products_with_codes_let_the_next_kernel_begin_but_wait_for_the_last_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launches: list[dict[str, Any]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, **options: launches.append(options)

    monkeypatch.setattr(linear, "linear_kernel", Kernel())
    x = normal(3, 256, dtype=torch.float16)
    linear.linear_int8(x, codes(8, 256), torch.ones(8))
    linear.linear(x, normal(8, 256, dtype=torch.float16))
    of_codes, of_numbers = launches
    assert of_codes["EARLY"] and not of_codes["AHEAD"] and "launch_pdl" not in of_codes
    assert of_numbers["EARLY"] and of_numbers["AHEAD"] and of_numbers["launch_pdl"]


def test_tiles_of_rows_and_outputs_are_all_visited() -> None:
    """Every tile of a grid with a ragged last group is someone's, and no one else's."""
    m, n = 16 * 19, 32 * 3
    x = torch.zeros(m, 16, dtype=torch.float32)
    x[:, 0] = torch.arange(m)
    weight = torch.zeros(n, 16, dtype=torch.int8)
    weight[:, 0] = torch.arange(n)
    with poisoned():
        found = linear.linear_int8(x, weight, torch.ones(n))
    assert torch.equal(found, torch.arange(m)[:, None] * torch.arange(n)[None].float())
