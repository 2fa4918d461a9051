"""The dense kernels as compiled, on a GPU: bfloat16 at the sizes of real models.

TRITON_INTERPRET=0 pytest -m gpu tests/executor/kernels/test_dense_gpu.py
"""

from __future__ import annotations

import pytest
import torch
from kernelkit.dense import TOLERANCE, Experts, close, codes, difference, mixture, normal

from executor.kernels import activation, copy_blocks, linear, linear_fused, moe, rms_norm, widen
from executor.kernels.reference import dense as reference
from executor.kernels.tiles import INTERPRETED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(INTERPRETED, reason="needs the compiler: set TRITON_INTERPRET=0"),
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "hidden"), [(1, 8192), (33, 130), (300, 4096), (5, 256)])
def test_norm(rows: int, hidden: int, dtype: torch.dtype) -> None:
    x, residual = (normal(rows, hidden, dtype=dtype, seed=seed).cuda() for seed in (0, 1))
    weight = normal(hidden, dtype=dtype, seed=2).cuda()
    found, total = rms_norm.rms_norm(x, weight, 1e-5, residual)
    assert torch.equal(total, (x.float() + residual.float()).to(dtype))
    close(found, reference.rms_norm(total.double(), weight.double(), 1e-5)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu_mul", "gelu_mul"])
def test_activation(name: str, dtype: torch.dtype) -> None:
    x = 3 * normal(50, 2 * 14336, dtype=dtype).cuda()
    close(getattr(activation, name)(x), getattr(reference, name)(x.double()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (1, 8192, 8192),
        (7, 1000, 330),
        (16, 512, 8192),
        (30, 4096, 4096),
        (64, 1000, 1040),
        (100, 1024, 4096),
        (300, 1000, 336),
    ],
)
def test_product(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x, weight = normal(m, k, dtype=dtype).cuda(), codes(n, k).cuda()
    scales = (torch.rand(n) + 0.1).cuda() / (127 * k**0.5)
    found = linear.linear_int8(x, weight, scales)
    close(found, reference.linear_int8(x.double(), weight, scales.double()))
    assert torch.equal(found, linear.linear_int8(x, weight, scales))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 16, 17, 32, 33])
@pytest.mark.parametrize(("n", "k"), [(6144, 4096), (4096, 14336), (1000, 336)])
def test_product_with_wide_weights(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x, weight = normal(m, k, dtype=dtype).cuda(), normal(n, k, dtype=dtype, seed=1).cuda()
    found = linear.linear(x, weight)
    close(found, reference.linear(x.double(), weight.double()))
    assert torch.equal(found, linear.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("m", "n", "k"), [(512, 8192, 8192), (700, 1000, 336)])
def test_widened_product(
    m: int, n: int, k: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece and in many."""
    x, weight = normal(m, k, dtype=dtype).cuda(), codes(n, k).cuda()
    scales = (torch.rand(n) + 0.1).cuda() / (127 * k**0.5)
    for size in (widen.PIECE_BYTES, 1 << 20):
        monkeypatch.setattr(widen, "PIECE_BYTES", size)
        found = widen.widened_product(x, weight, scales)
        close(found, reference.linear_int8(x.double(), weight, scales.double()))


@pytest.mark.parametrize("m", [1, 16, 17, 32])
def test_fused_products(m: int) -> None:
    hidden, inner, dtype = 4096, 14336, torch.bfloat16
    x, residual = (normal(m, hidden, dtype=dtype, seed=seed).cuda() for seed in (0, 1))
    weight = (normal(hidden, hidden, dtype=dtype, seed=2) / hidden**0.5).cuda()
    wide = (normal(2 * inner, hidden, dtype=dtype, seed=3) / hidden**0.5).cuda()
    gain = normal(hidden, dtype=dtype, seed=4).cuda()
    total, scaled, squares = linear_fused.linear_add(x, weight, residual, gain)
    close(total, residual.double() + x.double() @ weight.double().T)
    close(scaled, total.double() * gain.double())
    normed = reference.rms_norm(total.double(), gain.double(), 1e-5)[0]
    found = linear_fused.linear_gated(scaled, squares, 1e-5, wide)
    close(found, reference.silu_mul(normed @ wide.double().T))
    close(linear_fused.linear_normed(scaled, squares, 1e-5, wide), normed @ wide.double().T)


def by_reference(case: Experts) -> torch.Tensor:
    x, weights, experts, gate_up, down, scales = case
    if scales is None:
        gate_up, down = gate_up.double(), down.double()
    return reference.moe(x.double(), weights.double(), experts, gate_up, down, scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "per_row", "experts"),
    [(1, 2, 8), (5, 2, 8), (64, 2, 8), (300, 2, 8), (3000, 2, 8), (64, 8, 128), (700, 8, 128)],
)
@pytest.mark.parametrize("int8", [False, True])
def test_mixture(rows: int, per_row: int, experts: int, dtype: torch.dtype, int8: bool) -> None:
    case = mixture(rows, per_row, experts, 520, 264, dtype, int8=int8).on("cuda")
    found = moe.moe(*case)
    assert difference(found, by_reference(case)) <= TOLERANCE[dtype]
    assert torch.equal(found, moe.moe(*case))


def test_a_graph_follows_new_routing() -> None:
    """Nothing that is captured depends on who chose which expert."""
    case = mixture(64, 2, 8, 512, 256, torch.bfloat16).on("cuda")
    other = mixture(64, 2, 8, 512, 256, torch.bfloat16, among=[1, 5], seed=1).on("cuda")
    moe.moe(*case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = moe.moe(*case)
    case.experts.copy_(other.experts)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, moe.moe(*case))


def test_blocks_beyond_four_gibibytes() -> None:
    gib, nbytes = 1 << 30, 1310720
    arena = torch.zeros(5 * gib, dtype=torch.uint8, device="cuda")
    sources, targets = [0, 4 * gib, 2 * nbytes], [4 * gib + 3 * nbytes, 4 * nbytes, 3 * gib + 16]
    for number, source in enumerate(sources):
        arena[source : source + nbytes] = number + 1
    offsets = (torch.tensor(these, device="cuda") for these in (sources, targets))
    copy_blocks.copy_blocks(arena, *offsets, nbytes)
    for number, target in enumerate(targets):
        assert bool((arena[target : target + nbytes] == number + 1).all())
        assert not arena[target - 1]
        assert not arena[target + nbytes]
