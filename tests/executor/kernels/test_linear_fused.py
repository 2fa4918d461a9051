"""Products that add, norm and activate, in Triton's interpreter and in torch, against float64."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from kernelkit.dense import close, normal, poisoned
from torch import Tensor

from executor.kernels import early, linear, linear_fused
from executor.kernels.reference import dense as reference

EPS = 1e-5
DTYPES = [torch.float32, torch.float16]
kernels = pytest.mark.parametrize("kernels", [linear_fused, reference])
rows = pytest.mark.parametrize("m", [1, 5, 16, 17, 32])


@pytest.fixture(params=[1, 4])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Programs that share a sum, whether or not they have something to do."""
    monkeypatch.setattr(linear, "slices_of", lambda *_: request.param)
    return int(request.param)


def drawn(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows and weights of a product whose outputs are about 1."""
    return normal(m, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1) / k**0.5


def squares_of(x: Tensor) -> Tensor:
    """Sums of squares of tiles of 64, as the kernel leaves them; of other numbers than `x`."""
    wide = (3 * x.float()).square()
    return torch.stack([part.sum(-1) for part in wide.split(64, dim=-1)])


def normed_by_hand(x: Tensor, squares: Tensor, weight: Tensor) -> Tensor:
    scale = (squares.double().sum(0) / x.shape[1] + EPS).rsqrt()
    return (x.double() * scale[:, None]) @ weight.double().T


@kernels
@rows
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(128, 256), (70, 200)])
def test_residual_is_added(
    kernels: ModuleType, m: int, n: int, k: int, dtype: torch.dtype, slices: int
) -> None:
    """And what the next norm needs is written beside it."""
    x, weight = drawn(m, n, k, dtype)
    residual, gain = normal(m, n, dtype=dtype, seed=2), normal(n, dtype=dtype, seed=3)
    kept = residual.clone()
    with poisoned():
        found, scaled, squares = kernels.linear_add(x, weight, residual, gain)
    close(found, residual.double() + x.double() @ weight.double().T)
    close(scaled, found.double() * gain.double())
    assert squares.dtype == torch.float32
    close(squares.sum(0), found.double().square().sum(-1))
    assert torch.equal(residual, kept)


@kernels
@rows
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(128, 256), (70, 200)])
def test_rows_are_normed_behind_the_product(
    kernels: ModuleType, m: int, n: int, k: int, dtype: torch.dtype, slices: int
) -> None:
    x, weight = drawn(m, n, k, dtype)
    squares = squares_of(x)
    with poisoned():
        found = kernels.linear_normed(x, squares, EPS, weight)
    close(found, normed_by_hand(x, squares, weight))


@kernels
@rows
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(2 * 64, 256), (2 * 45, 200), (2 * 3, 64)])
def test_gate_and_up_in_one_tile(
    kernels: ModuleType, m: int, n: int, k: int, dtype: torch.dtype, slices: int
) -> None:
    x, weight = drawn(m, n, k, dtype)
    squares = squares_of(x)
    with poisoned():
        found = kernels.linear_gated(x, squares, EPS, weight)
    gate, up = normed_by_hand(x, squares, weight).chunk(2, dim=-1)
    close(found, gate / (1 + torch.exp(-gate)) * up)


def test_together_they_are_a_layer(slices: int) -> None:
    """A residual, its norm, and a product of what is normed, twice with the same bits."""
    m, hidden, inner = 5, 200, 90
    x, weight = drawn(m, hidden, 128, torch.float32)
    residual, gain = (normal(*shape, dtype=torch.float32) for shape in ((m, hidden), (hidden,)))
    wide = normal(2 * inner, hidden, dtype=torch.float32, seed=4)
    total = residual.double() + x.double() @ weight.double().T
    normed = total / (total.square().mean(-1, keepdim=True) + EPS).sqrt() * gain.double()
    gate, up = (normed @ wide.double().T).chunk(2, dim=-1)
    once = []
    for _ in range(2):
        found, scaled, squares = linear_fused.linear_add(x, weight, residual, gain)
        once.append(linear_fused.linear_gated(scaled, squares, EPS, wide))
        close(found, total)
        close(once[-1], gate / (1 + torch.exp(-gate)) * up)
    assert torch.equal(*once)


def test_only_few_rows_of_bfloat16_are_fused_where_it_is_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(rows: int, dtype: torch.dtype) -> bool:
        return linear_fused.fuses(torch.zeros(rows, 8, dtype=dtype))

    monkeypatch.setitem(linear_fused.FUSED, 90, False)
    assert not asked(1, torch.bfloat16)
    monkeypatch.setitem(linear_fused.FUSED, 90, True)
    assert asked(1, torch.bfloat16) and asked(early.MOST_ROWS, torch.bfloat16)
    assert not asked(0, torch.bfloat16) and not asked(early.MOST_ROWS + 1, torch.bfloat16)
    assert not asked(1, torch.float16) and not asked(1, torch.float32)
    monkeypatch.setattr(linear_fused, "capability", lambda device: 80)
    monkeypatch.setitem(linear_fused.FUSED, 80, True)
    assert not asked(1, torch.bfloat16)
    monkeypatch.undo()
    assert not reference.fuses(torch.zeros(1, 8, dtype=torch.bfloat16))


def test_every_form_waits_for_the_kernel_before(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[dict[str, object]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, **options: launches.append(options)

    monkeypatch.setattr(linear_fused, "fused_kernel", Kernel())
    x, weight = drawn(2, 64, 128, torch.float16)
    squares = squares_of(x)
    linear_fused.linear_add(x, weight, x[:, :64].contiguous(), weight[0, :64])
    linear_fused.linear_normed(x, squares, EPS, weight)
    linear_fused.linear_gated(x, squares, EPS, weight)
    assert len(launches) == 3
    for options in launches:
        assert options["EARLY"] and options["AHEAD"] and options["launch_pdl"]
