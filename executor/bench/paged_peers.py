"""Other engines' attention over pages, where it can be imported: vLLM's Triton kernel, FlashInfer.

They get what ours gets: as many sequences of as many tokens, blocks of the same size scattered at
random over a pool of 16 bits, a table to follow, and pools in turn so that no cache holds them.
Blocks lie in the order that each of them likes best. Planning (FlashInfer) is not timed, as ours is
not. Shapes are those of vLLM 0.33 and FlashInfer 0.6.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from executor.bench.attention import Heads, Peer
from executor.calibration.timing import Timing, copies_beyond_cache, time_calls

VLLM_MODULES = (
    "vllm.v1.attention.ops.triton_unified_attention",
    "vllm.attention.ops.triton_unified_attention",
)
"""Where it is, and where it was before."""
SEGMENTS = 16
LEAST_PROGRAMS = 128
"""vLLM cuts a sequence into so many segments where a launch has fewer programs than this
(`vllm/v1/attention/backends/triton_attn.py`)."""
WORKSPACE_BYTES = 128 << 20
TENSOR_CORES_FROM = 4
"""Query heads on a KV head from which FlashInfer's decode is faster on tensor cores."""


@dataclass(frozen=True, slots=True)
class Pages:
    """One layer's keys and values of sequences of one length; all tensors on the device."""

    query: Tensor
    """[sequences * queries, heads, D]; the last `queries` tokens of each sequence."""
    keys: Tensor
    """[blocks, block tokens, KV heads, D]."""
    values: Tensor
    table: Tensor
    """int32 [sequences, blocks of one]."""
    context: int
    """Tokens of each sequence."""
    queries: int

    @classmethod
    def random(
        cls, heads: Heads, size: tuple[int, int, int], device: torch.device, seed: int = 0
    ) -> Pages:
        """Of `(sequences, context, queries)`."""
        sequences, context, queries = size
        layout = heads.layout
        each = -(-context // layout.block_tokens)
        shape = (sequences * each, layout.block_tokens, layout.kv_heads, layout.head_dim)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(shape[0], generator=generator, dtype=torch.int64)
        keys, values = (torch.randn(shape, device=device, dtype=layout.dtype) for _ in range(2))
        table = order.to(torch.int32).view(sequences, each).to(device)
        query = heads.query(sequences * queries, device)
        return cls(query, keys, values, table, context, queries)

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self.table)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return int(self.keys.shape[1])

    def starts(self, step: int) -> Tensor:
        """int32 [sequences + 1]: 0, step, 2 * step…"""
        last = self.sequences * step
        return torch.arange(0, last + 1, step, dtype=torch.int32, device=self.query.device)

    def lengths(self, value: int) -> Tensor:
        """int32 [sequences], all of them `value`."""
        size, device = (self.sequences,), self.query.device
        return torch.full(size, value, dtype=torch.int32, device=device)


Attend = Callable[[], Tensor]
"""Attention of a `Pages`; gives [sequences * queries, heads, D]."""


def vllm_attention(pages: Pages) -> Attend:
    """vLLM's `unified_attention`, decodes and prompts alike."""
    attention = imported(*VLLM_MODULES).unified_attention
    out = torch.empty_like(pages.query)
    given: dict[str, Any] = {
        "q": pages.query,
        "k": pages.keys,
        "v": pages.values,
        "out": out,
        "cu_seqlens_q": pages.starts(pages.queries),
        "max_seqlen_q": pages.queries,
        "seqused_k": pages.lengths(pages.context),
        "max_seqlen_k": pages.context,
        "softmax_scale": pages.query.shape[-1] ** -0.5,
        "causal": True,
        "window_size": (-1, -1),
        "block_table": pages.table,
        "softcap": 0.0,
        **dict.fromkeys(("q_descale", "k_descale", "v_descale")),
        **_segments(pages),
    }
    takes = inspect.signature(attention).parameters
    call = partial(attention, **{name: value for name, value in given.items() if name in takes})

    def attend() -> Tensor:
        call()
        return out

    return attend


def _segments(pages: Pages) -> dict[str, Any]:
    """Room for the parts of a sequence that are computed side by side, as vLLM's backend gives it;
    versions that find it themselves take none.
    """
    _, heads, head_dim = pages.query.shape
    most = max(1, LEAST_PROGRAMS // pages.keys.shape[2])
    padded = 1 << (head_dim - 1).bit_length()
    room = partial(torch.empty, dtype=torch.float32, device=pages.query.device)
    return {
        "seq_threshold_3D": most,
        "num_par_softmax_segments": SEGMENTS,
        "softmax_segm_output": room((most, heads, SEGMENTS, padded)),
        "softmax_segm_max": room((most, heads, SEGMENTS)),
        "softmax_segm_expsum": room((most, heads, SEGMENTS)),
    }


def flashinfer_attention(pages: Pages) -> Attend:
    """FlashInfer's wrapper for decodes, or for prompts, planned once."""
    flashinfer = imported("flashinfer")
    kinds = {"q_data_type": pages.query.dtype, "kv_data_type": pages.keys.dtype}
    _, heads, head_dim = pages.query.shape
    kv_heads, each = pages.keys.shape[2], pages.table.shape[1]
    last = (pages.context - 1) % pages.block_tokens + 1
    tables = (pages.starts(each), pages.table.flatten(), pages.lengths(last))
    sizes = (heads, kv_heads, head_dim, pages.block_tokens)
    room = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=pages.query.device)
    if pages.queries == 1:
        cores = heads // kv_heads >= TENSOR_CORES_FROM
        made = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            room, "NHD", use_tensor_cores=cores, backend="fa2"
        )
        made.plan(*tables, *sizes, **kinds)
    else:
        made = flashinfer.BatchPrefillWithPagedKVCacheWrapper(room, "NHD", backend="fa2")
        made.plan(pages.starts(pages.queries), *tables, *sizes, causal=True, **kinds)
    run: Attend = partial(made.run, pages.query, (pages.keys, pages.values))
    return run


ATTENTIONS: dict[str, Callable[[Pages], Attend]] = {
    "vLLM Triton": vllm_attention,
    "FlashInfer": flashinfer_attention,
}


def imported(*names: str) -> Any:
    """The first of these modules that can be imported; ImportError in one line if none can."""
    reason = ""
    for name in names:
        try:
            return import_module(name)
        except Exception as error:  # what a broken installation raises is not for us to know
            words = str(error).splitlines() or [type(error).__name__]
            reason = reason or words[0]
    raise ImportError(f"not importable: {reason}")


def _time(attention: Callable[[Pages], Attend], prompts: bool) -> Peer:
    def peer(
        heads: Heads, batch: int, context: int, device: torch.device, budget_s: float
    ) -> Timing:
        size = (batch, context, context if prompts else 1)
        layout = heads.layout
        one = 2 * batch * context * layout.kv_heads * layout.head_dim * layout.dtype.itemsize
        count = copies_beyond_cache(one, device, 8)
        torch.empty(one, dtype=torch.uint8, device=device)  # too much is known before it is filled
        calls = [attention(Pages.random(heads, size, device, seed)) for seed in range(count)]
        for call in calls:
            call()  # compiles, and allocates what it keeps
        return time_calls(calls, device, budget_s)

    return peer


PAGED_DECODES: dict[str, Peer] = {name: _time(made, False) for name, made in ATTENTIONS.items()}
PAGED_PREFILLS: dict[str, Peer] = {name: _time(made, True) for name, made in ATTENTIONS.items()}
