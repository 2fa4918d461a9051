"""Attention of other engines: what they are given, by stand-ins that compute what theirs do."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from executor.bench import paged_peers
from executor.bench.attention import Heads
from executor.bench.paged_peers import PAGED_DECODES, PAGED_PREFILLS, VLLM_MODULES, Pages
from executor.bench.report import HANDICAPS
from executor.kv.layout import KVLayout

CPU = torch.device("cpu")
HEADS = Heads(8, KVLayout(2, 2, 16, 16, torch.float32))
SIZES = [(3, 37, 1), (1, 16, 1), (2, 40, 40), (1, 33, 33)]
"""Sequences, context and queries of each."""


def wanted(pages: Pages) -> Any:
    """By torch, each sequence for itself, its keys gathered by its table."""
    found = []
    for index, blocks in enumerate(pages.table.long()):
        keys, values = (pool[blocks].flatten(0, 1) for pool in (pages.keys, pages.values))
        query = pages.query[index * pages.queries : (index + 1) * pages.queries]
        found.append(attended(query, keys[: pages.context], values[: pages.context]))
    return torch.cat(found)


def attended(query: Any, keys: Any, values: Any) -> Any:
    """Of one sequence, [tokens, heads, D] each; the last queries of all its tokens."""
    sizes = len(query), len(keys)
    mask = torch.ones(sizes, dtype=torch.bool).tril(sizes[1] - sizes[0])
    sides = [side.transpose(0, 1)[None] for side in (query, keys, values)]
    return F.scaled_dot_product_attention(*sides, attn_mask=mask, enable_gqa=True)[0].transpose(
        0, 1
    )


def gathered(pool: Any, blocks: Any, length: int) -> Any:
    return pool[blocks.long()].flatten(0, 1)[:length]


class Vllm(ModuleType):
    """`unified_attention` of vLLM 0.33, as far as it is used."""

    def __init__(self) -> None:
        super().__init__(VLLM_MODULES[0])
        self.calls: list[dict[str, Any]] = []
        self.unified_attention = self._attention

    def _attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        out: Any,
        cu_seqlens_q: Any,
        max_seqlen_q: int,
        seqused_k: Any,
        max_seqlen_k: int,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        block_table: Any,
        softcap: float,
        q_descale: Any,
        k_descale: Any,
        v_descale: Any,
        seq_threshold_3D: int | None = None,
        num_par_softmax_segments: int | None = None,
        softmax_segm_output: Any = None,
        softmax_segm_max: Any = None,
        softmax_segm_expsum: Any = None,
        sinks: Any = None,
    ) -> None:
        assert causal and window_size == (-1, -1) and softcap == 0.0 and q_descale is None
        assert k.shape == v.shape and q.shape == out.shape and q.shape[1] % k.shape[2] == 0
        assert {cu_seqlens_q.dtype, seqused_k.dtype, block_table.dtype} == {torch.int32}
        assert max_seqlen_k == int(seqused_k.max())
        assert max_seqlen_q == int(cu_seqlens_q.diff().max())
        assert block_table.shape == (len(seqused_k), -(-max_seqlen_k // k.shape[1]))
        assert seq_threshold_3D == 128 // k.shape[2]
        shape = (seq_threshold_3D, q.shape[1], num_par_softmax_segments)
        assert softmax_segm_max.shape == softmax_segm_expsum.shape == shape
        assert softmax_segm_output.shape == (*shape, q.shape[2])
        self.calls.append({"softmax_scale": softmax_scale})
        for index, length in enumerate(seqused_k.tolist()):
            first, last = cu_seqlens_q[index : index + 2].tolist()
            sides = (gathered(pool, block_table[index], length) for pool in (k, v))
            out[first:last] = attended(q[first:last], *sides)


class Older(ModuleType):
    """The same before it took room for its segments."""

    def __init__(self, vllm: Vllm) -> None:
        super().__init__(VLLM_MODULES[1])
        self.vllm = vllm
        self.unified_attention = self._attention

    def _attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        out: Any,
        cu_seqlens_q: Any,
        max_seqlen_q: int,
        seqused_k: Any,
        max_seqlen_k: int,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        block_table: Any,
        softcap: float,
        q_descale: Any,
        k_descale: Any,
        v_descale: Any,
    ) -> None:
        for index, length in enumerate(seqused_k.tolist()):
            first, last = cu_seqlens_q[index : index + 2].tolist()
            sides = (gathered(pool, block_table[index], length) for pool in (k, v))
            out[first:last] = attended(q[first:last], *sides)


class Wrapper:
    """FlashInfer's, for decodes and for prompts."""

    prompts = False

    def __init__(self, workspace: Any, kv_layout: str, **options: Any) -> None:
        assert workspace.dtype == torch.uint8 and kv_layout == "NHD"
        assert options.pop("backend") == "fa2"
        assert options == ({} if self.prompts else {"use_tensor_cores": True})

    def plan(self, *given: Any, q_data_type: Any, kv_data_type: Any, **options: Any) -> None:
        assert options == ({"causal": True} if self.prompts else {})
        assert q_data_type == kv_data_type == torch.float32
        self.starts = given[0] if self.prompts else None
        self.bounds, self.blocks, self.last, *sizes = given[1:] if self.prompts else given
        assert {side.dtype for side in (self.bounds, self.blocks, self.last)} == {torch.int32}
        self.heads, self.kv_heads, self.head_dim, self.page = sizes

    def run(self, query: Any, pools: tuple[Any, Any]) -> Any:
        keys, values = pools
        assert keys.shape[1:] == (self.page, self.kv_heads, self.head_dim) == values.shape[1:]
        assert query.shape[1:] == (self.heads, self.head_dim)
        found = []
        for index, last in enumerate(self.last.tolist()):
            first, end = self.bounds[index : index + 2].tolist()
            length = (end - first - 1) * self.page + last
            start, stop = index, index + 1
            if self.starts is not None:
                start, stop = self.starts[index : index + 2].tolist()
            blocks = self.blocks[first:end]
            sides = (gathered(pool, blocks, length) for pool in (keys, values))
            found.append(attended(query[start:stop], *sides))
        return torch.cat(found)


class Prompts(Wrapper):
    prompts = True


def flashinfer() -> ModuleType:
    module = ModuleType("flashinfer")
    module.BatchDecodeWithPagedKVCacheWrapper = Wrapper  # type: ignore[attr-defined]
    module.BatchPrefillWithPagedKVCacheWrapper = Prompts  # type: ignore[attr-defined]
    return module


def stand_in(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Put it, and the packages above it, where an import finds them."""
    parts = module.__name__.split(".")
    for count in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(parts[count - 1]))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is installed, whatever this machine has."""
    for name in ("vllm", "flashinfer", *VLLM_MODULES):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("size", SIZES)
def test_vllm_is_given_what_its_kernel_takes(
    size: tuple[int, int, int], absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = Vllm()
    stand_in(monkeypatch, vllm)
    pages = Pages.random(HEADS, size, CPU)
    torch.testing.assert_close(paged_peers.vllm_attention(pages)(), wanted(pages))
    assert vllm.calls == [{"softmax_scale": 0.25}]


def test_an_older_vllm_is_given_what_it_knows(
    absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, Older(Vllm()))
    monkeypatch.setitem(sys.modules, VLLM_MODULES[0], None)
    pages = Pages.random(HEADS, SIZES[0], CPU)
    torch.testing.assert_close(paged_peers.vllm_attention(pages)(), wanted(pages))


@pytest.mark.parametrize("size", SIZES)
def test_flashinfer_is_given_what_its_wrappers_take(
    size: tuple[int, int, int], absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, flashinfer())
    pages = Pages.random(HEADS, size, CPU)
    torch.testing.assert_close(paged_peers.flashinfer_attention(pages)(), wanted(pages))


def test_blocks_are_scattered_and_none_is_shared() -> None:
    pages = Pages.random(HEADS, (3, 37, 1), CPU)
    blocks = pages.table.flatten().tolist()
    assert sorted(blocks) == list(range(9)) != blocks


@pytest.mark.parametrize(("peers", "length"), [(PAGED_DECODES, 40), (PAGED_PREFILLS, 20)])
def test_what_can_be_imported_is_timed_and_the_rest_says_why_not(
    peers: Any, length: int, absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, flashinfer())
    assert peers["FlashInfer"](HEADS, 2, length, CPU, 0.001).seconds > 0
    with pytest.raises(ImportError, match=r"^not importable: .*vllm"):
        peers["vLLM Triton"](HEADS, 2, length, CPU, 0.001)
    assert set(peers) <= set(HANDICAPS)


def test_a_broken_installation_is_not_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(paged_peers, "import_module", broken)
    with pytest.raises(ImportError, match=r"^not importable: libcudart.so.13: cannot open.*file$"):
        paged_peers.imported("flashinfer")
